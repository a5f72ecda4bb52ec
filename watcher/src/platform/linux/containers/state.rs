//! Files of the runtimes, which run as root. A file counts only if nobody but root can have written it, or put it there; no
//! link is followed, nothing is waited for, and no more is read than a bound.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::platform::linux::host;

/// More than any runtime writes for a container: a configuration has some 10 KiB.
const MOST: u64 = 1024 * 1024;
/// What a mode has if the group, or all others, can write.
const OTHERS_WRITE: u32 = 0o022;

/// Why nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// No file says anything of it.
    #[error("no runtime known here keeps state of it as root: containerd, CRI-O, docker, podman")]
    Missing,
    /// This user may not look.
    #[error("only root may read its runtime's state")]
    Denied,
    /// Another user could have written it.
    #[error("its runtime's state is not root's alone to write")]
    NotRoots,
    /// It is too large, a link, or no file.
    #[error("its runtime's state is not a file of a size that is read")]
    NoFile,
    /// It is not what the runtime writes.
    #[error("its runtime's state has an unknown form")]
    Form,
    /// The state is of another pod than the one in whose control group the process is.
    #[error("its runtime's state is another pod's")]
    OtherPod,
    /// Another error of the system.
    #[error("its runtime's state can't be read: {0}")]
    Other(String),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT => Self::Missing,
            Errno::EACCES | Errno::EPERM => Self::Denied,
            // a link in the place of a folder
            Errno::ENOTDIR | Errno::ELOOP => Self::NoFile,
            other => Self::Other(other.desc().to_owned()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        error
            .raw_os_error()
            .map_or_else(|| Self::Other(error.to_string()), |errno| Errno::from_raw(errno).into())
    }
}

/// Where the runtimes' files lie.
pub(super) struct State {
    root: PathBuf,
    /// Whose they are.
    owner: u32,
}

/// A file as it is now: a file that replaces it is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file that was judged, and is not opened yet.
pub(super) struct Found {
    place: OwnedFd,
    metadata: Metadata,
}

impl State {
    /// The host's.
    pub(super) fn of_host() -> Self {
        Self { root: host::root().to_owned(), owner: 0 }
    }

    #[cfg(test)]
    pub(super) fn below(root: PathBuf, owner: u32) -> Self {
        Self { root, owner }
    }

    /// Finds a file by its path from the root, and judges it and each folder on the way.
    pub(super) fn find(&self, path: &Path) -> Result<Found, Fault> {
        let place = self.walk(path)?;
        let metadata = self.judge(&place)?;
        if !metadata.is_file() || metadata.len() > MOST {
            return Err(Fault::NoFile);
        }
        Ok(Found { place, metadata })
    }

    /// The names in a folder, so many at most, in order.
    pub(super) fn names(&self, path: &Path, most: usize) -> Result<Vec<OsString>, Fault> {
        let place = self.walk(path)?;
        self.judge(&place)?;
        let entries = fs::read_dir(by_descriptor(&place))?;
        let mut names: Vec<OsString> = entries.take(most).flatten().map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn walk(&self, path: &Path) -> Result<OwnedFd, Fault> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // What leads to the root of another process is a link.
        let mut place = open(&self.root, flags & !OFlag::O_NOFOLLOW, Mode::empty())?;
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(Fault::NoFile) };
            self.judge(&place)?;
            place = openat(&place, name, flags, Mode::empty())?;
        }
        Ok(place)
    }

    fn judge(&self, place: &OwnedFd) -> Result<Metadata, Fault> {
        let metadata = File::from(place.as_fd().try_clone_to_owned()?).metadata()?;
        let others_write = metadata.mode() & OTHERS_WRITE != 0 && !metadata.is_symlink();
        if metadata.uid() != self.owner || others_write { Err(Fault::NotRoots) } else { Ok(metadata) }
    }
}

impl Found {
    pub(super) fn version(&self) -> Version {
        let Self { metadata, .. } = self;
        Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Its content. It is not waited for, also where another process has a lease on it.
    pub(super) fn read(&self) -> Result<Vec<u8>, Fault> {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file =
            OpenOptions::new().read(true).custom_flags(flags.bits()).open(by_descriptor(&self.place))?;
        let mut bytes = Vec::new();
        // It may have grown since it was judged.
        file.take(MOST + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|read| read <= MOST) { Ok(bytes) } else { Err(Fault::NoFile) }
    }
}

fn by_descriptor(place: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", place.as_raw_fd()).into()
}
