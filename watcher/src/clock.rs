//! Moments on the program's own clock, as numbers that events of other processes can be compared with.

use std::time::{Duration, Instant};

use crate::platform::host;

/// A moment in nanoseconds of the system's monotonic clock, the one that kernel events are stamped with.
#[must_use]
pub fn monotonic_ns(at: Instant) -> u64 {
    let now = host::monotonic_now();
    let behind = Instant::now().saturating_duration_since(at);
    now.saturating_sub(u64::try_from(behind.as_nanos()).unwrap_or(u64::MAX))
}

/// The moment that a number of the monotonic clock means.
#[must_use]
pub fn at(monotonic_ns: u64) -> Option<Instant> {
    let behind = host::monotonic_now().saturating_sub(monotonic_ns);
    Instant::now().checked_sub(Duration::from_nanos(behind))
}
