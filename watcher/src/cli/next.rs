//! What to type next, exactly: a command that runs as it is printed.

use std::time::Duration;

use super::args::CleanArgs;
use super::clean::service_pid;
use super::ports::Asked;
use crate::clean::Cleaned;
use crate::model::{Action, Outcome, Process, Reason, Verdict};
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::steps::identify::Rules;
use crate::steps::owner::{Owner, Owners};
use crate::steps::plan::may_be_advised;
use crate::wait::{Until, Waited};

/// The flags that say which owners match. All but one take a value.
const MATCHING: [&str; 7] =
    ["--identity", "--match-comm", "--match-argv", "--match-exe", "--match-cwd", "--match-unit", "--any"];
/// Those that say how the port is observed. They take a value.
const OBSERVING: [&str; 4] = ["--netns", "--config", "--backend", "--poll-interval"];
/// Those that say whom to spare and how to end the others: a command in the place of another is no harsher.
const ENDING: [&str; 14] = [
    "--protect",
    "--min-age",
    "--owner-record",
    "--unit",
    "--signal",
    "--until",
    "--term-timeout",
    "--kill-timeout",
    "--free-timeout",
    "--include-init",
    "--no-kill",
    "--inherited",
    "--drop-time-wait",
    "--dry-run",
];
/// Those of all these that take no value.
const BARE: [&str; 6] =
    ["--any", "--include-init", "--no-kill", "--inherited", "--drop-time-wait", "--dry-run"];

/// What would free a port, asked for as this.
pub(super) fn after_owners(owners: &Owners, asked: &Asked) -> Option<String> {
    let words = words()?;
    match owners.reason {
        Some(Reason::TimeWait) => {
            let wait = with(&simply(&words, &["wait", "free"], asked), "--plain");
            return Some(said("to wait until any server can bind it:", &wait));
        }
        Some(Reason::BoundClient) => return Some(to_wait(&words, asked)),
        _ => {}
    }
    let all = &owners.owners;
    if all.is_empty() || owners.left_out > 0 || all.iter().any(|owner| owner.exclusion.is_some()) {
        return None;
    }
    if all.iter().any(|owner| owner.process.is_none()) {
        // Another user's: root can see it.
        let again = Host::with_all_rights(words)?;
        return Some(said("to see who it is:", &again));
    }
    let clean = clean(&words, asked);
    let clean = if all.iter().all(|owner| owner.verdict == Verdict::Match) {
        clean
    } else if all.iter().all(is_endable) {
        with_any(&clean)
    } else {
        return None;
    };
    let clean = if all.iter().all(is_own) { clean } else { as_root(clean) };
    Some(said("to end it and free the port:", &clean))
}

/// What would go on after a wait for a port, asked for as this, that timed out. With `plain` it was for a bind without
/// `SO_REUSEADDR`.
pub(super) fn after_wait(until: Until, plain: bool, waited: &Waited, asked: &Asked) -> Option<String> {
    let words = words()?;
    match (waited.outcome, until, waited.reason) {
        (Outcome::Free | Outcome::Listening, ..) => None,
        (_, Until::Free, Some(Reason::TimeWait)) if plain => None,
        (_, Until::Free, Some(Reason::TimeWait)) => {
            Some(said("to take them away:", &as_root(with(&clean(&words, asked), "--drop-time-wait"))))
        }
        (_, Until::Free, _) => Some(said("to see what would free it:", &owners(&words, asked))),
        (_, Until::Listening, _) => {
            Some(said("to see what happens on it:", &simply(&words, &["watch"], asked)))
        }
    }
}

/// What would go on after a restart of a port, asked for as this, that waited for a new owner.
pub(super) fn after_restart(outcome: Outcome, asked: &Asked) -> Option<String> {
    let words = words()?;
    match outcome {
        Outcome::TimedOut => Some(said("to go on waiting:", &simply(&words, &["wait", "listening"], asked))),
        Outcome::Respawned => Some(said("to see who has it:", &owners(&words, asked))),
        _ => None,
    }
}

