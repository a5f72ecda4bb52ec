//! The writer.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};
use tracing::warn;

use super::values::{self, Kind};
use super::{APPLICATION, SCHEMA, VERSION, beside, boot, connect, is_known, prepare_folder, private};
use crate::model::{
    CleanTold, Described, Gap, NamedProcess, OpenSocket, Record, SocketKey, Told, WatchEvent, WatchKind,
};
use crate::platform::contract::{Batch, Exported, HistoryError, HistoryWriter, LastRun};
use crate::platform::linux::protocol;

/// So many records are deleted at once, because other work waits meanwhile.
const DELETED_AT_ONCE: i64 = 5_000;
/// So many descriptions and processes are known without asking the database.
const KNOWN: usize = 4_096;

pub(super) struct Writer {
    database: Connection,
    /// Locked as long as this agent writes. Its time of change says when the agent was last known to run.
    lock: File,
    last_run: Option<LastRun>,
    next: u64,
    known: Known,
}

/// What is in the database already.
#[derive(Default)]
struct Known {
    descriptions: HashMap<Description, i64>,
    processes: HashMap<Process, i64>,
}

/// A process: its pid, its user, its start, and its description's row.
type Process = (Option<u32>, Option<u32>, Option<i64>, i64);

/// What many events have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Description {
    comm: Option<String>,
    thread: Option<String>,
    user: Option<String>,
    argv: Option<Vec<u8>>,
    argv_cut: bool,
    exe: Option<String>,
    unit: Option<String>,
    container: Option<String>,
}

impl Writer {
    pub(super) fn open(path: &Path, begun: SystemTime) -> Result<Self, HistoryError> {
        prepare_folder(path)?;
        let lock = private(&beside(path, ".lock"))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => HistoryError::Taken,
            std::fs::TryLockError::Error(error) => error.into(),
        })?;
        let alive = lock.metadata().and_then(|metadata| metadata.modified()).ok();
        let database = match begin(path) {
            // A damaged history must not keep the next one from being written.
            Err(HistoryError::Damaged(why)) => {
                let aside = beside(path, ".damaged");
                warn!(why, aside = %aside.display(), "the history is damaged, so it is put aside and begun anew");
                for suffix in ["", "-wal", "-shm"] {
                    let _ = std::fs::rename(beside(path, suffix), beside(&aside, suffix));
                }
                begin(path)?
            }
            begun => begun?,
        };
        let text = |key: &str| -> Result<Option<String>, rusqlite::Error> {
            database.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()
        };
        let orderly = values::meta(&database, values::ENDED)?.is_some();
        let ring = values::meta(&database, values::RING)?;
        let last: Option<i64> =
            database.query_row("SELECT max(time) FROM record", [], |row| row.get(0)).optional()?.flatten();
        let last_run = text("boot")?.map(|last_boot| {
            let alive = alive.into_iter().chain(last.map(values::time)).max();
            LastRun {
                alive: alive.unwrap_or_else(SystemTime::now).min(SystemTime::now()),
                orderly,
                same_boot: boot().is_some_and(|boot| boot == last_boot),
                ring: ring.and_then(|ring| ring.try_into().ok()),
            }
        });
        let newest: Option<i64> =
            database.query_row("SELECT max(number) FROM record", [], |row| row.get(0))?;
        // No number is given twice, also where every record was deleted.
        let trimmed = values::meta(&database, values::TRIMMED)?;
        let next = newest.map(i64::cast_unsigned).max(trimmed).map_or(1, |newest| newest + 1);
        values::remove_meta(&database, values::ENDED)?;
        database.execute("REPLACE INTO meta VALUES ('boot', ?)", [boot()])?;
        database.execute("INSERT OR IGNORE INTO meta VALUES ('since', ?)", [values::micros(begun)])?;
        let mut writer = Self { database, lock, last_run, next, known: Known::default() };
        writer.note_alive();
        Ok(writer)
    }

    fn pages(&self, name: &str) -> Result<u64, rusqlite::Error> {
        self.database.pragma_query_value(None, name, |row| row.get(0))
    }

    /// The bytes of the file that are in use.
    fn size(&self) -> Result<u64, rusqlite::Error> {
        let used = self.pages("page_count")?.saturating_sub(self.pages("freelist_count")?);
        Ok(used * self.pages("page_size")?)
    }

    /// The number and the time of the newest of the records to go next: they are the first ones, so that one with a wrong
    /// time takes no newer ones along. Those of sockets that are open now stay.
    fn cut(&self, oldest: i64, max_size: u64) -> Result<Option<(i64, i64)>, rusqlite::Error> {
        let is_too_large = self.size()? > max_size;
        let first = "SELECT number, time FROM record WHERE number NOT IN (SELECT number FROM open)
                     ORDER BY number LIMIT ?";
        let mut statement = self.database.prepare_cached(first)?;
        let mut rows = statement.query([DELETED_AT_ONCE])?;
        let mut cut = None;
        while let Some(row) = rows.next()? {
            let (number, time): (i64, i64) = (row.get(0)?, row.get(1)?);
            if time >= oldest && !is_too_large {
                break;
            }
            cut = Some((number, time));
        }
        Ok(cut)
    }
}

