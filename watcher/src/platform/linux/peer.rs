//! Who is at the other end of a Unix socket, as the kernel says (unix(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

use super::{Host, pidfd, proc};
use crate::platform::NetnsError;

/// A client, as it was when it connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its process; 0 where that is not visible from here.
    pub(crate) pid: u32,
    /// Its user.
    pub(crate) uid: u32,
    /// Its groups, the supplementary ones included.
    pub(crate) groups: Vec<u32>,
    /// The very process, however often its pid is used again.
    handle: Option<OwnedFd>,
}

impl Peer {
    /// The client of a connection.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let socket = std::os::fd::AsFd::as_fd(stream);
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let mut groups = supplementary_groups(socket)?;
        groups.push(credentials.gid());
        // Before Linux 6.5 the process is opened by its pid, a moment later than it connected.
        let handle = peer_pidfd(socket).or_else(|| pidfd::open(pid).ok());
        Ok(Self { pid, uid: credentials.uid(), groups, handle })
    }

    /// Whether the process still runs, so that its pid still means it.
    pub(crate) fn is_running(&self) -> bool {
        let Some(handle) = &self.handle else { return false };
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(handle), PollFlags::POLLIN)];
        self.pid != 0 && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
    }

    /// The system as the client sees it: in its network namespace.
    ///
    /// # Errors
    /// [`NetnsError`] when that can't be entered.
    pub(crate) fn host(&self) -> Result<Host, NetnsError> {
        Host::new(Some(format!("/proc/{}/ns/net", self.pid).as_ref()))
    }

    /// Whether pids mean the same to it as to us.
    pub(crate) fn shares_pids(&self) -> bool {
        proc::same_pid_namespace(self.pid)
    }
}

/// `SO_PEERGROUPS`, Linux 4.13.
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes into the vector, and says how many.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// `SO_PEERPIDFD`, Linux 6.5.
fn peer_pidfd(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&fd)).ok()?;
    // SAFETY: the kernel writes one number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 || fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
