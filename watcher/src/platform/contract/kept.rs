//! Sockets of another process that are kept open over its end.

use std::{fmt, io};

/// A socket of another process, which stays open here when that process ends.
pub(crate) trait KeptSocket: Send + Sync + fmt::Debug {
    /// Whether clients can still reach it: a process that shuts a listener down stops it for all that hold it.
    fn serves(&self) -> bool;

    /// The connections that wait to be accepted; `None` where there is no such queue, or the system does not tell.
    fn queue(&self) -> Option<Queue>;

    /// Lets it listen, also if it was shut down, with room for so many connections, or for as many as the system allows.
    ///
    /// # Errors
    /// If the system refuses.
    fn listen(&self, room: u32) -> io::Result<()>;

    /// What a process does with it.
    fn used_by(&self, pid: u32) -> Use;

    /// Its number here, for [`Platform::hand_on`].
    fn descriptor(&self) -> i32;
}

/// The queue of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) struct Queue {
    /// How many connections wait.
    pub(crate) waiting: u32,
    /// How many may.
    pub(crate) room: u32,
}

/// What a process does with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) enum Use {
    /// It does not hold it.
    Absent,
    /// It holds it, and is not seen to wait for what comes on it.
    Held,
    /// It waits for what comes on it.
    Waited,
    /// It may hold it, or wait for what comes on it, and this is why that can't be told.
    Hidden(&'static str),
}

/// Why a socket could not be kept.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) enum KeepError {
    /// The system can't copy another process's socket.
    #[error("keeping a socket needs Linux 5.6 (pidfd_getfd): leave --keep-listening out")]
    Unsupported,
    /// This user may not.
    #[error(
        "this user may not copy the socket of process {pid} (pidfd_getfd): that takes root, or CAP_SYS_PTRACE, or a \
         process of the same user that Yama leaves alone"
    )]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// It is another one by now, or gone.
    #[error("process {pid} no longer holds the socket that was seen: try again")]
    Changed {
        /// The process.
        pid: u32,
    },
    /// systemd does not take it into the store of a unit.
    #[error("the sockets can't be put into systemd's store of {unit}: {error}")]
    Store {
        /// The unit.
        unit: String,
        /// Why not.
        error: io::Error,
    },
    /// Another error of the system.
    #[error("the socket of process {pid} can't be copied: {error}")]
    Other {
        /// The process.
        pid: u32,
        /// What the system said.
        error: io::Error,
    },
}
