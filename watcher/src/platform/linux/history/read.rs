//! The readers. Each page is a short transaction of its own: one that lasted would keep the log from being copied.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::limits::Limit;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params_from_iter};

use super::values::{self, Kind, Named};
use super::{beside, connect, is_known};
use crate::model::{
    CleanTold, Gap, LostIn, NamedProcess, OwnerTold, Record, Span, Told, WatchEvent, WatchKind,
};
use crate::platform::contract::{Exported, HistoryError, HistoryReader, Numbers, Reach};
use crate::platform::linux::protocol;

/// How long a writer that is about to begin or to end is waited for.
const BUSY: Duration = Duration::from_secs(2);
/// The longest value that is read: more than a command line has.
const LARGEST_VALUE: i32 = 1 << 20;

/// The records of so many ports are looked up one port after the other; those of more are sifted from all.
const PORTS_BY_INDEX: usize = 16;

pub(super) struct Reader {
    database: Connection,
    /// When the writer was last known to run.
    alive: SystemTime,
    /// The first and the last record of the span that was asked for last: each page needs them, and to find them takes a look
    /// at all of it.
    bounds: Option<(Range, Bounds)>,
}

/// From when to when, in microseconds.
type Range = [i64; 2];
/// The numbers of the first and of the last record.
type Bounds = Option<(i64, i64)>;

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        let alive = File::open(beside(path, ".lock")).and_then(|lock| lock.metadata()?.modified());
        let database = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        database.busy_timeout(BUSY)?;
        database.set_limit(Limit::SQLITE_LIMIT_LENGTH, LARGEST_VALUE)?;
        if !is_known(&database)? {
            return Err(HistoryError::Damaged("it is of another program, or of another version".to_owned()));
        }
        Ok(Self { database, alive: alive.unwrap_or(SystemTime::UNIX_EPOCH), bounds: None })
    }

    /// The numbers of the first and of the last record in the span, whatever its port.
    fn bounds(&mut self, span: &Span) -> Result<Bounds, rusqlite::Error> {
        let sql = "SELECT min(number), max(number) FROM record WHERE time BETWEEN ?1 AND ?2";
        let range = [values::micros(span.since), values::micros(span.until)];
        if let Some((_, bounds)) = self.bounds.filter(|(of, _)| *of == range) {
            return Ok(bounds);
        }
        let bounds = self.database.prepare_cached(sql)?.query_row(range, |row| {
            let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(first.zip(last))
        })?;
        self.bounds = Some((range, bounds));
        Ok(bounds)
    }

    /// The number before which all happened before the span.
    fn first(&mut self, span: &Span) -> Result<i64, rusqlite::Error> {
        if let Some((first, _)) = self.bounds(span)? {
            return Ok(first);
        }
        let sql = "SELECT min(number) FROM record WHERE time > ?1";
        let later: Option<i64> =
            self.database.prepare_cached(sql)?.query_row([values::micros(span.until)], |row| row.get(0))?;
        Ok(later.unwrap_or(i64::MAX))
    }

    fn records(
        &self,
        condition: &str,
        order: &str,
        values: Vec<Value>,
        table: &str,
    ) -> Result<Vec<Record>, HistoryError> {
        let sql = format!(
            "SELECT r.number, r.time, r.kind, r.protocol, r.port, r.address, r.netns, r.cookie, r.monotonic,
                    r.delay, r.backend, r.found, r.count, r.outcome, r.reason, r.start, {}
             FROM {table} LEFT JOIN process p ON p.id = r.process
             LEFT JOIN description d ON d.id = p.description WHERE {condition} {order}",
            values::PROCESS
        );
        let mut statement = self.database.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.extend(self.record(row)?);
        }
        Ok(records)
    }

    /// `None` for a record of a kind that this version doesn't know.
    fn record(&self, row: &Row<'_>) -> Result<Option<Record>, HistoryError> {
        let number: i64 = row.get(0)?;
        let time = values::time(row.get(1)?);
        let Some(kind) = Kind::from_repr(row.get(2)?) else { return Ok(None) };
        let Named { pid, uid, comm, thread, process } = values::process(row, 16)?;
        let told = |told| {
            let number = number.cast_unsigned();
            let found = row.get::<_, Option<bool>>(11)?.unwrap_or(false);
            Ok(Some(Record { number, told, process, found }))
        };
        if kind == Kind::Gap {
            let why = row.get::<_, Option<String>>(14)?.and_then(|why| why.parse().ok());
            let from = row.get::<_, Option<i64>>(15)?.map(values::time);
            return match why {
                Some(why) => told(Told::Gap(Gap { from, until: time, why })),
                None => Ok(None),
            };
        }
        let port_number: u16 = row.get(4)?;
        let Some(port) = values::port(row.get(3)?, port_number) else { return Ok(None) };
        let netns = row.get(6)?;
        let delay = row.get::<_, Option<i64>>(9)?.map(values::duration);
        if matches!(kind, Kind::Clean | Kind::DryRun) {
            let named = |at: usize| row.get::<_, Option<String>>(at);
            let Some(outcome) = named(13)?.and_then(|name| name.parse().ok()) else { return Ok(None) };
            let reason = named(14)?.and_then(|name| name.parse().ok());
            let owners = self.owners(number, port_number)?;
            let (dry_run, elapsed) = (kind == Kind::DryRun, delay.unwrap_or_default());
            return told(Told::Clean(Box::new(CleanTold {
                time,
                port,
                netns,
                pid,
                uid,
                comm,
                dry_run,
                outcome,
                reason,
                elapsed,
                owners,
            })));
        }
        let count = row.get::<_, Option<i64>>(12)?;
        let kind = match kind {
            Kind::Held => WatchKind::Held,
            Kind::Bind => WatchKind::Bind,
            Kind::Listen => WatchKind::Listen,
            Kind::Conflict => {
                let holders = self.holders(number, port_number)?;
                let total = count.and_then(|count| usize::try_from(count).ok());
                WatchKind::Conflict { total: total.unwrap_or(holders.len()), holders }
            }
            Kind::Refused => WatchKind::Refused,
            Kind::Release => WatchKind::Release,
            Kind::Free => WatchKind::Free,
            Kind::Lost => WatchKind::Lost {
                count: count.and_then(|count| u64::try_from(count).ok()),
                lost_in: LostIn::Anywhere,
            },
            Kind::Clean | Kind::DryRun | Kind::Gap => return Ok(None),
        };
        let address = row.get::<_, Option<Vec<u8>>>(5)?;
        told(Told::Event(WatchEvent {
            kind,
            port,
            time,
            monotonic_ns: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
            pid,
            uid,
            comm,
            thread,
            address: address.and_then(|bytes| values::read_address(&bytes, port_number)),
            netns,
            cookie: row.get::<_, Option<i64>>(7)?.map(i64::cast_unsigned),
            backend: values::read_backend(row.get(10)?),
            delay,
        }))
    }

    /// Those who had a part in a record, and what this makes of each.
    fn parties<T>(
        &self,
        number: i64,
        port: u16,
        make: impl Fn(&Row<'_>, Named, Option<std::net::SocketAddr>) -> rusqlite::Result<Option<T>>,
    ) -> Result<Vec<T>, HistoryError> {
        let sql = format!(
            "SELECT a.address, a.action, a.ended_by, a.ended_after, a.why, {}
             FROM party a LEFT JOIN process p ON p.id = a.process
             LEFT JOIN description d ON d.id = p.description WHERE a.number = ? ORDER BY a.place",
            values::PROCESS
        );
        let mut statement = self.database.prepare_cached(&sql)?;
        let mut rows = statement.query([number])?;
        let mut parties = Vec::new();
        while let Some(row) = rows.next()? {
            let address = row.get::<_, Option<Vec<u8>>>(0)?;
            let address = address.and_then(|bytes| values::read_address(&bytes, port));
            parties.extend(make(row, values::process(row, 5)?, address)?);
        }
        Ok(parties)
    }

    fn holders(&self, number: i64, port: u16) -> Result<Vec<NamedProcess>, HistoryError> {
        self.parties(number, port, |_, named, address| {
            Ok(Some(NamedProcess { pid: named.pid, comm: named.comm, address }))
        })
    }

    fn owners(&self, number: i64, port: u16) -> Result<Vec<OwnerTold>, HistoryError> {
        self.parties(number, port, |row, named, address| {
            let Some(action) = row.get::<_, Option<String>>(1)?.and_then(|name| name.parse().ok()) else {
                return Ok(None);
            };
            Ok(Some(OwnerTold {
                pid: named.pid,
                uid: named.uid,
                comm: named.comm,
                address,
                action,
                ended_by: row.get(2)?,
                ended_after: row.get::<_, Option<i64>>(3)?.map(values::duration),
                why: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
                process: named.process,
            }))
        })
    }
}

