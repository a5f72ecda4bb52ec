//! How single values lie in the database.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Row};
use strum::FromRepr;

use crate::model::{Backend, Described, Port};
use crate::platform::linux::protocol;

/// What a record is. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub(super) enum Kind {
    Held = 1,
    Bind = 2,
    Listen = 3,
    Conflict = 4,
    Release = 5,
    Free = 6,
    Lost = 7,
    Clean = 8,
    DryRun = 9,
    Gap = 10,
    Refused = 11,
}

/// The keys of numbers in the table `meta`: up to which record the deletion has come, how far the records were exported, up to
/// which one those that are missing were missing before that began, whether the last agent ended in order, and in which ring
/// it left its events.
pub(super) const TRIMMED: &str = "trimmed";
pub(super) const EXPORTED: &str = "exported";
pub(super) const EXPORT_ORIGIN: &str = "export_origin";
pub(super) const ENDED: &str = "ended";
pub(super) const RING: &str = "ring";

pub(super) fn meta(database: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT value FROM meta WHERE key = ?";
    let number: Option<i64> = database.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
    Ok(number.map(i64::cast_unsigned))
}

pub(super) fn set_meta(database: &Connection, key: &str, number: u64) -> rusqlite::Result<()> {
    let sql = "REPLACE INTO meta VALUES (?, ?)";
    database.prepare_cached(sql)?.execute((key, number.cast_signed()))?;
    Ok(())
}

pub(super) fn remove_meta(database: &Connection, key: &str) -> rusqlite::Result<()> {
    database.prepare_cached("DELETE FROM meta WHERE key = ?")?.execute([key])?;
    Ok(())
}

/// Microseconds since the epoch; before it, less than zero.
pub(super) fn micros(time: SystemTime) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

pub(super) fn time(micros: i64) -> SystemTime {
    let apart = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(apart)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(apart)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A duration in microseconds.
pub(super) fn length(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn port(protocol: u8, number: u16) -> Option<Port> {
    Some(Port { protocol: protocol::from_number(protocol)?, number })
}

pub(super) fn backend(backend: Backend) -> u8 {
    match backend {
        Backend::Ebpf => 1,
        Backend::Poll => 2,
        Backend::Agent => 3,
    }
}

pub(super) fn read_backend(number: u8) -> Backend {
    match number {
        1 => Backend::Ebpf,
        2 => Backend::Poll,
        _ => Backend::Agent,
    }
}

/// The bytes of the IP address; of a link-local one, the interface's index follows.
pub(super) fn address(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => {
            let mut bytes = v6.ip().octets().to_vec();
            if v6.scope_id() != 0 {
                bytes.extend(v6.scope_id().to_le_bytes());
            }
            bytes
        }
    }
}

pub(super) fn read_address(bytes: &[u8], port: u16) -> Option<SocketAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(SocketAddr::new(IpAddr::from(v4), port));
    }
    let (ip, interface) = bytes.split_at_checked(16)?;
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?);
    let interface = <[u8; 4]>::try_from(interface).map_or(0, u32::from_le_bytes);
    Some(SocketAddrV6::new(ip, port, 0, interface).into())
}

/// The arguments, each ended by a zero byte, as the kernel has them.
pub(super) fn argv(argv: &[String]) -> Vec<u8> {
    argv.iter().flat_map(|argument| argument.bytes().chain([0])).collect()
}

pub(super) fn read_argv(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// The columns of a process and its description, in the order in which [`process`] reads them.
pub(super) const PROCESS: &str = "p.pid, p.uid, d.comm, d.thread, p.start, d.user, d.argv, d.argv_cut, d.exe, \
                                  d.unit, d.container";

/// A process as a record names it.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) pid: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) comm: Option<String>,
    pub(super) thread: Option<String>,
    pub(super) process: Described,
}

/// Reads the columns of [`PROCESS`], which begin at this one.
pub(super) fn process(row: &Row<'_>, at: usize) -> rusqlite::Result<Named> {
    Ok(Named {
        pid: row.get(at)?,
        uid: row.get(at + 1)?,
        comm: row.get(at + 2)?,
        thread: row.get(at + 3)?,
        process: Described {
            start_time: row.get::<_, Option<i64>>(at + 4)?.map(time),
            user: row.get(at + 5)?,
            argv: row.get::<_, Option<Vec<u8>>>(at + 6)?.map(|bytes| read_argv(&bytes)),
            argv_cut: row.get::<_, Option<bool>>(at + 7)?.unwrap_or(false),
            exe: row.get(at + 8)?,
            unit: row.get(at + 9)?,
            container: row.get(at + 10)?,
        },
    })
}
