//! What waits to be sent: the history's records after the last one that was. Nothing is stored a second time.
//!
//! Records are numbered without holes. So a number that is missing among those to be sent is a record that the history has
//! deleted before it could be, and what was dropped is counted exactly.

use crate::platform::contract::{Exported, Numbers};

/// How far the records were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position(Exported);

impl Position {
    /// Where the last agent came to; at the first time, the beginning of what the history has.
    pub(super) fn begin(numbers: &Numbers) -> Self {
        let first = || Exported { through: 0, origin: numbers.trimmed };
        // Of a history that was begun anew, the numbers begin anew as well.
        Self(numbers.exported.filter(|exported| exported.through <= numbers.last).unwrap_or_else(first))
    }

    pub(super) fn exported(self) -> Exported {
        self.0
    }

    /// The number of the last record that is done with.
    pub(super) fn through(self) -> u64 {
        self.0.through
    }

    /// How many wait, of those up to this number.
    pub(super) fn waiting(self, last: u64) -> u64 {
        last.saturating_sub(self.0.through)
    }

    /// Gives up the oldest records if more than `most` wait; so many were dropped.
    pub(super) fn limit(&mut self, last: u64, most: u64) -> u64 {
        let through = last.saturating_sub(most);
        if through > self.0.through { self.skip(through) } else { 0 }
    }

    /// Gives up all records up to this number; so many were dropped.
    pub(super) fn skip(&mut self, through: u64) -> u64 {
        self.passed(through, 0)
    }

    /// Notes that the records of these numbers, in order, are done with; so many before and between them were dropped.
    pub(super) fn done(&mut self, numbers: &[u64]) -> u64 {
        let Some(&last) = numbers.last() else { return 0 };
        let counted = self.0.through.max(self.0.origin);
        let there = numbers.iter().filter(|&&number| number > counted).count() as u64;
        self.passed(last, there)
    }

    fn passed(&mut self, through: u64, there: u64) -> u64 {
        let counted = self.0.through.max(self.0.origin);
        self.0.through = through;
        through.saturating_sub(counted).saturating_sub(there)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(last: u64, trimmed: u64, exported: Option<Exported>) -> Numbers {
        Numbers { last, trimmed, exported }
    }

    #[test]
    fn the_first_export_begins_with_what_the_history_has() {
        let mut position = Position::begin(&numbers(100, 40, None));
        assert_eq!((position.through(), position.waiting(100)), (0, 100));
        // and what was deleted before it began is not counted
        assert_eq!(position.done(&[7, 41, 42]), 0);
        assert_eq!(position.done(&[45]), 2);
        let mut position = Position::begin(&numbers(100, 40, None));
        assert_eq!((position.limit(100, 30), position.waiting(100)), (30, 30));
    }

    #[test]
    fn it_goes_on_where_the_last_agent_came_to_unless_the_history_is_another_one() {
        let exported = Exported { through: 50, origin: 10 };
        assert_eq!(Position::begin(&numbers(60, 40, Some(exported))).exported(), exported);
        assert_eq!(Position::begin(&numbers(20, 0, Some(exported))).through(), 0);
    }

    proptest! {
        #[test]
        fn what_is_sent_and_what_is_dropped_are_all(
            kept in proptest::collection::btree_set(1u64..200, 0..150),
            most in 1u64..100,
            page in 1usize..20,
        ) {
            let last = 200;
            let mut position = Position::begin(&numbers(0, 0, None));
            let mut dropped = position.limit(last, most);
            let (mut sent, kept) = (0, kept.into_iter().collect::<Vec<_>>());
            loop {
                let rest = kept.iter().copied().filter(|&number| number > position.through());
                let numbers: Vec<u64> = rest.take(page).collect();
                if numbers.is_empty() {
                    break;
                }
                dropped += position.done(&numbers);
                sent += numbers.len() as u64;
            }
            dropped += position.skip(last);
            prop_assert_eq!(sent + dropped, last);
            prop_assert!(sent <= most);
        }
    }
}