/// What would go on after a clean of a port, asked for as this, that left it held. Where the command line was not to run a
/// server, it is for this port alone. Root is advised to clean, and not to run a server.
pub(super) fn after_clean(
    cleaned: &Cleaned,
    asked: &Asked,
    args: &CleanArgs,
    runs_server: bool,
) -> Option<String> {
    let words = words()?;
    let cleaning = clean(&words, asked);
    let own = if runs_server { &words } else { &cleaning };
    let by_root = || Host::with_all_rights(cleaning.clone());
    // As its own user if that may end all of them.
    let ending = |change: fn(&[String]) -> Vec<String>| {
        let is_own = cleaned.owners.iter().all(|dealt| is_own(&dealt.owner));
        if is_own { change(own) } else { as_root(change(&cleaning)) }
    };
    match (cleaned.outcome, cleaned.reason) {
        (Outcome::HeldByOther, Some(Reason::TooYoung)) => {
            // Whole seconds, rounded up: it must not be tried too early.
            let seconds = old_enough_in(cleaned, args.sparing.min_age?)?.as_secs_f64().ceil();
            Some(said(&format!("old enough in {seconds} s; from then on:"), own))
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
        (Outcome::WouldClean, _) => Some(said("to do it:", &without(own, "--dry-run"))),
        (Outcome::TimedOut, Some(Reason::TimeWait)) if !args.ending.drop_time_wait => {
            to_drop(own, &cleaning, cleaned, runs_server)
        }
        (Outcome::TimedOut, Some(Reason::Interrupted)) => Some(said("to go on:", own)),
        // Only what the command line forbids is the command line's to allow.
        (Outcome::TimedOut, _) if args.ending.no_kill && has_survivor(cleaned) => {
            Some(said("to end it by force:", &without(own, "--no-kill")))
        }
        (Outcome::TimedOut, _) => Some(to_wait(&words, asked)),
        (Outcome::Respawned, _) => Some(match services_unit(cleaned) {
            Some(unit) => {
                let restart = simply(&words, &["restart"], asked);
                let restart = as_root([restart, vec!["--unit".to_owned(), unit]].concat());
                said("systemd starts it again; by that:", &restart)
            }
            None => said("to see who takes it, and when:", &simply(&words, &["watch"], asked)),
        }),
        _ => None,
    }
}

/// Whether those that keep the socket of a match may be ended with it.
fn may_end_heirs(cleaned: &Cleaned) -> bool {
    let mut left = cleaned.owners.iter().map(|dealt| &dealt.owner).filter(|owner| owner.owns_port());
    cleaned.left_out.count == 0
        && left.all(|owner| {
            owner.exclusion.is_none() && (owner.verdict == Verdict::Match || may_be_advised(owner))
        })
}

/// The system's service whose process was ended, and whose next process systemd has started since.
fn services_unit(cleaned: &Cleaned) -> Option<String> {
    let process = |action| {
        let mut of = cleaned.owners.iter().filter(move |dealt| dealt.action == action);
        of.find_map(|dealt| dealt.owner.process.as_ref())
    };
    let (old, new) = (process(Action::Killed)?, process(Action::Spared)?);
    let unit = new.unit.clone().filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@"))?;
    let is_systemds = new.parent.as_ref().is_some_and(|parent| parent.pid == 1);
    (is_systemds && old.unit.as_ref() == Some(&unit)).then_some(unit)
}

/// What takes connections in TIME_WAIT away, which takes all rights, by which no server is to be run.
fn to_drop(own: &[String], clean: &[String], cleaned: &Cleaned, runs_server: bool) -> Option<String> {
    let is_held = cleaned.owners.iter().any(|dealt| dealt.action == Action::WouldKill);
    let what = if is_held { "to end it and take them away:" } else { "to take them away:" };
    match Host::with_all_rights(with(clean, "--drop-time-wait")) {
        None => Some(said(what, &with(own, "--drop-time-wait"))),
        // A server would be ended, and none begun.
        Some(_) if is_held && runs_server => None,
        Some(by_root) => Some(said(what, &by_root)),
    }
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

/// The command line with a flag that takes no value, once. What such flags ask for, the agent does not do.
fn with(words: &[String], flag: &str) -> Vec<String> {
    let mut words = without(words, flag);
    let own = &words[..end_of_own(&words)];
    if let Some(at) = own.windows(2).position(|pair| pair[0] == "--agent" && pair[1] == "only") {
        words.drain(at..at + 2);
    }
    words.retain(|word| word != "--agent=only");
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

/// A clean of this very port, with all flags that it has as well.
fn clean(words: &[String], asked: &Asked) -> Vec<String> {
    let mut clean = on_port(words, &["clean"], asked, &[&OBSERVING, &MATCHING, &ENDING]);
    // sudo(8) leaves the environment out.
    if let Some(pid) = service_pid() {
        clean.extend(["--protect".to_owned(), pid.to_string()]);
    }
    clean
}

fn owners(words: &[String], asked: &Asked) -> Vec<String> {
    on_port(words, &["owners"], asked, &[&OBSERVING, &MATCHING])
}

/// Another command on this port, which judges nobody.
fn simply(words: &[String], command: &[&str], asked: &Asked) -> Vec<String> {
    on_port(words, command, asked, &[&OBSERVING])
}

fn on_port(words: &[String], command: &[&str], asked: &Asked, kept: &[&[&str]]) -> Vec<String> {
    let mut out: Vec<String> = words.iter().take(1).cloned().collect();
    out.extend(command.iter().map(ToString::to_string));
    out.push(asked.to_string());
    out.extend(parted(words, kept).0);
    out
}

/// This program's own words: those of these flags with their values, and all others.
fn parted(words: &[String], flags: &[&[&str]]) -> (Vec<String>, Vec<String>) {
    let (mut of_these, mut others) = (Vec::new(), Vec::new());
    let mut own = words[..end_of_own(words)].iter();
    while let Some(word) = own.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if !flags.iter().any(|flags| flags.contains(&flag)) {
            others.push(word.clone());
            continue;
        }
        of_these.push(word.clone());
        if flag == word && !BARE.contains(&flag) {
            of_these.extend(own.next().cloned());
        }
    }
    (of_these, others)
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
    let (_, mut kept) = parted(words, &[&MATCHING]);
    kept.push("--any".to_owned());
    kept.extend_from_slice(&words[end_of_own(words)..]);
    kept
}

fn said(what: &str, words: &[String]) -> String {
    let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "));
    format!("{what}  {command}")
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Parser as _};

    use super::*;
    use crate::cli::args::{Arguments, EndingArgs, Sparing};
    use crate::model::Port;

    #[test]
    fn another_command_keeps_what_it_can_take() {
        let asked = Asked { port: Port::tcp(1), at: vec![[127, 0, 0, 1].into()] };
        let given = split(
            "g exec 1 2 --match-exe /x --netns=/n --protect 9 --no-kill --listen-timeout 1s -- c --config y",
        );
        let cleaning = "g clean 127.0.0.1:1 --match-exe /x --netns=/n --protect 9 --no-kill";
        assert_eq!(clean(&given, &asked), split(cleaning));
        assert_eq!(owners(&given, &asked), split("g owners 127.0.0.1:1 --match-exe /x --netns=/n"));
        assert_eq!(simply(&given, &["wait", "free"], &asked), split("g wait free 127.0.0.1:1 --netns=/n"));
    }

    fn split(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn whatever_was_given_what_is_advised_is_understood() {
        let values = [
            ("--identity", "x"),
            ("--match-comm", "x"),
            ("--match-cwd", "/"),
            ("--match-unit", "x"),
            ("--netns", "/n"),
            ("--config", "/c"),
            ("--backend", "poll"),
            ("--poll-interval", "1s"),
            ("--protect", "9"),
            ("--min-age", "1m"),
            ("--owner-record", "auto"),
            ("--unit", "x"),
            ("--signal", "INT"),
            ("--until", "released"),
            ("--term-timeout", "1s"),
            ("--kill-timeout", "1s"),
            ("--free-timeout", "1s"),
            ("--agent", "only"),
        ];
        let mut given = split("g clean 1");
        for (flag, value) in values {
            given.extend([flag.to_owned(), value.to_owned()]);
        }
        given.extend(BARE.iter().filter(|&&flag| flag != "--any").map(|flag| (*flag).to_owned()));
        let asked = Port::tcp(1).into();
        let cleaning = clean(&given, &asked);
        for advised in [
            given.clone(),
            cleaning.clone(),
            with_any(&cleaning),
            with_any(&given),
            with(&given, "--inherited"),
            without(&given, "--no-kill"),
            owners(&given, &asked),
            simply(&given, &["watch"], &asked),
            simply(&given, &["restart"], &asked),
            with(&simply(&given, &["wait", "free"], &asked), "--plain"),
        ] {
            assert!(Arguments::try_parse_from(&advised).is_ok(), "{advised:?}");
        }
    }

    #[test]
    fn no_flag_that_spares_or_softens_is_forgotten() {
        let command = EndingArgs::augment_args(Sparing::augment_args(clap::Command::new("clean")));
        for argument in command.get_arguments() {
            let flag = format!("--{}", argument.get_long().unwrap());
            assert!(ENDING.contains(&flag.as_str()), "{flag}");
            assert_eq!(BARE.contains(&flag.as_str()), !argument.get_action().takes_values(), "{flag}");
        }
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
