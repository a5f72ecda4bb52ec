//! pidfds: a descriptor of a process goes on meaning that process when its pid is used again (pidfd_open(2), 5.3).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::system::{Asked, Handle, SignalError};

/// A process, held by its pidfd.
pub(super) struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    pub(super) fn open(pid: u32) -> Result<Self, SignalError> {
        let fd = open(pid).map_err(refused)?;
        // SAFETY: an OwnedFd owns its descriptor, and always gives the same one.
        let fd =
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self(fd))
    }

    fn signal(&self, signal: libc::c_int, name: &'static str) -> Result<&'static str, SignalError> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: pidfd_send_signal(2) with no siginfo fills it in as kill(2) does.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, 0) };
        Errno::result(sent).map_err(refused)?;
        Ok(name)
    }
}

/// `pidfd_open(2)`.
pub(super) fn open(pid: u32) -> nix::Result<OwnedFd> {
    // SAFETY: it takes two numbers and gives a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn refused(errno: Errno) -> SignalError {
    match errno {
        Errno::ESRCH => SignalError::Gone,
        Errno::EPERM => SignalError::NotPermitted,
        other => SignalError::Other(other.into()),
    }
}

impl Handle for PidFd {
    fn ask(&self) -> Result<Asked, SignalError> {
        self.signal(libc::SIGTERM, "SIGTERM").map(Asked::By)
    }

    fn force(&self) -> Result<&'static str, SignalError> {
        self.signal(libc::SIGKILL, "SIGKILL")
    }

    /// A pidfd becomes readable when the last thread has ended, reaped or not.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }
}