/// Opens the database, and gives an empty one its tables.
fn begin(path: &Path) -> Result<Connection, HistoryError> {
    let is_new = private(path)?.metadata()?.len() == 0;
    let database = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    if is_new {
        // Has to come before the first table.
        database.pragma_update(None, "auto_vacuum", "incremental")?;
    }
    database.pragma_update(None, "journal_mode", "wal")?;
    // The log is synced when it is copied to the file, and no commit waits for the disk.
    database.pragma_update(None, "synchronous", "normal")?;
    database.pragma_update(None, "journal_size_limit", 8 << 20)?;
    if is_new {
        let transaction = database.unchecked_transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    if !is_known(&database)? {
        return Err(HistoryError::Damaged("it is of another program, or of another version".to_owned()));
    }
    Ok(database)
}

impl HistoryWriter for Writer {
    fn last_run(&self) -> Option<LastRun> {
        self.last_run.as_ref().map(|last| LastRun { ..*last })
    }

    fn next_number(&self) -> u64 {
        self.next
    }

    fn open_sockets(&mut self) -> Result<Vec<OpenSocket>, HistoryError> {
        let query = format!(
            "SELECT r.number, o.listens, r.protocol, r.port, r.address, r.netns, r.cookie, {}
             FROM open o JOIN record r USING (number)
             LEFT JOIN process p ON p.id = r.process LEFT JOIN description d ON d.id = p.description",
            values::PROCESS
        );
        let mut statement = self.database.prepare(&query)?;
        let mut rows = statement.query([])?;
        let mut open = Vec::new();
        while let Some(row) = rows.next()? {
            let number: u16 = row.get(3)?;
            let Some(port) = values::port(row.get(2)?, number) else { continue };
            let address = row.get::<_, Option<Vec<u8>>>(4)?;
            let address = address.and_then(|bytes| values::read_address(&bytes, number));
            let cookie = row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned);
            let named = values::process(row, 7)?;
            open.push(OpenSocket {
                key: SocketKey::new(port, row.get(5)?, cookie, address),
                began: row.get(0)?,
                address,
                pid: named.pid,
                uid: named.uid,
                comm: named.comm,
                process: named.process,
                listens: row.get(1)?,
            });
        }
        Ok(open)
    }

    fn append(&mut self, batch: &Batch) -> Result<(), HistoryError> {
        let transaction = self.database.transaction()?;
        let mut used = HashSet::new();
        let last = batch.records.last().map_or(0, |(record, _)| record.number.cast_signed());
        let mut writing =
            Writing { transaction: &transaction, known: &mut self.known, used: &mut used, last };
        let appended = writing.append(batch).and_then(|()| transaction.commit());
        if let Err(error) = appended {
            // What was said to be there went with the transaction.
            self.known = Known::default();
            return Err(error.into());
        }
        if let Some((record, _)) = batch.records.last() {
            self.next = record.number + 1;
        }
        self.note_alive();
        Ok(())
    }

    fn trim(&mut self, keep: Duration, max_size: u64) -> Result<bool, HistoryError> {
        let oldest = SystemTime::now().checked_sub(keep).map_or(i64::MIN, values::micros);
        let Some((number, time)) = self.cut(oldest, max_size)? else { return Ok(false) };
        let transaction = self.database.transaction()?;
        for table in ["record", "party"] {
            let delete =
                format!("DELETE FROM {table} WHERE number <= ?1 AND number NOT IN (SELECT number FROM open)");
            transaction.execute(&delete, [number])?;
        }
        let open = "SELECT r.process FROM open o JOIN record r USING (number)";
        transaction
            .execute(&format!("DELETE FROM process WHERE last <= ?1 AND id NOT IN ({open})"), [number])?;
        transaction.execute(
            "DELETE FROM description WHERE last <= ?1 AND id NOT IN (SELECT description FROM process)",
            [number],
        )?;
        transaction.execute(
            "UPDATE meta SET value = max(value, ?1) WHERE key = 'since'",
            [time.saturating_add(1)],
        )?;
        let trimmed = values::meta(&transaction, values::TRIMMED)?.max(Some(number.cast_unsigned()));
        values::set_meta(&transaction, values::TRIMMED, trimmed.unwrap_or(0))?;
        transaction.commit()?;
        self.known = Known::default();
        self.database.execute_batch("PRAGMA incremental_vacuum(2000)")?;
        Ok(true)
    }

    fn note_exported(&mut self, exported: Exported) -> Result<(), HistoryError> {
        let transaction = self.database.transaction()?;
        values::set_meta(&transaction, values::EXPORTED, exported.through)?;
        values::set_meta(&transaction, values::EXPORT_ORIGIN, exported.origin)?;
        Ok(transaction.commit()?)
    }

    fn note_alive(&mut self) {
        // If that fails, the gap after the agent's end is told as longer than it was.
        let _ = self.lock.set_modified(SystemTime::now());
    }

    fn note_ring(&mut self, ring: Option<u32>) {
        let noted = match ring {
            Some(ring) => values::set_meta(&self.database, values::RING, ring.into()),
            None => values::remove_meta(&self.database, values::RING),
        };
        if let Err(error) = noted {
            warn!(%error, "where the agent leaves its events can't be noted in its history");
        }
    }

    fn note_end(&mut self) {
        self.note_alive();
        if let Err(error) = values::set_meta(&self.database, values::ENDED, 1) {
            warn!(%error, "the agent's end can't be noted in its history");
        }
    }
}

