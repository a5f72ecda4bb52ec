//! A process to end. macOS has no handle that always means the same process, so pid and start time are compared again
//! just before each signal.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process;
use crate::model::{EndSignal, StartTime};
use crate::platform::contract::{Asked, ProcessError, ProcessHandle, SignalError};
use crate::platform::unix;

/// A process that can be ended.
pub(in crate::platform) struct MacProcess {
    pid: u32,
    started: StartTime,
    /// Readable once the process has ended (`EVFILT_PROC`, kqueue(2)).
    exit: AsyncFd<OwnedFd>,
}

impl MacProcess {
    pub(in crate::platform) fn open(pid: u32) -> Result<Self, SignalError> {
        let queue = Kqueue::new().map_err(|error| SignalError::Other(error.into()))?;
        let ident = usize::try_from(pid).map_err(|error| SignalError::Other(io::Error::other(error)))?;
        let exit = KEvent::new(ident, EventFilter::EVFILT_PROC, EvFlags::EV_ADD, FilterFlag::NOTE_EXIT, 0, 0);
        // The filter is set before the start time is read, so it reports the exit of this very process.
        queue.kevent(&[exit], &mut [], None).map_err(unix::refused)?;
        let started = process::start_time(pid).map_err(|error| match error {
            ProcessError::Gone => SignalError::Gone,
            ProcessError::Unreadable(why) => SignalError::Other(io::Error::other(why)),
        })?;
        let queue: OwnedFd = queue.into();
        // SAFETY: an OwnedFd owns its descriptor, and always returns the same one.
        let exit = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) };
        Ok(Self { pid, started, exit: exit.map_err(io::Error::from)? })
    }

    fn signal(&self, signal: Signal, name: &'static str) -> Result<&'static str, SignalError> {
        if process::start_time(self.pid).ok() != Some(self.started) {
            return Err(SignalError::Gone);
        }
        let pid = i32::try_from(self.pid).map_err(|error| SignalError::Other(io::Error::other(error)))?;
        kill(Pid::from_raw(pid), signal).map_err(unix::refused)?;
        Ok(name)
    }
}

impl ProcessHandle for MacProcess {
    fn terminate(&self, signal: EndSignal) -> Result<Asked, SignalError> {
        let (number, name) = unix::signal(signal);
        let signal = Signal::try_from(number).map_err(|error| SignalError::Other(error.into()))?;
        self.signal(signal, name).map(Asked::By)
    }

    fn resume(&self) -> Result<(), SignalError> {
        self.signal(Signal::SIGCONT, "SIGCONT").map(drop)
    }

    fn force(&self) -> Result<&'static str, SignalError> {
        self.signal(Signal::SIGKILL, "SIGKILL")
    }

    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.exit.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }
}
