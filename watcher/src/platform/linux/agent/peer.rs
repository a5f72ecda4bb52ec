//! The process at the other end of a Unix socket, as the kernel reports it (unix(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

use crate::platform::contract::{Credentials, NetnsError, Peer, Platform};
use crate::platform::linux::Linux;
use crate::platform::linux::processes::{foreign, pidfd, proc};

/// A client, as it was when it connected.
#[derive(Debug)]
pub(crate) struct LinuxPeer {
    credentials: Credentials,
    /// The very process, even if its pid is reused.
    handle: Option<OwnedFd>,
}

impl LinuxPeer {
    pub(in crate::platform) fn of(stream: &UnixStream) -> io::Result<Self> {
        let socket = std::os::fd::AsFd::as_fd(stream);
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let mut groups = supplementary_groups(socket)?;
        groups.push(credentials.gid());
        // Before Linux 6.5 the process is opened by its pid, a moment after it connected.
        let handle = peer_pidfd(socket).or_else(|| pidfd::open(pid).ok());
        Ok(Self { credentials: Credentials { pid, uid: credentials.uid(), groups }, handle })
    }
}

impl Peer<Linux> for LinuxPeer {
    fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    fn is_running(&self) -> bool {
        let Some(handle) = &self.handle else { return false };
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(handle), PollFlags::POLLIN)];
        self.pid() != 0 && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
    }

    fn host(&self) -> Result<Linux, NetnsError> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.pid()));
        match foreign::why() {
            Some(why) => Err(NetnsError::Open { path, error: io::Error::other(why) }),
            None => Linux::new(Some(&path)),
        }
    }

    fn shares_pids(&self) -> bool {
        proc::same_pid_namespace(self.pid())
    }
}

/// `SO_PEERGROUPS`, Linux 4.13.
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes into the vector, and sets `length` to the number written.
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
    // SAFETY: the kernel has just created this descriptor for this process.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
