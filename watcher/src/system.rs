//! What the policy asks of an operating system, apart from observing: processes, signals, binds. Each system has its
//! own folder under `platform`.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::observe::{Holder, Socket};
use crate::process::Process;

/// Processes and binds of the running system.
pub trait System: Send + Sync {
    /// Reads what is known of a process. `tid` is a thread of it that is alive, for when its leader has ended.
    ///
    /// # Errors
    /// [`ProcessError`] when it is gone or not even its start time can be read.
    fn process(&self, pid: u32, tid: u32) -> Result<Process, ProcessError>;

    /// The parent's pid; `None` when there is none to be seen.
    fn parent(&self, pid: u32) -> Option<u32>;

    /// Takes a handle that goes on meaning this very process, even when its pid is used again.
    ///
    /// # Errors
    /// [`SignalError`].
    fn open(&self, pid: u32) -> Result<Box<dyn Handle>, SignalError>;

    /// Whether the process holds the socket at this moment.
    ///
    /// # Errors
    /// When that can't be told.
    fn holds(&self, holder: &Holder, socket: &Socket) -> io::Result<bool>;

    /// Binds once, and gives the port back at once; never listens.
    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind;

    /// Whether a listener on any address that includes the bound one makes the bind fail. Linux sees to that; on macOS and
    /// Windows a bind to one address succeeds beside a listener on all of them.
    fn bind_meets_every_listener(&self) -> bool;
}

impl<S: System + ?Sized> System for &S {
    fn process(&self, pid: u32, tid: u32) -> Result<Process, ProcessError> {
        (**self).process(pid, tid)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        (**self).parent(pid)
    }

    fn open(&self, pid: u32) -> Result<Box<dyn Handle>, SignalError> {
        (**self).open(pid)
    }

    fn holds(&self, holder: &Holder, socket: &Socket) -> io::Result<bool> {
        (**self).holds(holder, socket)
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        (**self).try_bind(address, how)
    }

    fn bind_meets_every_listener(&self) -> bool {
        (**self).bind_meets_every_listener()
    }
}

/// Why a process could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(String),
}

/// A process that can be ended. Dropping it does nothing to the process.
pub trait Handle: Send {
    /// Asks it to end.
    ///
    /// # Errors
    /// [`SignalError`].
    fn ask(&self) -> Result<Asked, SignalError>;

    /// Ends it by force, and says by which means (`SIGKILL`, `terminate`).
    ///
    /// # Errors
    /// [`SignalError`].
    fn force(&self) -> Result<&'static str, SignalError>;

    /// Ready once the process has ended, whether or not its parent has taken note.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// What became of a request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It was made by this means (`SIGTERM`, `close`), and time should be given for it.
    By(&'static str),
    /// Nothing reaches this process, or nothing that would not reach others as well: only force is left.
    Unreachable,
}

/// Why a process could not be signalled.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// This user may not.
    #[error("this user may not signal it")]
    NotPermitted,
    /// The system said something else.
    #[error(transparent)]
    Other(#[from] io::Error),
}

/// Where to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BindAddress {
    /// Address and port.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`; nothing for IPv4.
    pub v6_only: bool,
}

/// As which kind of server to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindAs {
    /// One that reuses the address as nearly all servers do: `SO_REUSEADDR` on Unix, `SO_EXCLUSIVEADDRUSE` on
    /// Windows.
    Server,
    /// One that sets nothing.
    Plain,
}

/// What a bind said.
#[derive(Debug)]
pub enum Bind {
    /// It succeeded.
    Free,
    /// The address is in use.
    Taken,
    /// Nothing can be told by binding: no permission for this port, no such address family.
    Untried(io::Error),
}

#[cfg(test)]
pub(crate) mod fake {
    //! A system made of a table of parents: for the rules that are pure.

    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    pub(crate) struct FakeSystem {
        parents: HashMap<u32, u32>,
        binds_succeed: bool,
    }

    impl FakeSystem {
        pub(crate) fn with_parents(parents: impl IntoIterator<Item = (u32, u32)>) -> Self {
            Self { parents: parents.into_iter().collect(), binds_succeed: false }
        }

        /// On which every bind succeeds, whoever listens.
        pub(crate) fn with_binds_that_succeed() -> Self {
            Self { parents: HashMap::new(), binds_succeed: true }
        }
    }

    impl System for FakeSystem {
        fn process(&self, _pid: u32, _tid: u32) -> Result<Process, ProcessError> {
            Err(ProcessError::Gone)
        }

        fn parent(&self, pid: u32) -> Option<u32> {
            self.parents.get(&pid).copied()
        }

        fn open(&self, _pid: u32) -> Result<Box<dyn Handle>, SignalError> {
            Err(SignalError::Gone)
        }

        fn holds(&self, _holder: &Holder, _socket: &Socket) -> io::Result<bool> {
            Ok(false)
        }

        fn try_bind(&self, _address: &BindAddress, _how: BindAs) -> Bind {
            if self.binds_succeed { Bind::Free } else { Bind::Taken }
        }

        fn bind_meets_every_listener(&self) -> bool {
            !self.binds_succeed
        }
    }
}