/// A condition on the record's port and namespace, and the values in it.
fn concerns(span: &Span) -> (String, Vec<i64>) {
    let mut values = Vec::new();
    let mut text = String::from("1");
    if !span.ports.is_empty() {
        let ports = span.ports.iter().map(|port| {
            values.push(port.number.into());
            values.push(protocol::number(port.protocol).into());
            "(?, ?)"
        });
        let ports: Vec<&str> = ports.collect();
        text = format!("(r.port, r.protocol) IN (VALUES {})", ports.join(", "));
    }
    if let Some(netns) = span.netns {
        values.push(netns.into());
        text.push_str(" AND r.netns IS ?");
    }
    (text, values)
}

impl HistoryReader for Reader {
    fn reach(&mut self) -> Result<Reach, HistoryError> {
        let since: Option<i64> = self
            .database
            .query_row("SELECT value FROM meta WHERE key = 'since'", [], |row| row.get(0))
            .optional()?;
        Ok(Reach {
            since: since.map_or_else(SystemTime::now, values::time),
            alive: self.alive,
            orderly: values::meta(&self.database, values::ENDED)?.is_some(),
        })
    }

    fn held(&mut self, span: &Span) -> Result<Vec<Record>, HistoryError> {
        let first = self.first(span)?;
        let (concerns, values) = concerns(span);
        let with_first = |times: usize| {
            let firsts = std::iter::repeat_n(first, times);
            firsts.chain(values.clone()).map(Value::from).collect::<Vec<_>>()
        };
        let mut held = self.records(
            &format!("o.number < ? AND {concerns}"),
            "ORDER BY r.number",
            with_first(1),
            "open o JOIN record r USING (number)",
        )?;
        // One that has ended since. Where its beginning was deleted, its end stands for it.
        held.extend(self.records(
            &format!("e.began < ? AND e.number >= ? AND {}", concerns.replace("r.", "e.")),
            "ORDER BY r.number",
            with_first(2),
            "record e JOIN record r ON r.number = coalesce((SELECT b.number FROM record b \
             WHERE b.number = e.began), e.number)",
        )?);
        for record in &mut held {
            if let Told::Event(event) = &mut record.told {
                event.kind = WatchKind::Held;
                event.delay = None;
            }
        }
        held.sort_by_key(|record| record.number);
        Ok(held)
    }

