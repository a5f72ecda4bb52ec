//! The guard of ports: the maps by which its programs decide. The kernel program `watcher-ebpf/src/guard.rs` is the other half.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError};
use watcher_common::{Badge, FileQuestion, Record as _, file};

use super::Ports;
use super::load::{LoadError, Loader};
use super::sys;
use crate::model::Port;
use crate::platform::contract::Guard;
use crate::platform::linux::protocol;

/// The maps that only the guard's programs refer to.
pub(super) const MAPS: &[&str] = &[GUARDED, ADMITTED, OVERRIDING];
const GUARDED: &str = "GUARDED";
const ADMITTED: &str = "ADMITTED";
const OVERRIDING: &str = "OVERRIDING";

/// The program that tells a file's numbers.
pub(super) const NUMBER_PROGRAM: &str = "file_number";

/// A badge, as the map has it.
type Key = [u8; size_of::<Badge>()];

/// The guard in the kernel. Its programs stay attached as long as the observer does.
pub(super) struct KernelGuard {
    ports: Ports,
    admitted: HashMap<MapData, Key, u8>,
    overriding: HashMap<MapData, u32, u8>,
    number: OwnedFd,
}

impl KernelGuard {
    /// With no port guarded.
    ///
    /// # Errors
    /// If the object has been asked for it before, or the kernel refuses.
    pub(super) fn new(loader: &mut Loader) -> Result<Self, LoadError> {
        let refused = |name: &str, error: &MapError| LoadError::Map {
            name: name.to_owned(),
            error: error.to_string(),
            refusal: None,
        };
        let admitted = Map::HashMap(loader.take_map(ADMITTED)?);
        let overriding = Map::HashMap(loader.take_map(OVERRIDING)?);
        Ok(Self {
            ports: Ports::new(loader.take_map(GUARDED)?)?,
            admitted: admitted.try_into().map_err(|error| refused(ADMITTED, &error))?,
            overriding: overriding.try_into().map_err(|error| refused(OVERRIDING, &error))?,
            number: loader.load_to_run(NUMBER_PROGRAM)?,
        })
    }

    fn badge(&self, port: Port, program: &File, uid: u32) -> io::Result<Badge> {
        let descriptor = u64::from(program.as_raw_fd().cast_unsigned());
        let ask = |part: u32| sys::run(self.number.as_fd(), &FileQuestion { descriptor, part: part.into() });
        let inode = u64::from(ask(file::INODE_LOW)?) | u64::from(ask(file::INODE_HIGH)?) << 32;
        let badge = Badge {
            inode,
            device: ask(file::DEVICE)?,
            uid,
            port: port.number.into(),
            protocol: protocol::number(port.protocol).into(),
        };
        if inode == 0 {
            return Err(io::Error::other("the kernel does not tell which file it is"));
        }
        Ok(badge)
    }
}

impl Guard for KernelGuard {
    fn set_ports(&mut self, ports: &[Port]) -> io::Result<()> {
        self.ports.set(ports).map_err(|error| io::Error::other(error.to_string()))
    }

    fn admit(&mut self, port: Port, program: &File, uid: u32) -> io::Result<()> {
        let key = key(&self.badge(port, program, uid)?);
        self.admitted.insert(key, 1, 0).map_err(said)
    }

    fn forget(&mut self, port: Port) {
        let of_port = |key: &Key| {
            Badge::read(key).is_some_and(|badge| {
                badge.port == u32::from(port.number)
                    && badge.protocol == u32::from(protocol::number(port.protocol))
            })
        };
        let keys: Vec<Key> = self.admitted.keys().flatten().filter(of_port).collect();
        for key in keys {
            let _ = self.admitted.remove(&key);
        }
    }

    fn override_for(&mut self, pid: u32, is_let_in: bool) -> io::Result<()> {
        if is_let_in {
            return self.overriding.insert(pid, 1, 0).map_err(said);
        }
        self.overriding.remove(&pid).map_err(said)
    }
}

fn key(badge: &Badge) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(badge.bytes());
    key
}

fn said(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
