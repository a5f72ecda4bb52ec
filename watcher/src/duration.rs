//! Durations as people write them, on the command line and in the configuration: a number with its unit.

use std::time::Duration;

use jiff::SignedDuration;

/// Parses a duration (`600ms`, `2s`, `1m`); `None` for any other text, and for one below zero.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    // jiff takes signs and ISO 8601 (`PT5S`) as well.
    let parsed: SignedDuration =
        text.starts_with(|first: char| first.is_ascii_digit()).then(|| text.parse().ok())??;
    parsed.try_into().ok()
}

/// As [`parse`], and also days and weeks (`14d`, `2w`).
pub(crate) fn parse_long(text: &str) -> Option<Duration> {
    const DAY: u64 = 24 * 3600;
    let in_days = |unit: char, days: u64| {
        let number =
            text.strip_suffix(unit).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let seconds = number?.parse::<u64>().ok()?.checked_mul(days * DAY)?;
        // As far as the other units go.
        Some(Duration::from_secs(seconds)).filter(|time| time.as_secs() <= i64::MAX.unsigned_abs())
    };
    parse(text).or_else(|| in_days('d', 1)).or_else(|| in_days('w', 7))
}

/// A duration as [`parse_long`] reads it, in the largest unit that it is a whole number of (`14d`, `36h`, `90s`); what is below
/// a millisecond is left out.
pub(crate) fn written(duration: Duration) -> String {
    const UNITS: [(&str, u128); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let millis = duration.as_millis();
    let whole = UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse("600ms"), Some(Duration::from_millis(600)));
        assert_eq!(parse("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1m"), Some(Duration::from_secs(60)));
        for text in ["", "5", "-1s", "s", "1 parsec", "PT5S", "99999999999999999999s"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_long_duration_may_be_in_days_and_weeks() {
        const DAY: u64 = 24 * 3600;
        for (text, seconds) in [("14d", 14 * DAY), ("2w", 14 * DAY), ("36h", 36 * 3600), ("90s", 90)] {
            assert_eq!(parse_long(text), Some(Duration::from_secs(seconds)), "{text:?}");
        }
        for text in ["", "d", "-1d", "1.5d", "1 day", "99999999999999999999d", "99999999999999999w", "1y"] {
            assert_eq!(parse_long(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_duration_is_written_in_the_largest_unit_that_fits() {
        for text in ["14d", "36h", "90m", "61s", "1500ms", "0ms"] {
            assert_eq!(written(parse_long(text).unwrap()), text);
        }
        assert_eq!(written(Duration::from_hours(48)), "2d");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 0u64..u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_long(&written(duration)), Some(duration));
        }

        #[test]
        fn whole_milliseconds_and_seconds_are_exact(number in 0u32..) {
            prop_assert_eq!(parse(&format!("{number}ms")), Some(Duration::from_millis(number.into())));
            prop_assert_eq!(parse(&format!("{number}s")), Some(Duration::from_secs(number.into())));
        }

        #[test]
        fn any_text_is_a_duration_or_refused(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
