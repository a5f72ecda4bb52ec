//! pidfds: a descriptor of a process always means that process, even when its pid is reused (pidfd_open(2), 5.3).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{file, foreign, status};
use crate::model::EndSignal;
use crate::platform::contract::{Asked, ProcessHandle, SignalError};
use crate::platform::unix;

/// A process, held by its pidfd.
pub(in crate::platform::linux) struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    pub(in crate::platform::linux) fn open(pid: u32) -> Result<Self, SignalError> {
        // What /proc said about this pid would be about another process.
        if let Some(why) = foreign::why() {
            return Err(io::Error::other(why).into());
        }
        let fd = open(pid).map_err(unix::refused)?;
        let fdinfo = file::text(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()).as_ref())?;
        agree(&fdinfo, pid)?;
        // SAFETY: an OwnedFd owns its descriptor, and always returns the same one.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(fd.map_err(io::Error::from)?))
    }

    fn signal(&self, signal: libc::c_int, name: &'static str) -> Result<&'static str, SignalError> {
        let (fd, no_info) = (self.0.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: pidfd_send_signal(2) with no siginfo fills it in as kill(2) does.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
        Errno::result(sent).map_err(unix::refused)?;
        Ok(name)
    }
}

/// `pidfd_open(2)`.
pub(in crate::platform::linux) fn open(pid: u32) -> nix::Result<OwnedFd> {
    // SAFETY: it takes two numbers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes sure that the process which was opened is the one that /proc shows by this pid. A pidfd's `fdinfo` tells the pid
/// that it has in the namespace of this /proc; -1 once it has ended (pidfd_open(2)). `NSpid:` begins with the same number,
/// and goes on with those of inner namespaces.
pub(super) fn agree(fdinfo: &str, pid: u32) -> Result<(), SignalError> {
    let first = |name| status::numbers(fdinfo, name).and_then(|mut numbers| numbers.next());
    let shown = first("Pid").unwrap_or("0");
    if shown == "-1" {
        return Err(SignalError::Gone);
    }
    let expected = pid.to_string();
    if shown == expected && first("NSpid").is_none_or(|number| number == expected) {
        return Ok(());
    }
    let why = format!("process {pid} is not the one that /proc shows by this number (there it is {shown})");
    Err(io::Error::other(why).into())
}

impl ProcessHandle for PidFd {
    fn terminate(&self, signal: EndSignal) -> Result<Asked, SignalError> {
        let (number, name) = unix::signal(signal);
        self.signal(number, name).map(Asked::By)
    }

    fn resume(&self) -> Result<(), SignalError> {
        self.signal(libc::SIGCONT, "SIGCONT").map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opened_process_must_be_the_one_that_proc_shows() {
        let of = |fdinfo: &str| agree(fdinfo, 12);
        assert!(of("pos:\t0\nPid:\t12\nNSpid:\t12\n").is_ok());
        // a process in a namespace below
        assert!(of("Pid:\t12\nNSpid:\t12\t1\n").is_ok());
        // before `NSpid:` (Linux 5.5)
        assert!(of("Pid:\t12\n").is_ok());
        assert!(matches!(of("Pid:\t-1\nNSpid:\t-1\n"), Err(SignalError::Gone)));
        for other in ["Pid:\t13\nNSpid:\t13\n", "Pid:\t0\nNSpid:\t0\n", "Pid:\t12\nNSpid:\t13\n", ""] {
            assert!(matches!(of(other), Err(SignalError::Other(_))), "{other:?}");
        }
    }

    #[tokio::test]
    async fn this_process_can_be_opened_and_an_ended_one_is_gone() {
        assert!(PidFd::open(std::process::id()).is_ok());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(matches!(PidFd::open(child.id()), Err(SignalError::Gone)));
    }
}
