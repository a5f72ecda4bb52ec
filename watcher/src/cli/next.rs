//! What to type next, exactly: a command that runs as it is printed.

use std::time::Duration;

use super::args::CleanArgs;
use super::ports::Asked;
use crate::clean::Cleaned;
use crate::model::{Action, Outcome, Process, Reason, Verdict};
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::restart::Restarted;
use crate::steps::identify::Rules;
use crate::steps::owner::{Owner, Owners};
use crate::steps::plan::may_be_advised;
use crate::wait::{Until, Waited};

/// The flags that say which owners match. All but one take a value.
const MATCHING: [&str; 7] =
    ["--identity", "--match-comm", "--match-argv", "--match-exe", "--match-cwd", "--match-unit", "--any"];

/// What would free a port, asked for as this.
pub(super) fn after_owners(owners: &Owners, asked: &Asked) -> Option<String> {
    let words = words()?;
    match owners.reason {
        Some(Reason::TimeWait) => return Some(to_drop(&only(&words, "clean", asked), asked)),
        Some(Reason::BoundClient) => return Some(to_wait(&words, asked)),
        _ => {}
    }
    if owners.left_out > 0 {
        return None;
    }
    to_free(&words, &owners.owners.iter().collect::<Vec<_>>(), asked)
}

/// What would end all these owners of a port.
fn to_free(words: &[String], all: &[&Owner], asked: &Asked) -> Option<String> {
    if all.is_empty() || all.iter().any(|owner| owner.exclusion.is_some()) {
        return None;
    }
    if all.iter().any(|owner| owner.process.is_none()) {
        // Another user's: root can see it.
        let again = Host::with_all_rights(words.to_vec())?;
        return Some(said("to see who it is:", &again));
    }
    let clean = only(words, "clean", asked);
    let clean = if all.iter().all(|owner| owner.verdict == Verdict::Match) {
        clean
    } else if all.iter().all(|owner| is_endable(owner)) {
        with_any(&clean)
    } else {
        return None;
    };
    let clean = if all.iter().all(|owner| is_own(owner)) { clean } else { as_root(clean) };
    Some(said("to end it and free the port:", &clean))
}

/// What would go on after a wait for a port, asked for as this, that timed out.
pub(super) fn after_wait(until: Until, waited: &Waited, asked: &Asked) -> Option<String> {
    let words = words()?;
    match (waited.outcome, until) {
        (Outcome::Free | Outcome::Listening, _) => None,
        (_, Until::Free) if waited.reason == Some(Reason::TimeWait) => {
            Some(to_drop(&only(&words, "clean", asked), asked))
        }
        (_, Until::Free) => to_free(&words, &waited.owner.iter().collect::<Vec<_>>(), asked),
        (_, Until::Listening) => Some(said("to see what happens on it:", &simply(&words, &["watch"], asked))),
    }
}

/// What would go on after a restart of a port, asked for as this, once its command was run.
pub(super) fn after_restart(restarted: &Restarted, asked: &Asked) -> Option<String> {
    let words = words()?;
    let runs = restarted.command.as_ref().is_some_and(|command| command.running.is_some());
    match restarted.cleaned.outcome {
        Outcome::TimedOut if runs => {
            Some(said("to go on waiting:", &simply(&words, &["wait", "listening"], asked)))
        }
        Outcome::Respawned => Some(said("to see who has it:", &only(&words, "owners", asked))),
        _ => None,
    }
}

