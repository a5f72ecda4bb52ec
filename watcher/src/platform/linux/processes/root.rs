//! Finding a file beneath a process's root on Linux: by `openat2` (5.6 and later), which neither follows a link nor
//! leaves the root, whatever is exchanged meanwhile. What it gives is the place alone; nothing is opened for reading
//! before the place was judged, because even to open a device can have an effect.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Error};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::Mode;

use crate::model::Process;
use crate::platform::contract::{Permissions, Place, ProcessRoot};
use crate::platform::unix;

/// The root folder of a process.
pub(crate) struct Root {
    folder: OwnedFd,
    path: PathBuf,
}

/// A file, folder or link that was found, and not opened yet.
pub(crate) struct Found(File);

impl ProcessRoot for Root {
    type Place = Found;

    fn of(process: &Process) -> io::Result<Self> {
        let path = process.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let folder = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { folder, path })
    }

    fn find(&self, path: &Path) -> io::Result<Found> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let found = match openat2(&self.folder, path, how) {
            // An older kernel has no such call, and a container's filter may refuse it.
            Err(Errno::ENOSYS | Errno::EPERM) => open(&self.path.join(path), flags, Mode::empty()),
            found => found,
        };
        Ok(Found(File::from(found?)))
    }

    fn permissions(file: &Metadata) -> Option<Permissions> {
        Some(unix::permissions(file))
    }
}

impl Place for Found {
    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    fn target(&self) -> io::Result<PathBuf> {
        readlinkat(&self.0, "").map(PathBuf::from).map_err(Error::from)
    }

    /// It is not waited for, also where another process has a lease on it.
    fn open(&self) -> io::Result<File> {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