    fn page(&mut self, span: &Span, after: u64, most: usize) -> Result<Vec<Record>, HistoryError> {
        let Some((first, last)) = self.bounds(span)? else { return Ok(Vec::new()) };
        let first = first.max(after.cast_signed().saturating_add(1));
        let mut range = vec![first, last, values::micros(span.since), values::micros(span.until)];
        let mut netns = String::new();
        if let Some(inode) = span.netns {
            netns = " AND r.netns IS ?".to_owned();
            range.push(inode.into());
        }
        let within = "r.number BETWEEN ? AND ? AND r.time BETWEEN ? AND ?";
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let all = |condition: &str, more: &[i64]| {
            let values = range.iter().chain(more).chain([&limit]).copied().map(Value::from);
            let condition = format!("{within}{netns} AND {condition}");
            self.records(&condition, "ORDER BY r.number LIMIT ?", values.collect(), "record r")
        };
        // What concerns all ports and namespaces.
        let of_all = format!("{within} AND r.kind IN ({}, {})", Kind::Lost as u8, Kind::Gap as u8);
        let values = range[..4].iter().chain([&limit]).copied().map(Value::from);
        let mut records = self.records(&of_all, "ORDER BY r.number LIMIT ?", values.collect(), "record r")?;
        if span.ports.is_empty() {
            records.extend(all("1", &[])?);
        } else if span.ports.len() > PORTS_BY_INDEX {
            let (concerns, values) = concerns(&Span { netns: None, ..span.clone() });
            records.extend(all(&concerns, &values)?);
        } else {
            for port in &span.ports {
                let values = [port.number.into(), protocol::number(port.protocol).into()];
                records.extend(all("r.port = ? AND r.protocol = ?", &values)?);
            }
        }
        records.sort_by_key(|record| record.number);
        records.dedup_by_key(|record| record.number);
        records.truncate(most);
        Ok(records)
    }

    fn numbers(&mut self) -> Result<Numbers, HistoryError> {
        // One transaction, so that nothing comes or goes in between.
        let transaction = self.database.unchecked_transaction()?;
        let newest: Option<i64> =
            transaction.query_row("SELECT max(number) FROM record", [], |row| row.get(0))?;
        let meta = |key: &str| values::meta(&transaction, key);
        let trimmed = meta(values::TRIMMED)?.unwrap_or(0);
        let exported = match meta(values::EXPORTED)? {
            Some(through) => Some(Exported { through, origin: meta(values::EXPORT_ORIGIN)?.unwrap_or(0) }),
            None => None,
        };
        let last = newest.map_or(0, i64::cast_unsigned).max(trimmed);
        Ok(Numbers { last, trimmed, exported })
    }

    fn after(&mut self, number: u64, most: usize) -> Result<Vec<Record>, HistoryError> {
        let values = vec![number.cast_signed().into(), i64::try_from(most).unwrap_or(i64::MAX).into()];
        self.records("r.number > ?", "ORDER BY r.number LIMIT ?", values, "record r")
    }
}
