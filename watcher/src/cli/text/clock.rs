//! Times for people: in the zone of this system, or in UTC.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::style::{self, Colour};

/// Writes times, and knows which day it wrote last.
#[derive(Debug)]
pub(in crate::cli) struct Clock {
    zone: TimeZone,
    day: Option<Date>,
}

impl Clock {
    /// In UTC, or in the zone of this system.
    pub(in crate::cli) fn new(utc: bool) -> Self {
        Self { zone: if utc { TimeZone::UTC } else { TimeZone::system() }, day: None }
    }

    /// `None` for a time that is in no calendar.
    fn at(&self, time: SystemTime) -> Option<Zoned> {
        Timestamp::try_from(time).ok().map(|at| at.to_zoned(self.zone.clone()))
    }

    /// Date and time, to the second.
    pub(in crate::cli) fn moment(&self, time: SystemTime) -> String {
        self.at(time).map_or_else(|| "?".to_owned(), |at| at.strftime("%F %T").to_string())
    }

    /// The time of the day, to the second.
    pub(in crate::cli) fn time(&self, time: SystemTime) -> String {
        self.at(time).map_or_else(String::new, |at| at.strftime("%T").to_string())
    }

    /// The time with which a line begins, to the microsecond. Where the day is another one than that of the line before, its
    /// date comes first, as a line of its own; before the first line only if `names_first`.
    pub(super) fn of_line(&mut self, time: SystemTime, names_first: bool, out: &mut String) -> String {
        let Some(at) = self.at(time) else { return String::new() };
        if self.day.replace(at.date()).map_or(names_first, |day| day != at.date()) {
            let _ = writeln!(out, "{}", style::paint(Colour::Faint, &at.date().to_string()));
        }
        at.strftime("%T.%6f").to_string()
    }
}
