//! Keeps the program that finds holders until the next boot, where a BPF file system is mounted.
//!
//! To load it takes a third of a command's time, most of it in the verifier, and gives the same each time. So root's first command
//! pins it with its maps, and later commands find it there. The maps have room for one command: whoever comes while another
//! uses them loads a program of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use nix::sys::statfs::statfs;
use nix::unistd::geteuid;
use watcher_common::{Record, Settings};

use super::attach::TaskIterator;
use super::hooks::{self, Part};
use super::{kernel_layout, pins, sys};

/// Where systemd mounts a BPF file system.
const MOUNTED: &str = "/sys/fs/bpf";
/// In it, the folder that the package removes when it is removed.
const OURS: &str = "/sys/fs/bpf/gatewatch";
const FOLDER: &str = "/sys/fs/bpf/gatewatch/holders";

/// The name of the program there. The maps have the names that they have in the object.
const PROGRAM: &str = "program";
/// Its name once it was seen that it understands the kernel's table of taken ports ([`super::bucket`]).
const TRIED: &str = "program_tried";
/// Its name while a command uses it. One that is killed leaves its ports in the maps, and no later command takes the program.
const IN_USE: &str = "program_in_use";
const PORTS: &str = "PORTS";
const FOUND: &str = "HELD";
const PROGRESS: &str = "PROGRESS";
/// The maps that the program refers to and that a command reads or writes.
pub(super) const MAPS: [&str; 3] = [PORTS, FOUND, PROGRESS];

/// The program that finds holders, and its maps.
pub(super) struct Finder {
    pub(super) iterator: TaskIterator,
    /// Which ports are wanted, by bits.
    pub(super) ports: MapData,
    pub(super) found: MapData,
    pub(super) progress: MapData,
    /// Whether it was seen that it understands the kernel's table of taken ports.
    pub(super) is_tried: bool,
}

/// The folder where it is kept, which no other command uses while this exists.
pub(super) struct Kept {
    /// What names begin with. The program is of use to the same build of Gatewatch alone, and with the same settings.
    key: String,
    /// By which name the program is to be found after this command; `None` if it is not to be.
    after: Option<&'static str>,
    /// Locked.
    _open: File,
}

impl Kept {
    /// `None` where nothing is to be kept, or another command uses it.
    pub(super) fn open(settings: &Settings) -> Option<Self> {
        let is_off = [Part::Kept, Part::Btf, Part::Iterator].into_iter().any(Part::is_switched_off);
        if is_off || !geteuid().is_root() || !hooks::has_loops() {
            return None;
        }
        let is_mounted = statfs(MOUNTED).is_ok_and(|about| about.filesystem_type() == pins::BPF_FS);
        if !is_mounted {
            return None;
        }
        let build = kernel_layout::build()?;
        let key = kernel_layout::sum(&[build.as_bytes(), settings.bytes()].concat());
        let opened = pins::open_folder(Path::new(OURS)).and_then(|_| pins::open_folder(Path::new(FOLDER)));
        let open = opened.inspect_err(|error| tracing::debug!(%error, "nothing is kept in {FOLDER}")).ok()?;
        open.try_lock().ok()?;
        Some(Self { key: format!("{key:016x}"), after: None, _open: open })
    }

    /// What was kept; `None` if it is not there.
    pub(super) fn take(&mut self) -> Option<Finder> {
        let finder = self.find().inspect_err(|error| tracing::debug!(%error, "nothing is kept")).ok()?;
        tracing::debug!("the program that finds holders was kept");
        Some(finder)
    }

    fn find(&mut self) -> io::Result<Finder> {
        let take = |name: &'static str| fs::rename(self.path(name), self.path(IN_USE)).map(|()| name);
        let name = take(TRIED).or_else(|_| take(PROGRAM))?;
        let map = |name| MapData::from_fd(sys::pinned(&self.path(name))?).map_err(io::Error::other);
        let program = sys::pinned(&self.path(IN_USE))?;
        let link = sys::link_iterator(program.as_fd())?;
        let finder = Finder {
            iterator: TaskIterator { program, link },
            ports: map(PORTS)?,
            found: map(FOUND)?,
            progress: map(PROGRESS)?,
            is_tried: name == TRIED,
        };
        self.after = Some(name);
        Ok(finder)
    }

    /// Keeps the program and its [`MAPS`], in place of what was there. If they can't be kept, nothing is.
    pub(super) fn keep(&mut self, program: BorrowedFd<'_>, maps: &[OwnedFd; MAPS.len()]) {
        let clear = || fs::read_dir(FOLDER)?.try_for_each(|entry| fs::remove_file(entry?.path()));
        let keep = || {
            clear()?;
            let maps = MAPS.into_iter().zip(maps.iter().map(AsFd::as_fd));
            maps.chain([(IN_USE, program)]).try_for_each(|(name, part)| sys::pin(part, &self.path(name)))
        };
        match keep() {
            Ok(()) => self.after = Some(PROGRAM),
            Err(error) => {
                tracing::debug!(%error, "nothing is kept in {FOLDER}");
                let _ = clear();
            }
        }
    }

    /// The program was seen to understand the kernel's table of taken ports.
    pub(super) fn note_tried(&mut self) {
        self.after = self.after.map(|_| TRIED);
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(format!("{}_{name}", self.key))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(name) = self.after {
            // Without it, the next command loads a program of its own.
            let _ = fs::rename(self.path(IN_USE), self.path(name));
        }
    }
}
