//! OpenClaw's own record of its live gateway: its row is read from a private copy of the database, so that no lock is
//! taken on the original, and SQLite writes nothing beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, User};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tracing::debug;

use crate::model::{RECORD_LIMIT, RecordFault, RecordFile};

/// More than a row has.
const LARGEST_VALUE: i32 = 1 << 20;
/// How long a copy is tried anew because the files changed meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest time for the query: the schema is the file's, and can make it endless.
const LONGEST_QUERY: Duration = Duration::from_secs(1);

const QUERY: &str =
    "SELECT payload_json FROM state_leases WHERE scope = 'gateway-owner' AND lease_key = 'global' LIMIT 1";

/// A user's home folder.
pub(super) fn home(user: u32) -> Option<PathBuf> {
    User::from_uid(Uid::from_raw(user)).ok().flatten().map(|user| user.dir)
}

impl From<io::Error> for RecordFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Missing,
            ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::System(number(&error)),
        }
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl From<rusqlite::Error> for RecordFault {
    fn from(error: rusqlite::Error) -> Self {
        debug!(%error, "reading the copy of the owner record");
        Self::NotADatabase
    }
}

/// The row's JSON; `None` where there is no row. What is no text is given as none that can be parsed.
pub(super) fn row(candidate: &RecordFile) -> Result<Option<String>, RecordFault> {
    let folder = tempfile::tempdir().map_err(no_copy)?;
    let copy = folder.path().join("copy.sqlite");
    let begun = Instant::now();
    loop {
        make_copy(candidate, &copy)?;
        // The database and its log fit each other at any one moment, because SQLite must be able to go on after a crash.
        // What is found unchanged once both are copied is what they were at a moment between.
        if is_unchanged(candidate, &copy)? {
            return query(&copy);
        }
        if begun.elapsed() > PATIENCE {
            return Err(RecordFault::Changing);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
fn no_copy(error: io::Error) -> RecordFault {
    RecordFault::NoCopy(number(&error))
}

/// The database and its log of changes, each with the place of its copy.
fn files(candidate: &RecordFile, copy: &Path) -> [(PathBuf, PathBuf); 2] {
    [(candidate.path.clone(), copy.to_owned()), (log_of(&candidate.path), log_of(copy))]
}

fn make_copy(candidate: &RecordFile, copy: &Path) -> Result<(), RecordFault> {
    for (from, to) in files(candidate, copy) {
        match open_if_exists(candidate, &from)? {
            Some(text) => {
                let copied =
                    File::create(to).and_then(|mut to| io::copy(&mut text.take(RECORD_LIMIT + 1), &mut to));
                if copied.map_err(no_copy)? > RECORD_LIMIT {
                    return Err(RecordFault::TooLarge);
                }
            }
            None => drop(fs::remove_file(to)),
        }
    }
    Ok(())
}

/// Compares the files with their copies. The times of the files say less: kernels before 6.13 stamp them with the time of
/// the last tick.
fn is_unchanged(candidate: &RecordFile, copy: &Path) -> Result<bool, RecordFault> {
    for (from, to) in files(candidate, copy) {
        let same = match (open_if_exists(candidate, &from)?, File::open(to)) {
            (Some(text), Ok(copy)) => is_same(text, copy).map_err(no_copy)?,
            (None, Err(_)) => true,
            (Some(_), Err(_)) | (None, Ok(_)) => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_same(one: File, other: File) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Finds and opens the database, or its log; `None` if there is no log, which exists only while a process has the database
/// open.
fn open_if_exists(candidate: &RecordFile, path: &Path) -> Result<Option<File>, RecordFault> {
    match find(candidate, path) {
        // That it is missing was said by now: what is missing here is /proc.
        Ok(place) => open(&place).map(Some).map_err(|error| RecordFault::System(number(&error))),
        Err(RecordFault::Missing) if *path != candidate.path => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The log of changes that are not in the database yet (SQLite's WAL).
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Finds a file without opening it for reading, because even to open a device can have an effect, and judges it.
fn find(candidate: &RecordFile, path: &Path) -> Result<File, RecordFault> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Not by `OpenOptions`: with musl it takes O_PATH for an access mode, and leaves it out.
    let place = File::from(nix::fcntl::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let metadata = place.metadata()?;
    if metadata.is_symlink() {
        return Err(RecordFault::Link);
    }
    if !metadata.is_file() {
        return Err(RecordFault::NotAFile);
    }
    if !is_trusted(candidate, path, metadata.uid()) {
        return Err(RecordFault::Stranger(metadata.uid()));
    }
    if metadata.len() > RECORD_LIMIT {
        return Err(RecordFault::TooLarge);
    }
    Ok(place)
}

fn is_trusted(candidate: &RecordFile, path: &Path, uid: u32) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let of_folder = || fs::metadata(folder).is_ok_and(|folder| folder.uid() == uid);
    candidate.users.contains(&uid) || (candidate.named && of_folder())
}

/// Opens the very file that was found. It is not waited for, also where another process has a lease on it.
fn open(place: &File) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn query(copy: &Path) -> Result<Option<String>, RecordFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(copy, flags)?;
    // What the file brings along is data, not a program.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    database.set_limit(Limit::SQLITE_LIMIT_LENGTH, LARGEST_VALUE)?;
    let begun = Instant::now();
    database.progress_handler(1000, Some(move || begun.elapsed() > LONGEST_QUERY));
    let has_table = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'state_leases'";
    if database.query_row(has_table, [], |row| row.get::<_, i64>(0))? == 0 {
        debug!("no table state_leases: OpenClaw of that age keeps no record of its gateway");
        return Ok(None);
    }
    let text = |row: &rusqlite::Row<'_>| {
        Ok(match row.get_ref(0)? {
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => String::new(),
        })
    };
    Ok(database.query_row(QUERY, [], text).optional()?)
}
