//! What is not known of the last hour.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::cli::text::clock::Clock;
use crate::model::Gap;

/// How many are remembered.
const MOST: usize = 50;

/// A span of time of which not all is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) until: SystemTime,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Nobody looked, since then.
    Unseen(Option<SystemTime>),
    /// So many events were dropped; it may not be known how many.
    Dropped(Option<u64>),
}

impl Hole {
    /// How the timeline says it.
    pub(super) fn describe(&self, clock: &Clock) -> String {
        match self.what {
            What::Unseen(Some(from)) => format!("nothing is known since {}", clock.time(from)),
            What::Unseen(None) => "nothing is known before".to_owned(),
            What::Dropped(count) => dropped(count),
        }
    }
}

/// How it is said that events were dropped.
pub(super) fn dropped(count: Option<u64>) -> String {
    match count {
        Some(1) => "1 event was dropped".to_owned(),
        Some(count) => format!("{count} events were dropped"),
        None => "some events were dropped".to_owned(),
    }
}

/// The holes, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Holes(VecDeque<Hole>);

impl Holes {
    /// Nobody looked.
    pub(super) fn unseen(&mut self, gap: &Gap) {
        self.push(Hole { until: gap.until, what: What::Unseen(gap.from) });
    }

    /// Events were dropped.
    pub(super) fn dropped(&mut self, count: Option<u64>, time: SystemTime) {
        if count != Some(0) {
            self.push(Hole { until: time, what: What::Dropped(count) });
        }
    }

    fn push(&mut self, hole: Hole) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(hole);
    }

    /// Those of so long before this moment, the newest first.
    pub(super) fn within(&self, time: Duration, now: SystemTime) -> impl Iterator<Item = &Hole> {
        let is_recent = move |hole: &&Hole| now.duration_since(hole.until).map_or(true, |ago| ago < time);
        self.0.iter().rev().filter(is_recent)
    }
}
