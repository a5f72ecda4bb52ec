//! Network namespaces: the same number is a different port in each.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

use crate::platform::contract::NetnsError;

/// The magic number of the file system of namespaces (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub(crate) struct Netns {
    inode: u32,
    /// The file to enter it by; `None` if this process is already in it.
    file: Option<Arc<File>>,
}

impl Netns {
    /// The namespace that this process is in.
    pub(crate) fn current() -> io::Result<Self> {
        Ok(Self { inode: inode(&File::open("/proc/self/ns/net")?)?, file: None })
    }

    /// The namespace at a path. It is entered once, to find out now rather than later whether that is possible.
    pub(crate) fn at(path: &Path) -> Result<Self, NetnsError> {
        let open = |error| NetnsError::Open { path: path.to_owned(), error };
        let file = File::open(path).map_err(open)?;
        if fstatfs(&file).map_err(|error| open(error.into()))?.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::Other(path.to_owned()));
        }
        let found = inode(&file).map_err(open)?;
        if Self::current().map_err(open)?.inode == found {
            return Ok(Self { inode: found, file: None });
        }
        let netns = Self { inode: found, file: Some(Arc::new(file)) };
        match netns.run(|| ()) {
            Ok(()) => Ok(netns),
            // setns(2) returns EINVAL for a namespace of another kind.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                Err(NetnsError::Other(path.to_owned()))
            }
            Err(error) => Err(NetnsError::Enter { path: path.to_owned(), error }),
        }
    }

    /// Its inode number, by which the kernel and `/proc` name it.
    pub(crate) fn inode(&self) -> u32 {
        self.inode
    }

    /// Runs `work` in the namespace: directly if this process is in it, else on a thread that enters it. A thread that
    /// has changed its namespace must not run anything else, so it ends with the work.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Some(file) = &self.file else { return Ok(work()) };
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("gatewatch-netns".to_owned()).spawn_scoped(scope, || {
                    setns(file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })?;
            thread.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
        })
    }
}

fn inode(file: &File) -> io::Result<u32> {
    u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)
}
