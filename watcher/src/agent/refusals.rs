//! Refusals in the log: so many lines a second for each user, then one line that counts the rest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::limits::{Buckets, Rate};

/// Lines for one user, and for all.
const EACH: Rate = Rate { per_second: 20.0, burst: 20.0 };
const ALL: Rate = Rate { per_second: 100.0, burst: 100.0 };
/// How many users are counted by themselves.
const COUNTED: usize = 64;
/// How long a line's text may be, in characters: a client chose it.
const LONGEST: usize = 200;

/// What of the refusals the log is told.
#[derive(Debug)]
pub(super) struct Refusals {
    each: Buckets,
    all: Buckets,
    left_out: Mutex<BTreeMap<Option<u32>, u64>>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { each: Buckets::new(EACH), all: Buckets::new(ALL), left_out: Mutex::default() }
    }

    /// Whether another line may be written about this user; if not, it is counted.
    pub(super) fn may_tell(&self, uid: u32, now: Instant) -> bool {
        // Whoever is one user among many can't use up what the others share.
        const EVERYBODY: u32 = u32::MAX;
        if uid == 0 || (self.each.take(uid, now) && self.all.take(EVERYBODY, now)) {
            return true;
        }
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let known = left_out.len() < COUNTED || left_out.contains_key(&Some(uid));
        *left_out.entry(known.then_some(uid)).or_default() += 1;
        false
    }

    /// How many lines were left out since the last time, by user; `None` for those of other users together.
    pub(super) fn take_left_out(&self) -> BTreeMap<Option<u32>, u64> {
        std::mem::take(&mut *self.left_out.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// As much of a text as a line has room for.
pub(super) fn cut(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_by_user() {
        let refusals = Refusals::new();
        let now = Instant::now();
        let told = (0..100).filter(|_| refusals.may_tell(5, now)).count();
        assert_eq!(told, 20);
        assert!(refusals.may_tell(6, now));
        assert_eq!(refusals.take_left_out(), BTreeMap::from([(Some(5), 80)]));
        assert!(refusals.take_left_out().is_empty());
        // given more users than are counted by themselves
        for uid in 1000..3000 {
            let told = (0..30).filter(|_| refusals.may_tell(uid, now)).count();
            assert!(told <= 20);
        }
        assert!(refusals.take_left_out().len() <= COUNTED + 1);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(1000)).chars().count(), LONGEST);
    }
}