/// What would go on after a clean of a port, asked for as this, that left it held. The command line is the one that this
/// process was given, except that root is advised to clean and not to run a server.
pub(super) fn after_clean(cleaned: &Cleaned, asked: &Asked, args: &CleanArgs) -> Option<String> {
    let words = words()?;
    let by_root = || Host::with_all_rights(only(&words, "clean", asked));
    // As its own user if that may end all of them; root is not advised to run a server.
    let ending = |change: fn(&[String]) -> Vec<String>| {
        let is_own = cleaned.owners.iter().all(|dealt| is_own(&dealt.owner));
        if is_own { change(&words) } else { as_root(change(&only(&words, "clean", asked))) }
    };
    match (cleaned.outcome, cleaned.reason) {
        (Outcome::HeldByOther, Some(Reason::TooYoung)) => {
            // Whole seconds, rounded up: it must not be tried too early.
            let seconds = old_enough_in(cleaned, args.sparing.min_age?)?.as_secs_f64().ceil();
            Some(said(&format!("old enough in {seconds} s; from then on:"), &words))
        }
        (Outcome::HeldByOther, Some(Reason::Inherited)) => {
            let may_end_all = !args.sparing.inherited && may_end_heirs(cleaned);
            may_end_all.then(|| said("to end all who hold it:", &ending(|words| with(words, "--inherited"))))
        }
        (Outcome::HeldByOther, Some(Reason::BoundClient)) | (Outcome::Unknown, Some(Reason::InFlight)) => {
            Some(to_wait(&words, asked))
        }
        (Outcome::HeldByOther, _) if !args.matching.any && endable(cleaned).is_some() => {
            Some(said("to end it all the same:", &ending(with_any)))
        }
        (Outcome::NotPermitted, _) => Some(said("with the rights to end it:", &by_root()?)),
        (Outcome::Unknown, _) if cleaned.owners.iter().any(|dealt| dealt.owner.process.is_none()) => {
            Some(said("with the rights to see its owner:", &by_root()?))
        }
        (Outcome::WouldClean, _) => Some(said("to do it:", &without(&words, "--dry-run"))),
        (Outcome::TimedOut, Some(Reason::TimeWait)) if !args.ending.drop_time_wait => {
            Some(to_drop(&words, asked))
        }
        (Outcome::TimedOut, Some(Reason::Interrupted)) => Some(said("to go on:", &words)),
        // Only what the command line forbids is the command line's to allow.
        (Outcome::TimedOut, _) if args.ending.no_kill && has_survivor(cleaned) => {
            Some(said("to end it by force:", &without(&words, "--no-kill")))
        }
        (Outcome::TimedOut, _) => Some(to_wait(&words, asked)),
        (Outcome::Respawned, _) => Some(match new_owners_unit(cleaned) {
            Some(unit) => {
                let restart = [only(&words, "restart", asked), vec!["--unit".to_owned(), unit]].concat();
                said("its service manager starts it again; by that:", &restart)
            }
            None => said("to see who takes it, and when:", &simply(&words, &["watch"], asked)),
        }),
        _ => None,
    }
}

/// Whether those that keep the socket of a match may be ended with it.
fn may_end_heirs(cleaned: &Cleaned) -> bool {
    let mut left = cleaned.owners.iter().map(|dealt| &dealt.owner).filter(|owner| owner.owns_port());
    left.all(|owner| owner.exclusion.is_none() && (owner.verdict == Verdict::Match || may_be_advised(owner)))
}

/// The service of the process that has taken the port.
fn new_owners_unit(cleaned: &Cleaned) -> Option<String> {
    let new = cleaned.owners.iter().find(|dealt| dealt.action == Action::Spared)?;
    let unit = new.owner.process.as_ref()?.unit.clone()?;
    unit.ends_with(".service").then_some(unit)
}

/// This command line, so that connections in TIME_WAIT are taken away. That takes all rights, by which no server is to be run.
fn to_drop(words: &[String], asked: &Asked) -> String {
    let dropping = |words: &[String]| with(words, "--drop-time-wait");
    let by_root = Host::with_all_rights(dropping(&only(words, "clean", asked)));
    said("to take them away:", &by_root.unwrap_or_else(|| dropping(words)))
}

fn to_wait(words: &[String], asked: &Asked) -> String {
    said("to wait until it is free:", &simply(words, &["wait", "free"], asked))
}

/// The command line with all rights, or as it is where this user has them, or the system has no command for that.
fn as_root(words: Vec<String>) -> Vec<String> {
    Host::with_all_rights(words.clone()).unwrap_or(words)
}

fn has_survivor(cleaned: &Cleaned) -> bool {
    cleaned.owners.iter().any(|dealt| dealt.action == Action::Survived)
}

/// How long until the last of those that are too young is old enough.
fn old_enough_in(cleaned: &Cleaned, min_age: Duration) -> Option<Duration> {
    let owners = cleaned.owners.iter().map(|dealt| &dealt.owner);
    let young =
        owners.filter(|owner| owner.spared_for == Some(Reason::TooYoung) || owner.verdict == Verdict::Match);
    young.filter_map(|owner| Some(min_age.saturating_sub(owner.process.as_ref()?.age()))).max()
}

/// The command line with a flag that takes no value, once.
fn with(words: &[String], flag: &str) -> Vec<String> {
    let mut words = without(words, flag);
    words.insert(end_of_own(&words), flag.to_owned());
    words
}

/// The command line without a flag that takes no value.
fn without(words: &[String], flag: &str) -> Vec<String> {
    let (own, commands) = words.split_at(end_of_own(words));
    own.iter().filter(|&word| word != flag).chain(commands).cloned().collect()
}

