//! What systemd is told in the name of a unit's main process: above all, sockets for the unit's store
//! (`FileDescriptorStoreMax=`, systemd.service(5); `FDSTORE=1`, sd_notify(3)).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{getgid, getpid, getuid, pipe2};

/// Where systemd, as PID 1, is notified.
const MANAGER: &str = "/run/systemd/notify";
/// How long systemd may take to read a message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells systemd this of the process, with copies of the descriptors, and waits until systemd has dealt with it.
///
/// To speak in another process's name takes `CAP_SYS_ADMIN` (unix(7), `SCM_CREDENTIALS`).
pub(super) fn notify_for(pid: u32, state: &str, descriptors: &[RawFd]) -> io::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    send(&socket, pid, state, descriptors)?;
    // systemd 246 closes what comes with BARRIER=1 once it has read all messages from before; an older one closes it as
    // well, because it has no store by that name.
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    send(&socket, getpid().as_raw(), "BARRIER=1", &[write.as_raw_fd()])?;
    drop(write);
    let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    // POLLHUP is told without being asked for.
    match poll(&mut [PollFd::new(read.as_fd(), PollFlags::empty())], patience)? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("systemd said nothing for {PATIENCE:?}"))),
        _ => Ok(()),
    }
}

fn send(socket: &OwnedFd, pid: i32, state: &str, descriptors: &[RawFd]) -> io::Result<()> {
    let credentials: UnixCredentials =
        libc::ucred { pid, uid: getuid().as_raw(), gid: getgid().as_raw() }.into();
    let mut control = vec![ControlMessage::ScmCredentials(&credentials)];
    if !descriptors.is_empty() {
        control.push(ControlMessage::ScmRights(descriptors));
    }
    let text = [IoSlice::new(state.as_bytes())];
    let to = UnixAddr::new(MANAGER)?;
    sendmsg(socket.as_raw_fd(), &text, &control, MsgFlags::MSG_NOSIGNAL, Some(&to))?;
    Ok(())
}
