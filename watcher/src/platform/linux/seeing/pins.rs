//! Keeps the agent's event programs at work while no agent runs: their links and their ring are pinned in a BPF file
//! system, where the next agent finds what happened meanwhile.
//!
//! The next agent attaches programs of its own first, because those of before may be of another version. Both see what
//! happens from then on, so the ring of before counts up to the first look of the next.
//!
//! Links to perf events can't be pinned, so `conflict` events are not kept.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, RingBuf};
use nix::sys::statfs::{FsType, fstatfs};
use watcher_common::{EVENT_LAYOUT, LOST_COUNTS, Record};

use super::hooks::{HOOKS, HookSpec, Part, Place, Role};
use super::stream::decode;
use super::sys;
use crate::platform::contract::Left;

/// The magic number of the BPF file system (`BPF_FS_MAGIC`, linux/magic.h).
pub(super) const BPF_FS: FsType = FsType(0xcafe_4a11);
/// What our names begin with: other programs have theirs beside them.
const OURS: &str = "gatewatch_";
/// The name of the counts of what found no room in the ring.
const LOST: &str = "lost";

/// The folder, which no other agent uses while this is kept.
pub(super) struct Pins {
    folder: PathBuf,
    /// Locked.
    _open: File,
}

impl Pins {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// Unless it is root's alone, in a BPF file system, and of no other agent that runs: whoever can write there could
    /// have another ring read.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let open = open_folder(folder)?;
        open.try_lock().map_err(|_| io::Error::other("another agent keeps its events there"))?;
        Ok(Self { folder: folder.to_owned(), _open: open })
    }

    /// What the ring of before has, up to a moment of the monotonic clock; `None` if there is no such ring.
    pub(super) fn left(&self, until_ns: u64) -> io::Result<Option<Left>> {
        let (Some(events), Some(lost)) = (self.map(&events())?, self.map(LOST)?) else { return Ok(None) };
        let ring = events.info().map_err(io::Error::other)?.id();
        let mut records = RingBuf::try_from(Map::RingBuf(events)).map_err(io::Error::other)?;
        let lost: Array<MapData, u64> = Array::try_from(Map::Array(lost)).map_err(io::Error::other)?;
        let mut left = Left { ring, events: Vec::new(), is_whole: true };
        while let Some(record) = records.next() {
            match watcher_common::Event::read(&record).and_then(|event| decode(&event)) {
                Some(event) if event.monotonic_ns < until_ns => left.events.push(event),
                // What came later, the agent itself sees.
                Some(_) => {}
                None => left.is_whole = false,
            }
        }
        // The agent before may have told of those, and may not.
        for at in 0..LOST_COUNTS {
            left.is_whole &= lost.get(&at, 0).map_err(io::Error::other)? == 0;
        }
        // Others can detach links to cgroups.
        for hook in HOOKS.iter().filter(|hook| matches!(hook.place, Place::Cgroup(_))) {
            let link = sys::pinned(&self.path(hook.program));
            left.is_whole &= link.and_then(|link| sys::is_attached_to_cgroup(link.as_fd())).unwrap_or(false);
        }
        Ok(Some(left))
    }

    fn map(&self, name: &str) -> io::Result<Option<MapData>> {
        match sys::pinned(&self.path(name)) {
            Ok(fd) => MapData::from_fd(fd).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pins our links and maps in place of those of before, and returns the ring's number.
    ///
    /// # Errors
    /// If one of them can't be pinned; then nothing is.
    pub(super) fn replace<'a>(
        &self,
        links: impl Iterator<Item = (&'static HookSpec, BorrowedFd<'a>)>,
        maps: &Maps,
    ) -> io::Result<u32> {
        pin_anew(|| self.clear(), || self.pin_all(links, maps))
    }

    fn pin_all<'a>(
        &self,
        links: impl Iterator<Item = (&'static HookSpec, BorrowedFd<'a>)>,
        maps: &Maps,
    ) -> io::Result<u32> {
        // Those of conflicts are links to perf events on some kernels, which can't be pinned; so on no kernel conflicts are kept.
        for (hook, link) in
            links.filter(|(hook, _)| !matches!(hook.role, Role::Optional(Part::Conflicts) | Role::Guard))
        {
            let name = hook.program;
            sys::pin(link, &self.path(name)).map_err(|error| {
                io::Error::other(format!("the hook {name} can't be kept on this kernel: {error}"))
            })?;
        }
        sys::pin(maps.events.as_fd(), &self.path(&events()))?;
        sys::pin(maps.lost.as_fd(), &self.path(LOST))?;
        Ok(maps.ring)
    }

    /// Removes what is pinned there under our names. Links end with that, unless a process has them open.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(OURS.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{OURS}{name}"))
    }
}

/// Pins in place of what is cleared. If something can't be pinned, nothing is.
pub(super) fn pin_anew<T>(
    clear: impl Fn() -> io::Result<()>,
    pin: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    clear()?;
    pin().or_else(|error| clear().and(Err(error)))
}

/// Opens a folder for pins, and makes it if it is missing.
///
/// # Errors
/// Unless it is root's alone, and in a BPF file system.
pub(super) fn open_folder(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let about = fs::symlink_metadata(folder)?;
    if !about.is_dir() || about.uid() != 0 || about.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is not a folder of root's alone (mode 700)"));
    }
    let open = File::open(folder)?;
    let opened = open.metadata()?;
    if fstatfs(&open)?.filesystem_type() != BPF_FS {
        return Err(io::Error::other("it is not in a BPF file system (mount -t bpf)"));
    }
    if (opened.dev(), opened.ino()) != (about.dev(), about.ino()) {
        return Err(io::Error::other("it is another folder than a moment before"));
    }
    Ok(open)
}

/// The name of the ring, with its layout's version.
fn events() -> String {
    format!("events_{EVENT_LAYOUT}")
}

/// Copies of the descriptors of the ring and the counts, to pin them by, and the ring's number.
pub(super) struct Maps {
    events: OwnedFd,
    lost: OwnedFd,
    ring: u32,
}

impl Maps {
    pub(super) fn of(events: &MapData, lost: &MapData) -> io::Result<Self> {
        let copy = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        let ring = events.info().map_err(io::Error::other)?.id();
        Ok(Self { events: copy(events)?, lost: copy(lost)?, ring })
    }
}
