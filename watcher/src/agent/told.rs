//! What the log is told of a clean: one line that names who asked, whom it ended, why, how, and how long that took. The same
//! stands in fields, by which the journal can be searched.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use tracing::{info, warn};

use crate::clean::Cleaned;
use crate::model::{Action, Outcome};
use crate::steps::end::OwnerOutcome;

/// How many owners a line names.
pub(super) const NAMED: usize = 16;
/// How much of a command line a line has room for, in characters: a process chooses its own.
const LONGEST: usize = 200;

/// Tells the log. `requester` is the caller's pid and user.
pub(super) fn tell(cleaned: &Cleaned, requester: (u32, u32), dry_run: bool) {
    let (requester_pid, requester_uid) = requester;
    let (port, outcome) = (cleaned.port.number, cleaned.outcome.name());
    let protocol: &str = cleaned.port.protocol.into();
    let killed: Vec<&OwnerOutcome> =
        cleaned.owners.iter().filter(|dealt| dealt.action == Action::Killed).collect();
    // The journal's fields are of the first that was ended; nearly always there is one.
    let first = killed.first();
    let pid = first.and_then(|dealt| dealt.owner.pid);
    let process = first.and_then(|dealt| dealt.owner.process.as_ref());
    let comm = process.map(|process| printable(&process.comm));
    let unit = process.and_then(|process| process.unit.as_deref()).map(printable);
    let signal = first.and_then(|dealt| dealt.ended_by.as_deref());
    let pids: Vec<String> =
        killed.iter().filter_map(|dealt| dealt.owner.pid).take(NAMED).map(|pid| pid.to_string()).collect();
    let (comm, unit) = (comm.as_deref(), unit.as_deref());
    let (pids, elapsed_us) = (pids.join(" "), u64::try_from(cleaned.elapsed.as_micros()).unwrap_or(u64::MAX));
    let sentence = sentence(cleaned, requester, dry_run);
    macro_rules! tell {
        ($level:ident) => {
            $level!(
                port,
                protocol,
                outcome,
                requester_pid,
                requester_uid,
                dry_run,
                elapsed_us,
                pid,
                pids,
                comm,
                unit,
                signal,
                "{sentence}"
            )
        };
    }
    match cleaned.outcome {
        Outcome::Free | Outcome::Cleaned | Outcome::WouldClean => tell!(info),
        _ => tell!(warn),
    }
}

fn sentence(cleaned: &Cleaned, (pid, uid): (u32, u32), dry_run: bool) -> String {
    let (port, outcome) = (cleaned.port, cleaned.outcome.name());
    let asked = if dry_run { "a dry run" } else { "a clean" };
    let mut text = format!(
        "{asked} of port {port} for user {uid} (pid {pid}): {outcome} after {}",
        time(cleaned.elapsed)
    );
    for dealt in cleaned.owners.iter().take(NAMED) {
        text.push_str("; ");
        describe(dealt, &mut text);
    }
    if let Some(more) = cleaned.owners.len().checked_sub(NAMED).filter(|&more| more > 0) {
        let _ = write!(text, "; and {more} more");
    }
    text
}

fn describe(dealt: &OwnerOutcome, text: &mut String) {
    let owner = &dealt.owner;
    let _ = write!(text, "{} ", dealt.action.name());
    match (owner.pid, &owner.process) {
        (Some(pid), Some(process)) => {
            let _ = write!(text, "{} (pid {pid}", printable(&process.comm));
            if let Some(unit) = &process.unit {
                let _ = write!(text, ", unit {}", printable(unit));
            }
            text.push(')');
            if let Some(argv) = &process.argv {
                let _ = write!(text, " `{}`", command_line(argv));
            }
        }
        (Some(pid), None) => {
            let _ = write!(text, "pid {pid}");
        }
        (None, _) => text.push_str("a process that can't be seen"),
    }
    let _ = write!(text, ", because {}", printable(&owner.why));
    if let Some(signal) = &dealt.ended_by {
        let _ = write!(text, "; by {signal}");
    }
    if let Some(after) = dealt.ended_after {
        let _ = write!(text, " after {}", time(after));
    }
}

/// A command line on one line, as much of it as there is room for.
fn command_line(argv: &[String]) -> String {
    let mut line = String::new();
    for word in argv {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&printable(word));
        if let Some((end, _)) = line.char_indices().nth(LONGEST) {
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}

/// A text whose control characters are escaped, so that nobody can forge a line of the log, or command a terminal.
fn printable(text: &str) -> Cow<'_, str> {
    // Those that turn the direction of a text around are as bad.
    let turns =
        |char| matches!(char, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_bad = |char: char| char.is_control() || turns(char);
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let escaped = |char: char| {
        if is_bad(char) { char.escape_unicode().to_string() } else { char.to_string() }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Three digits are enough.
fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.3} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.3} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_one_line_and_is_cut() {
        let argv = ["a\nWARN forged", "\u{1b}[2J", "\u{202e}x", "plain ä"].map(str::to_owned);
        assert_eq!(command_line(&argv), "a\\u{a}WARN forged \\u{1b}[2J \\u{202e}x plain ä");
        let long = command_line(&vec!["ääää".to_owned(); 1 << 16]);
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
        assert_eq!(command_line(&[]), "");
    }

    #[test]
    fn times_are_short() {
        let texts = [790, 1_740, 2_350_123].map(|micros| time(Duration::from_micros(micros)));
        assert_eq!(texts, ["790 µs", "1.740 ms", "2.350 s"]);
    }
}
