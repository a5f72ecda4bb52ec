//! Processes and binds: what the jobs need of a system.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use super::kept::{KeepError, KeptSocket};
use crate::model::{Descriptor, EndSignal, Port, Process, Protocol, Socket};

/// Processes and binds of the running system, in one network namespace.
pub(crate) trait System: Send + Sync {
    /// Reads all that can be known about a process.
    ///
    /// # Errors
    /// [`ProcessError`] if it has ended, or not even its start time can be read.
    fn process(&self, pid: u32) -> Result<Process, ProcessError>;

    /// The process's short name, if `comm` is that of another of its threads, which acted so long ago: the kernel names the
    /// thread that acts.
    fn name_beside_thread(&self, pid: u32, comm: &str, ago: Duration) -> Option<String> {
        let _ = (pid, comm, ago);
        None
    }

    /// Adds what the runtime of its container calls the container and its pod, or why that can't be read: for people, so
    /// nothing may be decided by it. It reads files, but none that a user other than root can choose.
    fn name_container(&self, process: &mut Process) {
        let _ = process;
    }

    /// The short name of a process, and its user if known: all that an event tells. `None` if it can't be read.
    fn name(&self, pid: u32) -> Option<(String, Option<u32>)> {
        self.process(pid).ok().map(|process| (process.comm, process.uid))
    }

    /// A number that changes when another process, or another program, has the pid; `None` if that can't be told.
    fn incarnation(&self, pid: u32) -> Option<u64> {
        let _ = pid;
        None
    }

    /// Why a socket's holder can't be seen here; `None` if there is no other reason than the user.
    fn blindness(&self) -> Option<&'static str> {
        None
    }

    /// The parent's pid; `None` if no parent is visible.
    fn parent(&self, pid: u32) -> Option<u32>;

    /// Like [`Self::parent`], and tells why there is none.
    fn ancestor(&self, pid: u32) -> Ancestor {
        self.parent(pid).map_or(Ancestor::Top, Ancestor::Parent)
    }

    /// The children that have not ended, as far as they are visible. A process that ends leaves its children to another
    /// one, so they must be asked for before.
    fn children(&self, pid: u32) -> Vec<u32> {
        let _ = pid;
        Vec::new()
    }

    /// The processes of our network namespace whose name contains one of these texts, in whatever case: on Linux the first
    /// argument, elsewhere the short name. With `among`, no others than these are read.
    fn processes_named(&self, texts: &[&str], among: Option<Vec<u32>>) -> Vec<u32> {
        let _ = (texts, among);
        Vec::new()
    }

    /// The process with which this program ends as well: on Linux, PID 1 of its own pid namespace.
    fn own_init(&self) -> Option<u32> {
        None
    }

    /// Opens a handle that always means this very process, even when its pid is reused.
    ///
    /// # Errors
    /// [`SignalError`].
    fn open(&self, pid: u32) -> Result<Box<dyn ProcessHandle>, SignalError>;

    /// Whether the process holds the socket at this moment, by this descriptor or by any other.
    ///
    /// # Errors
    /// If that can't be determined.
    fn holds(&self, descriptor: &Descriptor, socket: &Socket) -> io::Result<bool>;

    /// The file at a path of the host, open without the right to read it.
    ///
    /// # Errors
    /// If it can't be had.
    fn program_at(&self, path: &Path) -> io::Result<File> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// All sockets that are bound to the port and do not listen, with or without a process that can be seen to hold them;
    /// `None` where the system does not list them. To ask can take milliseconds.
    fn bound(&self, port: Port) -> Option<Vec<Socket>> {
        let _ = port;
        None
    }

    /// Whether any process listens in our network namespace; true where that can't be told.
    fn has_listeners(&self) -> bool {
        true
    }

    /// Whether a process's socket has `SO_REUSEADDR`; `None` where that can't be told.
    fn reuses_address(&self, descriptor: &Descriptor, socket: &Socket) -> Option<bool> {
        let _ = (descriptor, socket);
        None
    }

    /// Takes a copy of a process's socket, which stays open here when the process ends: the very socket, or none.
    ///
    /// # Errors
    /// [`KeepError`].
    fn take_over(&self, descriptor: &Descriptor, socket: &Socket) -> Result<Box<dyn KeptSocket>, KeepError> {
        let _ = (descriptor, socket);
        Err(KeepError::Unsupported)
    }

    /// Binds once, and releases the port immediately; never listens.
    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind;
}

/// A file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// How many names it has.
    pub(crate) links: u64,
}

/// Why a process could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(String),
}

/// The next process on the line of a process's ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "these systems hide no parent"))]
pub(crate) enum Ancestor {
    /// Its parent, by its pid.
    Parent(u32),
    /// None: here the line ends. It is PID 1, or its parent lies outside of the pid namespace.
    Top,
    /// The process has ended, so its children have got another parent.
    Gone,
    /// It has one, and the system does not say which.
    Hidden,
}

/// A process that can be ended. Dropping the handle does nothing to the process.
pub(crate) trait ProcessHandle: Send {
    /// Asks the process to end by this signal.
    ///
    /// # Errors
    /// [`SignalError`].
    fn terminate(&self, signal: EndSignal) -> Result<Asked, SignalError>;

    /// Lets a suspended process run on, so that it gets what it was sent (SIGCONT).
    ///
    /// # Errors
    /// [`SignalError`].
    fn resume(&self) -> Result<(), SignalError> {
        Ok(())
    }

    /// Ends the process by force, and says by which method (`SIGKILL`, `terminate`).
    ///
    /// # Errors
    /// [`SignalError`].
    fn force(&self) -> Result<&'static str, SignalError>;

    /// Ready once the process has ended, whether or not its parent has reaped it.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The result of a request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was sent by this method (`SIGTERM`, `close`), and the process must be given time.
    By(&'static str),
    /// No request can reach this process alone, so only force remains.
    Unreachable,
}

/// Why a process could not be signalled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignalError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// This user may not signal it.
    #[error("this user may not signal it")]
    NotPermitted,
    /// Another error of the system.
    #[error(transparent)]
    Other(#[from] io::Error),
}

/// Where to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BindAddress {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The address and port.
    pub(crate) address: SocketAddr,
    /// `IPV6_V6ONLY`; ignored for IPv4.
    pub(crate) v6_only: bool,
}

/// Which socket options to bind with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindAs {
    /// The options that nearly all servers set: `SO_REUSEADDR` on Unix, `SO_EXCLUSIVEADDRUSE` on Windows. None by UDP on
    /// Unix, where few servers set it: with it, UDP sockets share a port, so that the bind would prove nothing.
    Server,
    /// No options.
    Plain,
}

/// The result of a bind.
#[derive(Debug)]
pub(crate) enum Bind {
    /// It succeeded.
    Free {
        /// Whether that proves that no process listens. Linux refuses a bind beside a listener on any address that
        /// includes the bound one; on macOS and Windows a bind to one address succeeds beside a listener on all of them.
        conclusive: bool,
    },
    /// The address is in use.
    Taken,
    /// The bind proves nothing: no permission for this port, or no such address family.
    Untried(io::Error),
}
