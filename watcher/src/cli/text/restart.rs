//! The answer of `restart`.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::clean;
use super::style::{self, Colour};
use crate::model::{Outcome, Step};
use crate::restart::{By, CommandRun, Restarted, TimelineStep};
use crate::steps::keep::Handover;

/// `next` is the command that would go on, if there is one.
pub(in crate::cli) fn answer(restarted: &Restarted, next: Option<String>) -> String {
    let Restarted { cleaned, command, timeline, downtime, new_owner, why, handover } = restarted;
    let headline = match (cleaned.outcome, new_owner) {
        (Outcome::Restarted, Some(owner)) => format!(
            "port {} is served by {} (pid {}): restarted",
            cleaned.port,
            style::printable(owner.comm.as_deref().unwrap_or("an unseen process")),
            owner.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        ),
        // The port was cleaned, but no new owner came.
        (Outcome::Respawned, Some(owner)) => {
            format!("port {} was taken by {}", cleaned.port, style::printable(&owner.name()))
        }
        (Outcome::TimedOut, None) if cleaned.proof.is_some() || command.is_some() => {
            let listens = style::listens(cleaned.port.protocol);
            format!("nobody new {listens} port {} yet: the timeout expired", cleaned.port)
        }
        _ => clean::headline(cleaned),
    };
    let mut out = style::paint(clean::colour(cleaned.outcome), &headline);
    let served_late = handover.as_ref().and_then(|handover| handover.served_late);
    let downtime = match (served_late, downtime) {
        (Some(late), Some(down)) if down.is_zero() => {
            Some(format!("(never stopped listening; {late} waited)"))
        }
        (_, downtime) => downtime.map(|downtime| format!("(down for {})", style::duration(downtime))),
    };
    if let Some(downtime) = downtime {
        let _ = write!(out, "  {}", style::paint(Colour::Faint, &downtime));
    }
    out.push('\n');
    if let Some(Handover { sockets, fallback, .. }) = handover {
        for (address, number, name) in sockets {
            let _ = match number {
                Some(number) => {
                    writeln!(out, "  kept     {address}, for the command as descriptor {number} ({name})")
                }
                None => writeln!(out, "  kept     {address}, for the unit in systemd's store ({name})"),
            };
        }
        if let Some(fallback) = fallback {
            let why = style::printable(fallback);
            let _ = writeln!(out, "  an ordinary restart all the same: {why}");
        }
    }
    if let Some(why) = why {
        let _ = writeln!(out, "  {}", style::printable(why));
    }
    if let (None, Some(By::Rules), Some(CommandRun { running: Some(pid), .. })) =
        (why, new_owner.as_ref().and_then(|owner| owner.by), command)
    {
        let _ = writeln!(out, "  it matches the rules, and is not the command's: that runs on (pid {pid})");
    }
    clean::owners(&mut out, cleaned);
    for at in timeline {
        let pid = at.pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
        let time = moment(at.at_us);
        let _ = writeln!(out, "  {time:>14}  {}{}", describe(at), style::paint(Colour::Faint, &pid));
    }
    if let Some(CommandRun { argv, status: Some(status), .. }) = command {
        let _ = writeln!(out, "  {} ended with status {status}", style::printable(&argv.join(" ")));
    }
    if let Some(next) = next {
        let _ = writeln!(out, "  {next}");
    }
    out
}

/// The moment of a step.
pub(in crate::cli) fn moment(at_us: i64) -> String {
    format!("{:+.3} ms", f64::from(i32::try_from(at_us).unwrap_or(i32::MAX)) / 1e3)
}

/// A step in words.
pub(in crate::cli) fn describe(at: &TimelineStep) -> Cow<'_, str> {
    let what = match at.step {
        Step::Sigterm => match at.signal.as_deref() {
            None => "SIGTERM sent",
            Some("close") => "asked to close",
            Some(signal) => return format!("{} sent", style::printable(signal)).into(),
        },
        Step::Sigkill => "SIGKILL sent",
        Step::Exited => "old process exited",
        Step::Released => "port released",
        Step::CommandStarted => "command started",
        Step::CommandEnded => "command ended",
        Step::Bind => "new process bound",
        Step::Listen => "listening",
        Step::Conflict => "bind failed",
        Step::Lost => "port given back",
        Step::Kept => "old socket taken over",
        Step::TakenOver => "new process serves it",
    };
    what.into()
}
