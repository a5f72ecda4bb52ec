//! History: what happened to ports in a span of time, from what an agent has written.

use std::time::{Duration, SystemTime};

use crate::duration;
use crate::model::{Described, Gap, GapReason, Record, Span, Told};
use crate::platform::contract::{HistoryError, HistoryReader};

/// How far back it is told, unless said.
pub(crate) const LAST_HOUR: Duration = Duration::from_secs(3600);

/// A moment as people write it: RFC 3339, or how long before `now` it was.
///
/// # Errors
/// What is wrong, as a sentence.
pub(crate) fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Some(ago) = duration::parse_long(text) {
        // A clock can count further back than a time can be written, and it is written for the agent and in answers.
        let moment = now.checked_sub(ago).filter(|&moment| jiff::Timestamp::try_from(moment).is_ok());
        return moment.ok_or_else(|| "that is too long ago".to_owned());
    }
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(Into::into).map_err(|_| "it is neither a time (RFC 3339) nor a duration".to_owned())
}

/// So many records are read at once.
const PAGE: usize = 128;

/// Some of the records, in order.
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// The number after which there may be more; `None` if there are no more.
    pub(crate) more_after: Option<u64>,
}

/// The beginning of the history of a span: what is not known of it, who held the ports then, and what happened first.
/// `unwritten` is since when the history is not complete, if it isn't.
///
/// # Errors
/// [`HistoryError`].
pub(crate) fn first_page(
    reader: &mut dyn HistoryReader,
    span: &Span,
    unwritten: Option<SystemTime>,
) -> Result<Page, HistoryError> {
    let since = reader.reach()?.since;
    let mut records = Vec::new();
    if span.since < since {
        records.push(gap(Gap { from: None, until: since.min(span.until), why: GapReason::NotKept }));
    }
    records.extend(reader.held(span)?);
    let next = next_page(reader, span, 0, unwritten)?;
    records.extend(next.records);
    Ok(Page { records, more_after: next.more_after })
}

/// What happened after the record of this number.
///
/// # Errors
/// [`HistoryError`].
pub(crate) fn next_page(
    reader: &mut dyn HistoryReader,
    span: &Span,
    after: u64,
    unwritten: Option<SystemTime>,
) -> Result<Page, HistoryError> {
    let mut records = reader.page(span, after, PAGE)?;
    let more_after = records.last().map(|record| record.number);
    if more_after.is_none()
        && let Some(from) = unwritten.filter(|&from| from < span.until)
    {
        records.push(gap(Gap { from: Some(from), until: span.until, why: GapReason::NotWritten }));
    }
    Ok(Page { records, more_after })
}

/// A gap that is no record of the history.
pub(crate) fn gap(gap: Gap) -> Record {
    Record { number: 0, told: Told::Gap(gap), process: Described::default(), found: false }
}
