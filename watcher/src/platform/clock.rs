//! Moments on the program's own clock, as numbers that can be compared with the timestamps of kernel events.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::Host;
use super::contract::Platform;

/// The same moment on both clocks: `Instant` is the system's monotonic clock, but hides its numbers.
///
/// It is taken once, so that all conversions agree and preserve the order of moments.
static ANCHOR: LazyLock<(Instant, u64)> = LazyLock::new(|| at_once(Host::monotonic_now));

/// Reads clocks, and the moment of the reading. Of several readings the fastest is used, because a thread may be
/// preempted between two clocks, for longer than the measured time.
pub(crate) fn at_once<T>(read: impl Fn() -> T) -> (Instant, T) {
    let readings = (0..16).map(|_| {
        let before = Instant::now();
        let clocks = read();
        (before.elapsed(), before, clocks)
    });
    let (took, before, clocks) = readings.min_by_key(|(took, ..)| *took).expect("there are some");
    (before + took / 2, clocks)
}

/// A moment in nanoseconds of the system's monotonic clock, the one that kernel events have in their timestamps.
#[must_use]
pub(crate) fn monotonic_ns(at: Instant) -> u64 {
    let (anchor, number) = *ANCHOR;
    let nanoseconds = |apart: Duration| u64::try_from(apart.as_nanos()).unwrap_or(u64::MAX);
    match at.checked_duration_since(anchor) {
        Some(later) => number.saturating_add(nanoseconds(later)),
        None => number.saturating_sub(nanoseconds(anchor - at)),
    }
}

/// The moment of a number of the monotonic clock; `None` if `Instant` can't represent it.
#[must_use]
pub(crate) fn at(monotonic_ns: u64) -> Option<Instant> {
    let (anchor, number) = *ANCHOR;
    if monotonic_ns >= number {
        anchor.checked_add(Duration::from_nanos(monotonic_ns - number))
    } else {
        anchor.checked_sub(Duration::from_nanos(number - monotonic_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_and_its_number_are_each_others() {
        let (before, after) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        for moment in [before, after] {
            assert_eq!(at(monotonic_ns(moment)), Some(moment));
        }
    }

    #[test]
    fn the_systems_number_lies_between_two_moments() {
        // given the anchor's own error of a few nanoseconds
        let slack = Duration::from_micros(100);
        let before = monotonic_ns(Instant::now() - slack);
        let number = Host::monotonic_now();
        let after = monotonic_ns(Instant::now() + slack);
        assert!(before <= number && number <= after, "{before} {number} {after}");
    }
}