/// The command line of this process; `None` where it is no text, which could not be printed as it is.
fn words() -> Option<Vec<String>> {
    std::env::args_os().map(|word| word.into_string().ok()).collect()
}

/// Where the flags of this program end.
fn end_of_own(words: &[String]) -> usize {
    words.iter().position(|word| word == "--").unwrap_or(words.len())
}

/// Flags that stay in a command that is advised in the place of another, each with its value.
const KEPT: [&str; 3] = ["--netns", "--config", "--backend"];

/// Another command that judges owners, on this very port, with those of the flags that it has as well.
fn only(words: &[String], command: &str, asked: &Asked) -> Vec<String> {
    on_port(words, &[command], asked, |flag| KEPT.contains(&flag) || MATCHING.contains(&flag))
}

/// The same for one that judges nobody.
fn simply(words: &[String], command: &[&str], asked: &Asked) -> Vec<String> {
    on_port(words, command, asked, |flag| KEPT.contains(&flag))
}

fn on_port(words: &[String], command: &[&str], asked: &Asked, keeps: impl Fn(&str) -> bool) -> Vec<String> {
    let mut out: Vec<String> = words.iter().take(1).cloned().collect();
    out.extend(command.iter().map(ToString::to_string));
    out.push(asked.to_string());
    let mut own = words[..end_of_own(words)].iter().skip(1);
    while let Some(word) = own.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if keeps(flag) {
            out.push(word.clone());
            if flag == word && word != "--any" {
                out.extend(own.next().cloned());
            }
        }
    }
    out
}

/// The processes that keep the port and match no rule, if they could be ended all the same and nobody else keeps it.
pub(super) fn endable(cleaned: &Cleaned) -> Option<Vec<&Owner>> {
    let left: Vec<&Owner> = cleaned
        .owners
        .iter()
        .filter(|dealt| dealt.action == Action::Spared)
        .map(|dealt| &dealt.owner)
        .collect();
    let all = !left.is_empty() && cleaned.left_out.count == 0 && left.iter().all(|owner| is_endable(owner));
    (cleaned.outcome == Outcome::HeldByOther && all).then_some(left)
}

/// Whether an owner could be ended under the rule set `any`.
fn is_endable(owner: &Owner) -> bool {
    let judged = |process: &Process| Rules::any().judge(process).verdict == Verdict::Match;
    owner.owns_port()
        && owner.exclusion.is_none()
        && owner.spared_for.is_none()
        && owner.verdict != Verdict::Unclassified
        && owner.process.as_ref().is_some_and(judged)
}

fn is_own(owner: &Owner) -> bool {
    owner.process.as_ref().and_then(|process| process.uid) == Host::caller()
}

/// The same command line with `--any` in the place of all that says which owners match.
fn with_any(words: &[String]) -> Vec<String> {
    let end = end_of_own(words);
    let mut kept = Vec::new();
    let mut rest = words[..end].iter();
    while let Some(word) = rest.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if !MATCHING.contains(&flag) {
            kept.push(word.clone());
        } else if flag == word && flag != "--any" {
            rest.next();
        }
    }
    kept.push("--any".to_owned());
    kept.extend_from_slice(&words[end..]);
    kept
}

fn said(what: &str, words: &[String]) -> String {
    let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "));
    format!("{what}  {command}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Port;

    #[test]
    fn another_command_keeps_what_it_can_take() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let asked = Asked { port: Port::tcp(1), at: vec![[127, 0, 0, 1].into()] };
        let given = words("g exec 1 2 --match-exe /x --netns=/n --term-timeout 1s -- c --config y");
        assert_eq!(only(&given, "clean", &asked), words("g clean 127.0.0.1:1 --match-exe /x --netns=/n"));
        assert_eq!(simply(&given, &["wait", "free"], &asked), words("g wait free 127.0.0.1:1 --netns=/n"));
    }

    #[test]
    fn a_flag_is_left_out_of_gatewatchs_own_words_alone() {
        let words: Vec<String> = ["g", "exec", "--no-kill", "--", "c", "--no-kill"].map(str::to_owned).into();
        assert_eq!(without(&words, "--no-kill"), ["g", "exec", "--", "c", "--no-kill"]);
    }

    #[test]
    fn any_takes_the_place_of_what_says_which_owners_match() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (given, expected) in [
            ("g clean 1", "g clean 1 --any"),
            ("g clean --identity x 1 --match-comm=y", "g clean 1 --any"),
            ("g exec 1 --match-argv a -- c --any", "g exec 1 --any -- c --any"),
        ] {
            assert_eq!(with_any(&words(given)), words(expected));
        }
    }
}
