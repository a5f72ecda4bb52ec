//! The agent's history: an SQLite database with a write-ahead log, of which one agent is the writer. What one agent has
//! committed survives its death, because the log is the system's by then.
//!
//! Names, command lines, units and containers are written once, however many events have them: an event refers to a
//! process, and a process to its description.

mod read;
#[cfg(test)]
mod tests;
mod values;
mod write;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::libc;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Linux;
use crate::platform::contract::{HistoryError, HistoryReader, HistorySystem, HistoryWriter};
use crate::platform::unix;

/// Its number in the file's head (`PRAGMA user_version`); a file of another version is put aside.
const VERSION: i32 = 1;
/// `GWHI`, in the file's head (`PRAGMA application_id`).
const APPLICATION: i32 = 0x4757_4849;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE description (
    id INTEGER PRIMARY KEY, hash INTEGER, last INTEGER,
    comm TEXT, thread TEXT, user TEXT, argv BLOB, argv_cut INTEGER, exe TEXT, unit TEXT, container TEXT);
CREATE INDEX description_hash ON description (hash);
CREATE TABLE process (
    id INTEGER PRIMARY KEY, last INTEGER, pid INTEGER, uid INTEGER, start INTEGER, description INTEGER);
CREATE TABLE record (
    number INTEGER PRIMARY KEY, time INTEGER, kind INTEGER, protocol INTEGER, port INTEGER, address BLOB,
    netns INTEGER, cookie INTEGER, process INTEGER, monotonic INTEGER, delay INTEGER, backend INTEGER,
    began INTEGER, found INTEGER, count INTEGER, outcome TEXT, reason TEXT, start INTEGER);
CREATE INDEX record_port ON record (port, number);
CREATE INDEX record_time ON record (time);
CREATE INDEX record_of_all ON record (number) WHERE kind IN (7, 10);
CREATE INDEX record_began ON record (port, began) WHERE began IS NOT NULL;
CREATE TABLE party (
    number INTEGER, place INTEGER, process INTEGER, address BLOB,
    action TEXT, ended_by TEXT, ended_after INTEGER, why TEXT,
    PRIMARY KEY (number, place)) WITHOUT ROWID;
CREATE TABLE open (number INTEGER PRIMARY KEY, listens INTEGER);
";

impl HistorySystem for Linux {
    fn write_history(path: &Path, begun: SystemTime) -> Result<Box<dyn HistoryWriter>, HistoryError> {
        Ok(Box::new(write::Writer::open(path, begun)?))
    }

    fn read_history(path: &Path) -> Result<Box<dyn HistoryReader>, HistoryError> {
        Ok(Box::new(read::Reader::open(path)?))
    }
}

impl From<rusqlite::Error> for HistoryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<io::Error> for HistoryError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// A file beside the history, named after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the folder if need be, and refuses one in which others could put another file in the history's place: root would
/// write to whatever that leads to.
fn prepare_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    unix::refuse_strangers(folder)
}

/// Opens a file that only this user can read, or creates it. A link is not followed.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, HistoryError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let database = Connection::open_with_flags(path, flags)?;
    // What the file brings along is data, not a program.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    // In KiB; there can be many readers.
    database.pragma_update(None, "cache_size", -512)?;
    database.pragma_update(None, "temp_store", "memory")?;
    Ok(database)
}

/// Whether it is a history that this program knows; an empty file is one to be.
fn is_known(database: &Connection) -> Result<bool, rusqlite::Error> {
    let number = |name: &str| database.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(number("application_id")? == APPLICATION && number("user_version")? == VERSION)
}

/// What tells one start of the host from the next.
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}
