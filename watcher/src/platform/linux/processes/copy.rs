//! Copies of other processes' sockets (pidfd_getfd(2), Linux 5.6). A copy is of the very socket that was seen, or it is none.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;

use crate::model::{Descriptor, Socket};
use crate::platform::linux::fd::own;

/// A copy of the socket to which the descriptor leads.
///
/// # Errors
/// What the system says; `NotFound` where the descriptor leads to another file by now.
pub(in crate::platform::linux) fn of(descriptor: &Descriptor, socket: &Socket) -> io::Result<OwnedFd> {
    let fd = descriptor.fd.ok_or(io::ErrorKind::NotFound)?;
    // A thread that is not the leader can be opened since Linux 6.9 (PIDFD_THREAD, which is O_EXCL). It is asked for only
    // where the leader has ended, and its table of descriptors with it.
    let flags = if fd.thread == descriptor.pid { 0 } else { libc::O_EXCL };
    // SAFETY: pidfd_open(2) takes two numbers and returns a new descriptor.
    let pidfd = own(unsafe { libc::syscall(libc::SYS_pidfd_open, fd.thread, flags) })?;
    // SAFETY: pidfd_getfd(2) takes three numbers and returns a new descriptor.
    let copy = own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd.number, 0) })?;
    if is(&copy, socket)? { Ok(copy) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Whether the descriptor is of this very socket. The inode can be used again once a socket is gone, the cookie can't; a
/// multipath socket is listed with the cookie of the TCP socket inside it.
fn is(copy: &OwnedFd, socket: &Socket) -> io::Result<bool> {
    let inode = nix::sys::stat::fstat(copy)?.st_ino;
    if socket.inode != Some(inode) {
        return Ok(false);
    }
    match socket.cookie.filter(|_| !socket.multipath) {
        Some(cookie) => Ok(cookie_of(copy)? == cookie),
        None => Ok(true),
    }
}

fn cookie_of(socket: &OwnedFd) -> io::Result<u64> {
    let (mut cookie, mut length) =
        (0_u64, libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?);
    let (level, option, to) = (libc::SOL_SOCKET, libc::SO_COOKIE, (&raw mut cookie).cast());
    // SAFETY: the kernel writes a number of this length (SO_COOKIE, Linux 4.12).
    Errno::result(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, to, &raw mut length) })?;
    Ok(cookie)
}

/// The numbers by which a process holds the socket with this inode, and those of its other descriptors that lead to a file
/// of one of these kinds, by the names that /proc gives them.
pub(super) fn numbers(pid: u32, inode: u64, kinds: [&str; 2]) -> io::Result<(Vec<u32>, [Vec<u32>; 2])> {
    let target = PathBuf::from(format!("socket:[{inode}]"));
    let (mut held, mut others) = (Vec::new(), [Vec::new(), Vec::new()]);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let (Some(number), Ok(link)) = (number, fs::read_link(&path)) else { continue };
        if link == target {
            held.push(number);
        }
        for (kind, found) in kinds.iter().zip(&mut others) {
            if link.as_os_str() == *kind {
                found.push(number);
            }
        }
    }
    Ok((held, others))
}
