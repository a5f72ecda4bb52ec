//! What to type next, exactly: a command that runs as it is printed.

use std::time::Duration;

use super::args::CleanArgs;
use super::ports::Asked;
use crate::clean::Cleaned;
use crate::model::{Action, Outcome, Process, Reason, Verdict};
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::steps::identify::Rules;
use crate::steps::owner::{Owner, Owners};

/// The flags that say which owners match. All but one take a value.
const MATCHING: [&str; 7] =
    ["--identity", "--match-comm", "--match-argv", "--match-exe", "--match-cwd", "--match-unit", "--any"];

/// What would free a port that has owners, asked for as this.
pub(super) fn after_owners(owners: &Owners, asked: &Asked) -> Option<String> {
    let words = words()?;
    let all = &owners.owners;
    if all.is_empty() || owners.left_out > 0 || all.iter().any(|owner| owner.exclusion.is_some()) {
        return None;
    }
    if all.iter().any(|owner| owner.process.is_none()) {
        // Another user's: root can see it.
        let again = Host::with_all_rights(words)?;
        return Some(said("to see who it is:", &again));
    }
    let clean = only(&words, "clean", asked);
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

/// What would go on after a clean of a port, asked for as this, that left it held. The command line is the one that this
/// process was given, except that root is advised to clean and not to run a server.
pub(super) fn after_clean(cleaned: &Cleaned, asked: &Asked, args: &CleanArgs) -> Option<String> {
    let words = words()?;
    let by_root = || Host::with_all_rights(only(&words, "clean", asked));
    match cleaned.outcome {
        Outcome::HeldByOther if cleaned.reason == Some(Reason::TooYoung) => {
            // Whole seconds, rounded up: it must not be tried too early.
            let seconds = old_enough_in(cleaned, args.sparing.min_age?)?.as_secs_f64().ceil();
            Some(said(&format!("old enough in {seconds} s; from then on:"), &words))
        }
        Outcome::HeldByOther if !args.matching.any && endable(cleaned).is_some() => {
            if cleaned.owners.iter().all(|dealt| is_own(&dealt.owner)) {
                return Some(said("to end it all the same:", &with_any(&words)));
            }
            Some(said("to end it all the same:", &as_root(with_any(&only(&words, "clean", asked)))))
        }
        Outcome::NotPermitted => Some(said("with the rights to end it:", &by_root()?)),
        Outcome::Unknown if cleaned.owners.iter().any(|dealt| dealt.owner.process.is_none()) => {
            Some(said("with the rights to see its owner:", &by_root()?))
        }
        Outcome::WouldClean => Some(said("to do it:", &without(&words, "--dry-run"))),
        // Only what the command line forbids is the command line's to allow.
        Outcome::TimedOut if args.ending.no_kill && has_survivor(cleaned) => {
            Some(said("to end it by force:", &without(&words, "--no-kill")))
        }
        _ => None,
    }
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
const KEPT: [&str; 9] = [
    "--identity",
    "--match-comm",
    "--match-argv",
    "--match-exe",
    "--match-cwd",
    "--match-unit",
    "--netns",
    "--config",
    "--backend",
];

/// Another command on this very port, with those of the flags that it has as well.
fn only(words: &[String], command: &str, asked: &Asked) -> Vec<String> {
    let mut out: Vec<String> = words.iter().take(1).cloned().collect();
    out.extend([command.to_owned(), asked.to_string()]);
    let mut own = words[..end_of_own(words)].iter().skip(1);
    while let Some(word) = own.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if word == "--any" {
            out.push(word.clone());
        } else if KEPT.contains(&flag) {
            out.push(word.clone());
            if flag == word {
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
