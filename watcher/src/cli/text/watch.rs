//! The lines of `watch`.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::clock::Clock;
use super::style::{self, Colour};
use crate::model::{Port, WatchEvent, WatchKind};

/// Writes the lines, one after the other: a date where the day changes, and equal conflicts in a row as one.
pub(in crate::cli) struct Lines {
    clock: Clock,
    /// The last conflict, and how often it has come again.
    conflict: Option<Repeated>,
}

/// An event, and how often an equal conflict followed at once.
#[derive(Debug)]
pub(in crate::cli) struct Repeated {
    pub(in crate::cli) event: WatchEvent,
    pub(in crate::cli) times: u32,
    pub(in crate::cli) last: SystemTime,
}

impl Repeated {
    pub(in crate::cli) fn new(event: &WatchEvent) -> Self {
        Self { event: event.clone(), times: 1, last: event.time }
    }

    /// Counts the event if it is the same conflict once more; whether it is.
    pub(in crate::cli) fn add(&mut self, event: &WatchEvent) -> bool {
        let is_same = is_same_conflict(&self.event, event);
        if is_same {
            self.times += 1;
            self.last = event.time;
        }
        is_same
    }

    /// How often it came, and in which time; `None` if it came once.
    pub(in crate::cli) fn often(&self) -> Option<String> {
        let over = self.last.duration_since(self.event.time).unwrap_or_default();
        (self.times > 1).then(|| format!("×{} in {}", self.times, style::duration(over)))
    }
}

impl Lines {
    /// With times in UTC, or in the zone of this system.
    pub(in crate::cli) fn new(utc: bool) -> Self {
        Self { clock: Clock::new(utc), conflict: None }
    }

    /// What to print for an event; nothing if it is the same conflict once more.
    pub(in crate::cli) fn next(&mut self, event: &WatchEvent) -> String {
        if self.conflict.as_mut().is_some_and(|repeated| repeated.add(event)) {
            return String::new();
        }
        let mut out = self.end();
        if matches!(event.kind, WatchKind::Conflict { .. }) {
            self.conflict = Some(Repeated::new(event));
        }
        out.push_str(&self.line(event));
        out
    }

    /// What is still to be printed when no event follows.
    pub(in crate::cli) fn end(&mut self) -> String {
        let often = self.conflict.take().and_then(|repeated| repeated.often());
        often.map_or_else(String::new, |often| format!("                 {often}\n"))
    }

    fn line(&mut self, event: &WatchEvent) -> String {
        let mut out = String::new();
        let time = self.clock.of_line(event.time, false, &mut out);
        out.push_str(&line(&time, event));
        out
    }
}

/// Whether a conflict says the same as the one before: the processes that try may be others, as in a crash loop.
fn is_same_conflict(a: &WatchEvent, b: &WatchEvent) -> bool {
    matches!((&a.kind, &b.kind), (WatchKind::Conflict { holders: a, .. }, WatchKind::Conflict { holders: b, .. }) if a == b)
        && (a.port, a.address, &a.comm, a.uid, a.netns) == (b.port, b.address, &b.comm, b.uid, b.netns)
}

pub(super) fn line(time: &str, event: &WatchEvent) -> String {
    let name = style::paint(colour(&event.kind), &format!("{:<8}", event.kind.name()));
    let address = match event.address {
        Some(address) => style::address(event.port, address),
        None if event.port == Port::EVERY => "every port".to_owned(),
        None => format!("port {}", event.port),
    };
    let mut out = format!("{}  {name}  {address:<22}", style::paint(Colour::Faint, time));
    match (&event.kind, &event.comm, event.pid) {
        (WatchKind::Ready { resolution: None }, ..) => out.push_str("  nothing later is missed"),
        (WatchKind::Ready { resolution: Some(resolution) }, ..) => {
            let _ = write!(out, "  changes shorter than {} may be missed", style::duration(*resolution));
        }
        (WatchKind::Lost { count, .. }, ..) => {
            // An agent that follows on another one does not know how many it has missed.
            let what = match count.filter(|&count| count > 0) {
                Some(count) => format!("{count} events were dropped"),
                None => "what happened meanwhile is not known".to_owned(),
            };
            let _ = write!(out, "  {what}; what holds the port now follows");
        }
        (_, Some(comm), Some(pid)) => {
            let thread = event
                .thread
                .as_deref()
                .map_or_else(String::new, |thread| format!(", its thread {}", style::printable(thread)));
            let _ = write!(out, "  {} (pid {pid}{thread})", style::printable(comm));
        }
        (_, None, Some(pid)) => {
            let _ = write!(out, "  pid {pid}");
        }
        (WatchKind::Free, ..) => {}
        _ => {
            let _ = write!(out, "  an unseen process");
        }
    }
    if let WatchKind::Conflict { holders, total } = &event.kind {
        for holder in holders {
            let name =
                holder.comm.as_deref().map_or_else(|| "an unseen process".to_owned(), style::printable);
            let pid = holder.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            let _ = write!(out, "; held by {name} (pid {pid})");
        }
        if let Some(more) = total.checked_sub(holders.len()).filter(|&more| more > 0) {
            let _ = write!(out, "; and by {more} more");
        }
    }
    if event.kind == WatchKind::Refused {
        out.push_str("; the guard has not let it in");
    }
    if let Some(delay) = event.delay {
        let _ = write!(out, "  {}", style::paint(Colour::Faint, &format!("+{} µs", delay.as_micros())));
    }
    out.push('\n');
    out
}

/// The colour of an event.
pub(in crate::cli) fn colour(kind: &WatchKind) -> Colour {
    match kind {
        WatchKind::Held | WatchKind::Bind => Colour::Strong,
        WatchKind::Ready { .. } => Colour::Faint,
        WatchKind::Listen => Colour::Odd,
        WatchKind::Conflict { .. } | WatchKind::Refused | WatchKind::Lost { .. } => Colour::Bad,
        WatchKind::Release | WatchKind::Free => Colour::Good,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Backend, NamedProcess, Port};

    fn conflict(second: u64, comm: &str) -> WatchEvent {
        let holders = vec![NamedProcess { pid: Some(7), comm: Some("old".to_owned()), address: None }];
        WatchEvent {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(86_390 + second),
            comm: Some(comm.to_owned()),
            pid: Some(u32::try_from(second).unwrap()),
            ..WatchEvent::now(WatchKind::Conflict { holders, total: 1 }, Port::tcp(80), Backend::Ebpf)
        }
    }

    #[test]
    fn equal_conflicts_are_one_line_and_a_number() {
        let mut lines = Lines::new(true);
        assert!(lines.next(&conflict(0, "node")).contains("23:59:50"));
        assert_eq!(lines.next(&conflict(3, "node")), "");
        assert_eq!(lines.next(&conflict(9, "node")), "");
        let other = lines.next(&conflict(10, "python"));
        let (number, rest) = other.split_once('\n').unwrap();
        assert_eq!(number.trim(), "×3 in 9.00 s");
        // and the day has changed meanwhile
        assert!(rest.contains("1970-01-02") && rest.contains("00:00:00"), "{rest}");
        assert_eq!(lines.end(), "");
    }
}
