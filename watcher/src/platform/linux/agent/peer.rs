//! The process at the other end of a Unix socket, as the kernel reports it (unix(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
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
    process: Client,
}

/// The very process that has connected, even if its pid is reused.
#[derive(Debug)]
enum Client {
    Is(OwnedFd),
    /// It had ended when it was looked for.
    Gone,
    /// Its handle can't be had, for example because no descriptors are left.
    Unknown,
}

impl Client {
    fn of(socket: BorrowedFd<'_>, pid: u32) -> Self {
        let handle = match peer_pidfd(socket) {
            // Before Linux 6.5 the process is opened by its pid, a moment after it connected.
            Err(Errno::ENOPROTOOPT) if pid == 0 => return Self::Unknown,
            Err(Errno::ENOPROTOOPT) => pidfd::open(pid),
            handle => handle,
        };
        match handle {
            Ok(handle) => Self::Is(handle),
            // The option has failed with the second as well, before Linux 6.14 or so.
            Err(Errno::ESRCH | Errno::EINVAL) => Self::Gone,
            Err(_) => Self::Unknown,
        }
    }

    /// Whether it runs; `None` if that is not known.
    fn runs(&self) -> Option<bool> {
        match self {
            Self::Is(handle) => {
                let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
                Some(poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0))
            }
            Self::Gone => Some(false),
            Self::Unknown => None,
        }
    }
}

impl LinuxPeer {
    pub(in crate::platform) fn of(stream: &UnixStream) -> io::Result<Self> {
        let socket = stream.as_fd();
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let mut groups = supplementary_groups(socket)?;
        groups.push(credentials.gid());
        let process = Client::of(socket, pid);
        Ok(Self { credentials: Credentials { pid, uid: credentials.uid(), groups }, process })
    }
}

impl Peer<Linux> for LinuxPeer {
    fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    fn is_running(&self) -> bool {
        self.pid() != 0 && self.process.runs() == Some(true)
    }

    fn has_ended(&self) -> bool {
        self.process.runs() == Some(false)
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
fn peer_pidfd(socket: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&fd)).map_err(|_| Errno::EINVAL)?;
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
    Errno::result(result)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
