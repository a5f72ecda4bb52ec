//! What the screen knows: ports, what is chosen and typed, and the question that is asked. It reads and signals nothing:
//! events and owners are told to it, and keys make [`Action`](super::keys::Action)s of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use super::holes::{self, Holes};
use super::order::Order;
use super::question::Dialog;
use super::row::Row;
use crate::model::{Port, Record, Told, WatchEvent, WatchKind};
use crate::steps::owner::Owners;

/// How many free ports are shown at most, those with the newest events.
const MOST_FREE: usize = 100;
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// An event can be told by the history and come by itself only where it is not older than this: the history is asked for as
/// soon as events come.
const TWICE: Duration = Duration::from_secs(10);

/// By what an event is known again.
type Mark = (SystemTime, &'static str, Port, Option<u32>, Option<u64>);

/// What the screen knows.
#[derive(Debug)]
pub(super) struct State {
    rows: BTreeMap<Port, Row>,
    /// The ports that are shown whether or not anybody holds them.
    asked: Vec<Port>,
    /// Since when it is known what happened.
    pub(super) since: SystemTime,
    /// What is not known of the time after that.
    pub(super) holes: Holes,
    /// The last events that the history has told.
    told: HashSet<Mark>,
    /// How ports are observed, in words.
    pub(super) source: String,
    pub(super) order: Order,
    pub(super) filter: String,
    pub(super) is_typing: bool,
    selected: Option<Port>,
    /// Whether the selected port is shown alone, and how many lines of it are scrolled away.
    pub(super) detail: Option<usize>,
    pub(super) dialog: Option<Dialog>,
    /// The last thing that was logged.
    pub(super) note: Option<String>,
}

impl State {
    pub(super) fn new(asked: Vec<Port>, source: String, since: SystemTime) -> Self {
        Self {
            rows: asked.iter().map(|&port| (port, Row::new(port))).collect(),
            asked,
            since,
            holes: Holes::default(),
            told: HashSet::new(),
            source,
            order: Order::BY_PORT,
            filter: String::new(),
            is_typing: false,
            selected: None,
            detail: None,
            dialog: None,
            note: None,
        }
    }

    /// Takes over what the agent's history tells of the hour before this moment.
    pub(super) fn remember(&mut self, past: &[Record], now: SystemTime) {
        self.since = now.checked_sub(HOUR).unwrap_or(now);
        for record in past {
            match &record.told {
                Told::Gap(gap) if gap.from.is_none() => self.since = gap.until,
                Told::Gap(gap) => self.holes.unseen(gap),
                Told::Event(event) => {
                    if let WatchKind::Lost { count, .. } = event.kind {
                        self.holes.dropped(count, event.time);
                        continue;
                    }
                    self.row_mut(event.port).happened(event);
                    if now.duration_since(event.time).is_ok_and(|ago| ago < TWICE) {
                        self.told.insert(mark(event));
                    }
                }
                Told::Clean(_) => {}
            }
        }
    }

    /// Notes an event. Returns the port whose owners it may have changed.
    pub(super) fn happened(&mut self, event: &WatchEvent) -> Option<Port> {
        match event.kind {
            WatchKind::Ready { .. } => return None,
            WatchKind::Lost { count, .. } => {
                self.holes.dropped(count, event.time);
                self.note = Some(holes::dropped(count));
                return None;
            }
            WatchKind::Held
            | WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Conflict { .. }
            | WatchKind::Refused
            | WatchKind::Release
            | WatchKind::Free => {}
        }
        if !self.told.remove(&mark(event)) {
            self.row_mut(event.port).happened(event);
        }
        (!matches!(event.kind, WatchKind::Conflict { .. } | WatchKind::Refused)).then_some(event.port)
    }

    /// Notes who holds a port.
    pub(super) fn owned(&mut self, owners: Owners, now: SystemTime) {
        if owners.owners.is_empty() && !self.rows.contains_key(&owners.port) {
            return;
        }
        self.row_mut(owners.port).owned(owners.owners, now);
    }

    /// Notes who holds the ports, all of them: nobody holds any other.
    pub(super) fn owned_all(&mut self, all: Vec<Owners>, now: SystemTime) {
        let held: BTreeSet<Port> = all.iter().map(|owners| owners.port).collect();
        for row in self.rows.values_mut().filter(|row| !held.contains(&row.port)) {
            row.owned(Vec::new(), now);
        }
        for owners in all {
            self.owned(owners, now);
        }
        self.forget(now);
    }

    fn row_mut(&mut self, port: Port) -> &mut Row {
        self.rows.entry(port).or_insert_with(|| Row::new(port))
    }

    /// Forgets free ports to which nothing happened for an hour, and of many free ones those with the oldest events.
    fn forget(&mut self, now: SystemTime) {
        let free = self.rows.values().filter(|row| !self.asked.contains(&row.port));
        let mut free: Vec<(Duration, Port)> =
            free.filter_map(|row| Some((row.deserted(now)?, row.port))).collect();
        free.sort_unstable();
        for (at, (time, port)) in free.into_iter().enumerate() {
            if at >= MOST_FREE || time >= HOUR {
                self.rows.remove(&port);
            }
        }
    }

    /// The ports that are shown, in order.
    pub(super) fn shown(&self, now: SystemTime) -> Vec<&Row> {
        let text = self.filter.to_lowercase();
        let mut shown: Vec<&Row> =
            self.rows.values().filter(|row| text.is_empty() || row.contains(&text)).collect();
        shown.sort_by(|one, other| self.order.compare(one, other, now));
        shown
    }

    /// The port that is selected among those shown: the first, unless another was.
    pub(super) fn selected(&self, shown: &[&Row]) -> Option<usize> {
        let known = self.selected.and_then(|port| shown.iter().position(|row| row.port == port));
        known.or((!shown.is_empty()).then_some(0))
    }

    /// Selects the port that is so many lines further down.
    pub(super) fn go(&mut self, by: isize, now: SystemTime) {
        let shown = self.shown(now);
        let Some(at) = self.selected(&shown) else { return };
        let at = at.saturating_add_signed(by).min(shown.len() - 1);
        self.selected = Some(shown[at].port);
    }

    /// The port that is selected.
    pub(super) fn chosen(&self, now: SystemTime) -> Option<Port> {
        let shown = self.shown(now);
        self.selected(&shown).map(|at| shown[at].port)
    }

    /// Keeps what is selected where it is, also when the order changes.
    pub(super) fn hold(&mut self, now: SystemTime) {
        self.selected = self.chosen(now);
    }

    /// How many ports are held, and how many that are known are free.
    pub(super) fn counts(&self) -> (usize, usize) {
        let free = self.rows.values().filter(|row| row.owners.is_empty()).count();
        (self.rows.len() - free, free)
    }
}

fn mark(event: &WatchEvent) -> Mark {
    (event.time, event.kind.name(), event.port, event.pid, event.cookie)
}
