//! How often something happened within the last hour.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

const MINUTES: u64 = 60;

/// Counts by the minute: what happens a million times takes no more room than what happens once.
#[derive(Debug, Default)]
pub(super) struct Hour {
    /// Each minute in which it happened, the oldest first, and how often.
    minutes: VecDeque<(u64, u32)>,
}

impl Hour {
    /// Counts one that happened at this moment.
    pub(super) fn add(&mut self, at: SystemTime) {
        let minute = minute_of(at);
        // Events of several processors can come in another order than their clocks say.
        match self.minutes.iter_mut().rev().find(|(known, _)| *known <= minute) {
            Some((known, count)) if *known == minute => *count = count.saturating_add(1),
            _ => {
                let place = self.minutes.partition_point(|(known, _)| *known < minute);
                self.minutes.insert(place, (minute, 1));
            }
        }
        let newest = self.minutes.back().map_or(minute, |(known, _)| *known);
        self.minutes.retain(|(known, _)| known + MINUTES > newest);
    }

    /// How many there were in the hour before this moment, to the minute.
    pub(super) fn count(&self, now: SystemTime) -> u64 {
        let now = minute_of(now);
        self.minutes
            .iter()
            .filter(|(known, _)| known + MINUTES > now)
            .map(|(_, count)| u64::from(*count))
            .sum()
    }
}

fn minute_of(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_older_than_an_hour_is_not_counted() {
        let at = |minute: u64| UNIX_EPOCH + Duration::from_secs(60 * minute);
        let mut hour = Hour::default();
        for minute in [100, 100, 99, 130] {
            hour.add(at(minute));
        }
        assert_eq!(hour.count(at(130)), 4);
        assert_eq!(hour.count(at(159)), 3);
        assert_eq!(hour.count(at(189)), 1);
        assert_eq!(hour.count(at(190)), 0);
        for _ in 0..100_000 {
            hour.add(at(200));
        }
        assert_eq!((hour.count(at(200)), hour.minutes.len()), (100_000, 1));
    }
}
