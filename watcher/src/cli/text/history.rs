//! The lines of `history`.

use std::fmt::Write as _;

use super::clean::{colour, done};
use super::clock::Clock;
use super::style::{self, Colour};
use super::watch;
use crate::model::{CleanTold, Described, Gap, GapReason, OwnerTold, Record, Told, WatchEvent, WatchKind};

/// Writes the lines, one after the other, with the date where it changes.
pub(in crate::cli) struct Lines {
    clock: Clock,
    is_empty: bool,
}

/// Below the event of a line.
const BELOW: &str = "                           ";

impl Lines {
    /// With times in UTC, or in the zone of this system.
    pub(in crate::cli) fn new(utc: bool) -> Self {
        Self { clock: Clock::new(utc), is_empty: true }
    }

    /// What to print for a record.
    pub(in crate::cli) fn next(&mut self, record: &Record) -> String {
        self.is_empty = false;
        let mut out = String::new();
        let time = self.clock.of_line(record.told.time(), true, &mut out);
        match &record.told {
            Told::Event(event) => out.push_str(&self.event(&time, event, record)),
            Told::Clean(clean) => out.push_str(&clean_told(&time, clean, &record.process)),
            Told::Gap(gap) => out.push_str(&self.gap(&time, gap)),
        }
        out
    }

    /// What is still to be printed when no record follows.
    pub(in crate::cli) fn end(&self) -> String {
        if self.is_empty { "nothing happened, and nobody held a port\n".to_owned() } else { String::new() }
    }

    fn event(&self, time: &str, event: &WatchEvent, record: &Record) -> String {
        let event = WatchEvent { delay: None, ..event.clone() };
        let mut out = watch::line(time, &event);
        if record.found {
            out.truncate(out.trim_end().len());
            let found = match event.kind {
                WatchKind::Release => "found gone then; nobody saw when it went",
                _ => "found then; nobody saw when it came",
            };
            let _ = writeln!(out, "  {}", style::paint(Colour::Odd, &format!("({found})")));
        }
        if matches!(
            event.kind,
            WatchKind::Held | WatchKind::Listen | WatchKind::Conflict { .. } | WatchKind::Refused
        ) && let Some(origin) = self.origin(&record.process)
        {
            let _ = writeln!(out, "{BELOW}{}", style::paint(Colour::Faint, &origin));
        }
        out
    }

    /// Where a process comes from.
    fn origin(&self, process: &Described) -> Option<String> {
        let named = |what: &str, text: &Option<String>| {
            text.as_deref().map(|text| format!("{what} {}", style::printable(text)))
        };
        let container = process.container.as_deref().map(style::container_id);
        let started = process.start_time.map(|time| format!("started {}", self.clock.moment(time)));
        let known = [
            started,
            named("user", &process.user),
            named("unit", &process.unit),
            named("container", &container),
            command_line(process),
        ];
        let known: Vec<String> = known.into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.join("; "))
    }

    fn gap(&self, time: &str, gap: &Gap) -> String {
        let from = gap.from.map(|from| self.clock.moment(from));
        let since = from.map_or_else(String::new, |from| format!(" since {from}"));
        let why = match gap.why {
            GapReason::Stopped => "no agent ran: it had been told to end",
            GapReason::Killed => {
                "no agent ran: it had ended without being told to, maybe before it had written its last second"
            }
            GapReason::Rebooted => "the host was started anew",
            GapReason::NotKept => "the history begins here",
            GapReason::NotWritten => "the agent could not write its history",
        };
        let name = style::paint(Colour::Bad, &format!("{:<8}", "gap"));
        format!("{}  {name}  nothing is known{since}: {why}\n", style::paint(Colour::Faint, time))
    }
}

fn clean_told(time: &str, clean: &CleanTold, asker: &Described) -> String {
    let name = style::paint(Colour::Strong, &format!("{:<8}", "clean"));
    let port = format!("port {}", clean.port);
    let outcome = style::paint(colour(clean.outcome), clean.outcome.name());
    let asked = asker_of(clean, asker);
    let took = style::duration(clean.elapsed);
    let time = style::paint(Colour::Faint, time);
    let mut out = format!("{time}  {name}  {port:<22}  {outcome} in {took}, asked for by {asked}\n");
    for owner in &clean.owners {
        let _ = writeln!(out, "{BELOW}{}", owner_told(owner));
        if let Some(command) = command_line(&owner.process) {
            let _ = writeln!(out, "{BELOW}         {}", style::paint(Colour::Faint, &command));
        }
    }
    out
}

fn asker_of(clean: &CleanTold, asker: &Described) -> String {
    let user = match (&asker.user, clean.uid) {
        (Some(user), _) => style::printable(user),
        (None, Some(uid)) => format!("user {uid}"),
        (None, None) => "an unknown user".to_owned(),
    };
    let unit = asker.unit.as_deref().map(|unit| format!(", {}", style::printable(unit)));
    let unit = unit.unwrap_or_default();
    match (&clean.comm, clean.pid) {
        (Some(comm), Some(pid)) => format!("{user}: {} (pid {pid}{unit})", style::printable(comm)),
        (_, Some(pid)) => format!("{user}: pid {pid}"),
        (_, None) => user,
    }
}

fn owner_told(owner: &OwnerTold) -> String {
    let name = owner.comm.as_deref().map_or_else(|| "an unseen process".to_owned(), style::printable);
    let pid = owner.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let mut out = format!("{:<8} {name}{pid}", done(owner.action));
    if let Some(signal) = &owner.ended_by {
        let _ = write!(out, " by {}", style::printable(signal));
    }
    if let Some(after) = owner.ended_after {
        let _ = write!(out, " after {}", style::duration(after));
    }
    let _ = write!(out, "; {}", style::printable(&owner.why));
    out
}

fn command_line(process: &Described) -> Option<String> {
    let line = style::words(process.argv.as_ref()?);
    Some(line).filter(|line| !line.is_empty())
}
