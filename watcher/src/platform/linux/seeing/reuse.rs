//! Whether a connection keeps other sockets from its port: it does if it does not have `SO_REUSEADDR`, which no socket
//! table tells. The option is read from a copy of the descriptor (`pidfd_getfd`, Linux 5.6), which lives for microseconds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};

use crate::model::{Descriptor, Socket};

/// Whether one of the descriptors shows that `SO_REUSEADDR` is not set. Where that can't be found out, the connection does
/// not count: it may as well be one that a closing server has accepted.
pub(super) fn is_unset(socket: &Socket) -> bool {
    socket.descriptors.iter().any(|descriptor| reuses_address(descriptor, socket).is_ok_and(|set| !set))
}

fn reuses_address(descriptor: &Descriptor, socket: &Socket) -> io::Result<bool> {
    let number = descriptor.fd.ok_or(io::ErrorKind::NotFound)?.number;
    // SAFETY: pidfd_open(2) takes two numbers and returns a new descriptor.
    let pidfd = own(unsafe { libc::syscall(libc::SYS_pidfd_open, descriptor.pid, 0) })?;
    // SAFETY: pidfd_getfd(2) takes three numbers and returns a new descriptor.
    let copy = own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // The descriptor may be of another file by now.
    let inode = nix::sys::stat::fstat(&copy)?.st_ino;
    if Some(inode) != socket.inode {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(getsockopt(&copy, sockopt::ReuseAddr)?)
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = nix::errno::Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