/// One transaction.
struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    known: &'a mut Known,
    /// The processes and descriptions that this batch refers to: their last use has been noted.
    used: &'a mut HashSet<(bool, i64)>,
    /// The number of its last record.
    last: i64,
}

/// The columns of a record, but for its number.
#[derive(Default)]
struct Columns {
    time: i64,
    kind: u8,
    protocol: Option<u8>,
    port: Option<u16>,
    address: Option<Vec<u8>>,
    netns: Option<u32>,
    cookie: Option<i64>,
    process: Option<i64>,
    monotonic: Option<i64>,
    delay: Option<i64>,
    backend: Option<u8>,
    count: Option<i64>,
    outcome: Option<&'static str>,
    reason: Option<&'static str>,
    start: Option<i64>,
}

impl Writing<'_> {
    fn append(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        for (record, began) in &batch.records {
            self.record(record, *began)?;
        }
        for (number, listens) in &batch.opened {
            self.transaction
                .prepare_cached("REPLACE INTO open VALUES (?, ?)")?
                .execute(params![number.cast_signed(), listens])?;
        }
        for number in &batch.closed {
            self.transaction
                .prepare_cached("DELETE FROM open WHERE number = ?")?
                .execute([number.cast_signed()])?;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, began: Option<u64>) -> rusqlite::Result<()> {
        let number = record.number.cast_signed();
        let c = match &record.told {
            Told::Event(event) => self.event(number, event, &record.process)?,
            Told::Clean(clean) => self.clean(number, clean, &record.process)?,
            Told::Gap(gap) => gap_columns(gap),
        };
        let sql = "INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
        self.transaction.prepare_cached(sql)?.execute(params![
            number,
            c.time,
            c.kind,
            c.protocol,
            c.port,
            c.address,
            c.netns,
            c.cookie,
            c.process,
            c.monotonic,
            c.delay,
            c.backend,
            began.map(u64::cast_signed),
            record.found.then_some(true),
            c.count,
            c.outcome,
            c.reason,
            c.start,
        ])?;
        Ok(())
    }

    fn event(&mut self, number: i64, event: &WatchEvent, described: &Described) -> rusqlite::Result<Columns> {
        let (kind, count) = match &event.kind {
            WatchKind::Held | WatchKind::Ready { .. } => (Kind::Held, None),
            WatchKind::Bind => (Kind::Bind, None),
            WatchKind::Listen => (Kind::Listen, None),
            WatchKind::Conflict { holders, total } => {
                for (place, holder) in holders.iter().enumerate() {
                    self.holder(number, place, holder)?;
                }
                (Kind::Conflict, i64::try_from(*total).ok())
            }
            WatchKind::Refused => (Kind::Refused, None),
            WatchKind::Release => (Kind::Release, None),
            WatchKind::Free => (Kind::Free, None),
            WatchKind::Lost { count, .. } => (Kind::Lost, count.and_then(|count| i64::try_from(count).ok())),
        };
        let thread = event.thread.clone();
        let process = self.process(event.pid, event.uid, event.comm.clone(), thread, described)?;
        Ok(Columns {
            time: values::micros(event.time),
            kind: kind as u8,
            protocol: Some(protocol::number(event.port.protocol)),
            port: Some(event.port.number),
            address: event.address.map(values::address),
            netns: event.netns,
            cookie: event.cookie.map(u64::cast_signed),
            process,
            monotonic: event.monotonic_ns.and_then(|number| i64::try_from(number).ok()),
            delay: event.delay.map(values::length),
            backend: Some(values::backend(event.backend)),
            count,
            ..Columns::default()
        })
    }

    fn clean(&mut self, number: i64, clean: &CleanTold, described: &Described) -> rusqlite::Result<Columns> {
        for (place, owner) in clean.owners.iter().enumerate() {
            let process = self.process(owner.pid, owner.uid, owner.comm.clone(), None, &owner.process)?;
            let ended_after = owner.ended_after.map(values::length);
            let (action, why) = (Some(owner.action.name()), Some(owner.why.as_str()));
            self.party(
                number,
                place,
                process,
                owner.address,
                action,
                owner.ended_by.as_deref(),
                ended_after,
                why,
            )?;
        }
        let process = self.process(clean.pid, clean.uid, clean.comm.clone(), None, described)?;
        Ok(Columns {
            time: values::micros(clean.time),
            kind: if clean.dry_run { Kind::DryRun } else { Kind::Clean } as u8,
            protocol: Some(protocol::number(clean.port.protocol)),
            port: Some(clean.port.number),
            netns: clean.netns,
            process,
            delay: Some(values::length(clean.elapsed)),
            outcome: Some(clean.outcome.name()),
            reason: clean.reason.map(Into::into),
            ..Columns::default()
        })
    }

    fn holder(&mut self, number: i64, place: usize, holder: &NamedProcess) -> rusqlite::Result<()> {
        let process = self.process(holder.pid, None, holder.comm.clone(), None, &Described::default())?;
        self.party(number, place, process, holder.address, None, None, None, None)
    }

    #[expect(clippy::too_many_arguments, reason = "they are a row's columns")]
    fn party(
        &self,
        number: i64,
        place: usize,
        process: Option<i64>,
        address: Option<SocketAddr>,
        action: Option<&str>,
        ended_by: Option<&str>,
        ended_after: Option<i64>,
        why: Option<&str>,
    ) -> rusqlite::Result<()> {
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let address = address.map(values::address);
        let sql = "INSERT INTO party VALUES (?,?,?,?,?,?,?,?)";
        self.transaction.prepare_cached(sql)?.execute(params![
            number,
            place,
            process,
            address,
            action,
            ended_by,
            ended_after,
            why
        ])?;
        Ok(())
    }

    /// The process's row; `None` if nothing is known of it.
    fn process(
        &mut self,
        pid: Option<u32>,
        uid: Option<u32>,
        comm: Option<String>,
        thread: Option<String>,
        described: &Described,
    ) -> rusqlite::Result<Option<i64>> {
        if pid.is_none() && uid.is_none() && comm.is_none() {
            return Ok(None);
        }
        let description = self.description(Description {
            comm,
            thread,
            user: described.user.clone(),
            argv: described.argv.as_deref().map(values::argv),
            argv_cut: described.argv_cut,
            exe: described.exe.clone(),
            unit: described.unit.clone(),
            container: described.container.clone(),
        })?;
        let key = (pid, uid, described.start_time.map(values::micros), description);
        if let Some(&id) = self.known.processes.get(&key) {
            self.note_use(true, id)?;
            return Ok(Some(id));
        }
        let (pid, uid, start, description) = key;
        let sql = "INSERT INTO process (last, pid, uid, start, description) VALUES (?,?,?,?,?)";
        let id = self.transaction.prepare_cached(sql)?.insert(params![0, pid, uid, start, description])?;
        if self.known.processes.len() >= KNOWN {
            self.known.processes.clear();
        }
        self.known.processes.insert(key, id);
        self.note_use(true, id)?;
        Ok(Some(id))
    }

    fn description(&mut self, description: Description) -> rusqlite::Result<i64> {
        if let Some(&id) = self.known.descriptions.get(&description) {
            self.note_use(false, id)?;
            return Ok(id);
        }
        let mut hasher = DefaultHasher::new();
        description.hash(&mut hasher);
        let hash = hasher.finish().cast_signed();
        let d = &description;
        let find = "SELECT id FROM description WHERE hash = ?1 AND comm IS ?2 AND thread IS ?3 AND user IS ?4
                    AND argv IS ?5 AND argv_cut IS ?6 AND exe IS ?7 AND unit IS ?8 AND container IS ?9";
        let columns = params![hash, d.comm, d.thread, d.user, d.argv, d.argv_cut, d.exe, d.unit, d.container];
        let found: Option<i64> =
            self.transaction.prepare_cached(find)?.query_row(columns, |row| row.get(0)).optional()?;
        let insert = "INSERT INTO description
                      (hash, last, comm, thread, user, argv, argv_cut, exe, unit, container)
                      VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let id = match found {
            Some(id) => id,
            None => self.transaction.prepare_cached(insert)?.insert(columns)?,
        };
        if self.known.descriptions.len() >= KNOWN {
            self.known.descriptions.clear();
        }
        self.known.descriptions.insert(description, id);
        self.note_use(false, id)?;
        Ok(id)
    }

    /// Notes, once a batch, that a process or a description is in use: it goes with the last record that has it.
    fn note_use(&mut self, is_process: bool, id: i64) -> rusqlite::Result<()> {
        if !self.used.insert((is_process, id)) {
            return Ok(());
        }
        let sql = if is_process {
            "UPDATE process SET last = ? WHERE id = ?"
        } else {
            "UPDATE description SET last = ? WHERE id = ?"
        };
        self.transaction.prepare_cached(sql)?.execute([self.last, id])?;
        Ok(())
    }
}

fn gap_columns(gap: &Gap) -> Columns {
    Columns {
        time: values::micros(gap.until),
        kind: Kind::Gap as u8,
        reason: Some(gap.why.name()),
        start: gap.from.map(values::micros),
        ..Columns::default()
    }
}
