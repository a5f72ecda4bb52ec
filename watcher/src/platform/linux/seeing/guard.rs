//! The guard of ports: the maps by which its programs decide. The kernel program `watcher-ebpf/src/guard.rs` is the other half.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use watcher_common::{ANYBODY, Badge, FileQuestion, Record as _, file};

use super::Ports;
use super::load::{LoadError, Loader};
use super::stream::kernel_now;
use super::sys;
use crate::model::Port;
use crate::platform::contract::{Admitted, Guard, ProgramNumber};
use crate::platform::linux::protocol;

/// The maps that only the guard's programs refer to.
pub(super) const MAPS: &[&str] = &[GUARDED, ADMITTED, OVERRIDING, BEAT, "TOLD"];
const GUARDED: &str = "GUARDED";
const ADMITTED: &str = "ADMITTED";
const OVERRIDING: &str = "OVERRIDING";
const BEAT: &str = "BEAT";

/// The program that tells a file's numbers.
pub(super) const NUMBER_PROGRAM: &str = "file_number";

/// A badge, as the map has it.
type Key = [u8; size_of::<Badge>()];

/// The guard in the kernel. Its programs stay attached as long as the observer does.
pub(super) struct KernelGuard {
    ports: Ports,
    admitted: HashMap<MapData, Key, u8>,
    overriding: HashMap<MapData, u32, u8>,
    beat: Array<MapData, u64>,
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
        let number = loader.load_to_run(NUMBER_PROGRAM)?;
        let admitted = Map::HashMap(loader.take_map(ADMITTED)?);
        let overriding = Map::HashMap(loader.take_map(OVERRIDING)?);
        let beat = Map::Array(loader.take_map(BEAT)?);
        Ok(Self {
            ports: Ports::new(loader.take_map(GUARDED)?)?,
            admitted: admitted.try_into().map_err(|error| refused(ADMITTED, &error))?,
            overriding: overriding.try_into().map_err(|error| refused(OVERRIDING, &error))?,
            beat: beat.try_into().map_err(|error| refused(BEAT, &error))?,
            number,
        })
    }
}

impl Guard for KernelGuard {
    fn set(&mut self, port: Port, whom: &[Admitted]) -> io::Result<()> {
        let before: Vec<Key> = self.admitted.keys().flatten().filter(|key| is_of(key, port)).collect();
        let keys: Vec<Key> = whom.iter().map(|who| key(&badge(port, who))).collect();
        // In this order, because nobody is refused meanwhile who is let in before and after.
        for key in &keys {
            self.admitted.insert(key, 1, 0).map_err(said)?;
        }
        let mut guarded: Vec<Port> =
            self.ports.watched.iter().copied().filter(|&other| other != port).collect();
        if !whom.is_empty() {
            guarded.push(port);
        }
        self.ports.set(&guarded).map_err(|error| io::Error::other(error.to_string()))?;
        for old in before.iter().filter(|old| !keys.contains(old)) {
            let _ = self.admitted.remove(old);
        }
        Ok(())
    }

    fn number(&self, program: &File) -> io::Result<ProgramNumber> {
        let descriptor = u64::from(program.as_raw_fd().cast_unsigned());
        let ask = |part: u32| sys::run(self.number.as_fd(), &FileQuestion { descriptor, part: part.into() });
        let inode = u64::from(ask(file::INODE_LOW)?) | u64::from(ask(file::INODE_HIGH)?) << 32;
        if inode == 0 {
            return Err(io::Error::other("the kernel does not tell which file it is"));
        }
        Ok(ProgramNumber { device: ask(file::DEVICE)?, inode })
    }

    fn beat(&mut self) {
        if let Err(error) = self.beat.set(0, kernel_now(), 0) {
            tracing::debug!(%error, "the kernel can't be told that the agent lives");
        }
    }

    fn override_for(&mut self, pid: u32, is_let_in: bool) -> io::Result<()> {
        if is_let_in {
            return self.overriding.insert(pid, 1, 0).map_err(said);
        }
        self.overriding.remove(&pid).map_err(said)
    }
}

fn badge(port: Port, who: &Admitted) -> Badge {
    let (device, inode) = who.program.map_or((0, 0), |program| (program.device, program.inode));
    Badge {
        inode,
        device,
        uid: who.user.unwrap_or(ANYBODY),
        port: port.number.into(),
        protocol: protocol::number(port.protocol).into(),
    }
}

fn is_of(key: &Key, port: Port) -> bool {
    let badge = Badge::read(key);
    let protocol = u32::from(protocol::number(port.protocol));
    badge.is_some_and(|badge| (badge.port, badge.protocol) == (port.number.into(), protocol))
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
