//! A port on the screen: who holds it, and what happened to it, as far as it is known.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::hour::Hour;
use crate::cli::text::style;
use crate::cli::text::watch::Repeated;
use crate::model::{Port, Protocol, WatchEvent, WatchKind};
use crate::steps::owner::Owner;

/// How many events of a port are remembered.
const LONGEST_TIMELINE: usize = 200;

/// A port.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) port: Port,
    /// Empty where nobody holds it.
    pub(super) owners: Vec<Owner>,
    /// The oldest first.
    pub(super) timeline: VecDeque<Repeated>,
    pub(super) conflicts: Hour,
    pub(super) restarts: Hour,
    /// Since when nobody is seen to hold it; the event that says so may still come.
    free_since: Option<SystemTime>,
    /// Whether it was held once and is free since: then the next listener is a restart.
    was_freed: bool,
}

impl Row {
    pub(super) fn new(port: Port) -> Self {
        let (owners, timeline) = (Vec::new(), VecDeque::new());
        let (conflicts, restarts) = (Hour::default(), Hour::default());
        Self { port, owners, timeline, conflicts, restarts, free_since: None, was_freed: false }
    }

    /// Notes an event of this port.
    pub(super) fn happened(&mut self, event: &WatchEvent) {
        if event.kind == WatchKind::Held && self.is_known(event) {
            return;
        }
        match event.kind {
            WatchKind::Conflict { .. } | WatchKind::Refused => self.conflicts.add(event.time),
            // By UDP nobody listens: whoever is bound serves.
            WatchKind::Listen | WatchKind::Bind
                if self.was_freed
                    && (event.kind == WatchKind::Listen || self.port.protocol == Protocol::Udp) =>
            {
                self.was_freed = false;
                self.restarts.add(event.time);
            }
            WatchKind::Free => {
                self.was_freed = true;
                self.owned(Vec::new(), event.time);
            }
            WatchKind::Held
            | WatchKind::Ready { .. }
            | WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Release
            | WatchKind::Lost { .. } => {}
        }
        if self.timeline.back_mut().is_some_and(|last| last.add(event)) {
            return;
        }
        if self.timeline.len() == LONGEST_TIMELINE {
            self.timeline.pop_front();
        }
        self.timeline.push_back(Repeated::new(event));
    }

    /// Whether the timeline has the beginning of this socket, and not its end.
    fn is_known(&self, held: &WatchEvent) -> bool {
        let is_same = |event: &WatchEvent| match held.cookie {
            Some(_) => event.cookie == held.cookie,
            None => (event.pid, event.address) == (held.pid, held.address),
        };
        let last = self.timeline.iter().rev().find(|entry| is_same(&entry.event));
        last.is_some_and(|last| {
            matches!(last.event.kind, WatchKind::Held | WatchKind::Bind | WatchKind::Listen)
        })
    }

    /// Notes who holds it.
    pub(super) fn owned(&mut self, owners: Vec<Owner>, now: SystemTime) {
        self.free_since = if owners.is_empty() { self.free_since.or(Some(now)) } else { None };
        self.owners = owners;
    }

    /// For how long nobody has held it and nothing has happened to it; `None` while it is held.
    pub(super) fn deserted(&self, now: SystemTime) -> Option<Duration> {
        let since = self.timeline.back().map(|entry| entry.last).max(self.free_since);
        self.free_since.map(|free| now.duration_since(since.unwrap_or(free)).unwrap_or_default())
    }

    /// The last thing that happened, which was not there when the screen was opened.
    pub(super) fn last(&self) -> Option<&Repeated> {
        self.timeline.iter().rev().find(|entry| entry.event.kind != WatchKind::Held)
    }

    /// How long ago that was.
    pub(super) fn idle(&self, now: SystemTime) -> Option<Duration> {
        Some(now.duration_since(self.last()?.last).unwrap_or_default())
    }

    /// How long its longest-running owner has run.
    pub(super) fn age(&self, now: SystemTime) -> Option<Duration> {
        let started = self.owners.iter().filter_map(|owner| Some(owner.process.as_ref()?.start_time.wall));
        Some(now.duration_since(started.min()?).unwrap_or_default())
    }

    /// Its owners in one cell that is so wide: a name is cut where it must be, and a pid never.
    pub(super) fn owner(&self, width: usize) -> String {
        let Some(first) = self.owners.first() else { return "free".to_owned() };
        let more = match self.owners.len() - 1 {
            0 => String::new(),
            more => format!(" +{more}"),
        };
        let (name, pid) = match (&first.process, first.pid, first.uid) {
            (Some(process), Some(pid), _) => (style::printable(&process.comm), format!(" {pid}")),
            (_, Some(pid), _) => ("unreadable".to_owned(), format!(" {pid}")),
            (_, None, Some(uid)) => ("unseen".to_owned(), format!(" of user {uid}")),
            (_, None, None) => ("unseen".to_owned(), String::new()),
        };
        let rest = format!("{pid}{more}");
        format!("{}{rest}", cut(&name, width.saturating_sub(rest.chars().count())))
    }

    /// The unit or the container of its first owner that has one.
    pub(super) fn place(&self) -> String {
        let places = self.owners.iter().filter_map(|owner| owner.process.as_ref()).map(style::place);
        places.into_iter().find(|place| !place.is_empty()).unwrap_or_default()
    }

    /// The user of its first owner.
    pub(super) fn user(&self) -> String {
        self.owners.first().map(style::user).unwrap_or_default()
    }

    /// The addresses that it is held on, each once.
    pub(super) fn addresses(&self) -> String {
        let sockets = self.owners.iter().flat_map(|owner| &owner.holdings);
        let mut all: Vec<String> = sockets.map(|holding| holding.socket.address.ip().to_string()).collect();
        all.sort_unstable();
        all.dedup();
        all.join(" ")
    }

    /// The command line of its first owner.
    pub(super) fn command(&self) -> String {
        self.owners.first().and_then(style::command_line).unwrap_or_default()
    }

    /// Whether something of it contains the text, which is in lower case.
    pub(super) fn contains(&self, text: &str) -> bool {
        let is_in = |what: &str| what.to_lowercase().contains(text);
        let of_process = |owner: &Owner| {
            is_in(&style::process(owner))
                || is_in(&style::user(owner))
                || owner.process.as_ref().is_some_and(|process| is_in(&style::place(process)))
                || style::command_line(owner).is_some_and(|line| is_in(&line))
        };
        is_in(&self.port.to_string()) || is_in(&self.addresses()) || self.owners.iter().any(of_process)
    }
}

/// The text, cut so that it is no wider.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { kept + "…" }
}
