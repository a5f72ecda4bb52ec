//! Keeps the program that finds holders until the next boot, where a BPF file system is mounted.
//!
//! To load it takes a third of a command's time, most of it in the verifier, and gives the same each time. So root's first command
//! pins it with its maps, and later commands find it there. The maps have room for one command: whoever comes while another
//! uses them loads a program of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use nix::sys::statfs::statfs;
use nix::unistd::geteuid;
use watcher_common::{Progress, Record, Settings};

use super::attach::TaskIterator;
use super::hooks::{self, Part};
use super::{kernel_layout, load, pins, sys};

/// Where systemd mounts a BPF file system.
const MOUNTED: &str = "/sys/fs/bpf";
/// In it, the folder that the package removes when it is removed.
const GATEWATCHS: &str = "/sys/fs/bpf/gatewatch";
const FOLDER: &str = "/sys/fs/bpf/gatewatch/holders";

/// The name of the program there. The maps have the names that they have in the object.
const PROGRAM: &str = "program";
/// Its name once it was seen that it understands the kernel's table of taken ports ([`super::bucket`]).
const TRIED: &str = "program_tried";
/// Its name while a command uses it. A command that is killed leaves it so, with ports in the maps, and no later one takes it.
const IN_USE: &str = "program_in_use";
const PORTS: &str = "PORTS";
const FOUND: &str = "HELD";
const PROGRESS: &str = "PROGRESS";
/// The maps that the program refers to and that a command reads or writes.
pub(super) const MAPS: [&str; 3] = [PORTS, FOUND, PROGRESS];

/// So many programs are kept at once.
const MOST_KEPT: usize = 8;
/// Tells an object from others.
const OBJECT_SUM: u64 = kernel_layout::sum(load::OBJECT);

/// The program that finds holders, and its maps.
pub(super) struct KeptProgram {
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
        if !is_there() {
            return None;
        }
        let build = kernel_layout::build()?;
        let key =
            kernel_layout::sum(&[build.as_bytes(), &OBJECT_SUM.to_ne_bytes(), settings.bytes()].concat());
        let opened =
            pins::open_folder(Path::new(GATEWATCHS)).and_then(|_| pins::open_folder(Path::new(FOLDER)));
        let open = opened.inspect_err(|error| tracing::debug!(%error, "nothing is kept in {FOLDER}")).ok()?;
        open.try_lock().ok()?;
        Some(Self { key: format!("{key:016x}"), after: None, _open: open })
    }

    /// What was kept; `None` if it is not there.
    pub(super) fn take(&mut self) -> Option<KeptProgram> {
        self.find().inspect_err(|error| tracing::debug!(%error, "nothing is kept")).ok()
    }

    fn find(&mut self) -> io::Result<KeptProgram> {
        let take = |name: &'static str| fs::rename(self.path(name), self.path(IN_USE)).map(|()| name);
        let name = take(TRIED).or_else(|_| take(PROGRAM))?;
        let map = |name| MapData::from_fd(sys::pinned(&self.path(name))?).map_err(io::Error::other);
        let program = sys::pinned(&self.path(IN_USE))?;
        let link = sys::link_iterator(program.as_fd())?;
        let kept = KeptProgram {
            iterator: TaskIterator { program, link },
            ports: map(PORTS)?,
            found: map(FOUND)?,
            progress: map(PROGRESS)?,
            is_tried: name == TRIED,
        };
        // It is read and written by its length here.
        let length = kept.progress.info().map_err(io::Error::other)?.value_size();
        if length as usize != size_of::<Progress>() {
            return Err(io::Error::other("its maps are other ones"));
        }
        self.after = Some(name);
        Ok(kept)
    }

    /// Keeps the program and its [`MAPS`], in place of what was there. If they can't be kept, nothing is.
    pub(super) fn keep(&mut self, program: BorrowedFd<'_>, maps: &[OwnedFd; MAPS.len()]) {
        let mut parts = MAPS.into_iter().zip(maps.iter().map(AsFd::as_fd)).chain([(IN_USE, program)]);
        let pin = || parts.try_for_each(|(name, part)| sys::pin(part, &self.path(name)));
        let kept = pins::pin_anew(|| self.clear(), pin);
        self.after = kept
            .inspect_err(|error| tracing::debug!(%error, "nothing is kept in {FOLDER}"))
            .is_ok()
            .then_some(PROGRAM);
    }

    /// Removes what is kept under this key, and all if there is much: of other namespaces, and of builds that are gone.
    fn clear(&self) -> io::Result<()> {
        let kept: Vec<PathBuf> = fs::read_dir(FOLDER)?
            .map(|entry| entry.map(|entry| entry.path()))
            .filter(|path| path.as_ref().map_or(true, |path| is_kept(path)))
            .collect::<io::Result<_>>()?;
        let is_much = kept.len() >= MOST_KEPT * (MAPS.len() + 1);
        let is_ours = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(self.key.as_bytes()))
        };
        kept.iter().filter(|path| is_much || is_ours(path)).try_for_each(fs::remove_file)
    }

    /// The program was seen to understand the kernel's table of taken ports.
    pub(super) fn note_tried(&mut self) {
        self.after = self.after.map(|_| TRIED);
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(format!("{}_{name}", self.key))
    }
}

/// Whether a BPF file system is mounted there, in which nobody but root can remove what is root's.
fn is_there() -> bool {
    const STICKY: u32 = 0o1000;
    let is_sticky = |about: &fs::Metadata| about.uid() == 0 && about.mode() & STICKY != 0;
    statfs(MOUNTED).is_ok_and(|about| about.filesystem_type() == pins::BPF_FS)
        && fs::metadata(MOUNTED).is_ok_and(|about| kernel_layout::is_roots_own(&about) || is_sticky(&about))
}

/// Whether a file has a name that is given here.
fn is_kept(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once('_')
        .is_some_and(|(key, _)| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(name) = self.after {
            // Without it, the next command loads a program of its own.
            let _ = fs::rename(self.path(IN_USE), self.path(name));
        }
    }
}
