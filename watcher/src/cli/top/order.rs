//! In which order the ports are shown.

use std::cmp::{Ordering, Reverse};
use std::time::SystemTime;

use super::row::Row;

/// What the ports are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Port,
    Owner,
    Last,
    Age,
    Conflicts,
    Restarts,
    Place,
    User,
}

const ALL: [By; 8] =
    [By::Port, By::Owner, By::Last, By::Age, By::Conflicts, By::Restarts, By::Place, By::User];

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) by: By,
    pub(super) reversed: bool,
}

impl Order {
    pub(super) const BY_PORT: Self = Self { by: By::Port, reversed: false };

    /// The order by the next column, or by the one before.
    pub(super) fn next(self, back: bool) -> Self {
        let at = ALL.iter().position(|by| *by == self.by).unwrap_or_default();
        let step = if back { ALL.len() - 1 } else { 1 };
        Self { by: ALL[(at + step) % ALL.len()], reversed: false }
    }

    /// How two ports are ordered. What a person looks for comes first: the newest event, the most conflicts, the oldest
    /// owner; and where nothing is known, last.
    pub(super) fn compare(self, one: &Row, other: &Row, now: SystemTime) -> Ordering {
        let texts = |of: &dyn Fn(&Row) -> String| {
            let text = |row| {
                let text = of(row).to_lowercase();
                (text.is_empty(), text)
            };
            text(one).cmp(&text(other))
        };
        let order = match self.by {
            By::Port => Ordering::Equal,
            By::Owner => texts(&|row| if row.owners.is_empty() { String::new() } else { row.owner(80) }),
            By::Last => {
                let last = |row: &Row| row.idle(now).map_or((true, None), |idle| (false, Some(idle)));
                last(one).cmp(&last(other))
            }
            By::Age => Reverse(one.age(now)).cmp(&Reverse(other.age(now))),
            By::Conflicts => Reverse(one.conflicts.count(now)).cmp(&Reverse(other.conflicts.count(now))),
            By::Restarts => Reverse(one.restarts.count(now)).cmp(&Reverse(other.restarts.count(now))),
            By::Place => texts(&Row::place),
            By::User => texts(&Row::user),
        };
        let order = order.then(one.port.cmp(&other.port));
        if self.reversed { order.reverse() } else { order }
    }
}
