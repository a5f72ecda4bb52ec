//! Keeps the agent's event programs at work while no agent runs: their links and their ring are pinned in a BPF file
//! system, where the next agent finds what happened meanwhile.
//!
//! The next agent attaches programs of its own first, because those of before may be of another version. Both see what
//! happens from then on, so the ring of before is read up to that moment, and ours from it on.
//!
//! Links to perf events can't be pinned, so `conflict` events are not kept.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use aya::maps::{Array, Map, MapData, RingBuf};
use nix::sys::statfs::{FsType, statfs};
use watcher_common::{LOST_COUNTS, Record};

use super::stream::decode;
use super::sys;
use crate::platform::contract::Left;

/// The magic number of the BPF file system (`BPF_FS_MAGIC`, linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// The names of the ring, and of the counts of what found no room in it.
pub(super) const EVENTS: &str = "events";
pub(super) const LOST: &str = "lost";

/// Makes the folder if it is missing. It must be root's alone: whoever can write there could have another ring read.
pub(super) fn open(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if statfs(folder)?.filesystem_type() != BPF_FS {
        return Err(io::Error::other("it is not in a BPF file system (mount -t bpf)"));
    }
    let about = fs::symlink_metadata(folder)?;
    if !about.is_dir() || about.uid() != 0 || about.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is not a folder of root's alone (mode 700)"));
    }
    Ok(())
}

/// What the ring of before has, up to a moment of the kernel's monotonic clock; `None` if there is no such ring.
pub(super) fn left(folder: &Path, until_ns: u64) -> io::Result<Option<Left>> {
    let Some(events) = map(&folder.join(EVENTS))? else { return Ok(None) };
    let Some(lost) = map(&folder.join(LOST))? else { return Ok(None) };
    let mut ring = RingBuf::try_from(Map::RingBuf(events)).map_err(io::Error::other)?;
    let lost: Array<MapData, u64> = Array::try_from(Map::Array(lost)).map_err(io::Error::other)?;
    let mut left = Left { events: Vec::new(), is_whole: true };
    while let Some(record) = ring.next() {
        let event = watcher_common::Event::read(&record).and_then(|event| decode(&event));
        // What came later, our own ring has as well.
        left.events.extend(event.filter(|event| event.monotonic_ns <= until_ns));
    }
    // The agent before may have told of those, and may not.
    for at in 0..LOST_COUNTS {
        left.is_whole &= lost.get(&at, 0).map_err(io::Error::other)? == 0;
    }
    Ok(Some(left))
}

fn map(path: &Path) -> io::Result<Option<MapData>> {
    match sys::pinned(path) {
        Ok(fd) => MapData::from_fd(fd).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what is pinned there. Links end with that, unless a process has them open.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Pins a map or a link. False if it is of a kind that can't be.
pub(super) fn pin(folder: &Path, name: &str, fd: BorrowedFd<'_>) -> io::Result<bool> {
    match sys::pin(fd, &folder.join(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies of the descriptors of the ring and the counts, to pin them by.
pub(super) struct Maps {
    pub(super) events: OwnedFd,
    pub(super) lost: OwnedFd,
}

impl Maps {
    pub(super) fn of(events: &MapData, lost: &MapData) -> io::Result<Self> {
        let copy = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        Ok(Self { events: copy(events)?, lost: copy(lost)? })
    }
}
