//! Who is at the other end of a Unix socket, as the kernel says (unix(4), `LOCAL_PEERPID`, `LOCAL_PEERCRED`).

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

use super::{Host, process};
use crate::platform::NetnsError;
use crate::process::StartTime;

/// A client, as it was when it connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its process.
    pub(crate) pid: u32,
    /// Its user.
    pub(crate) uid: u32,
    /// Its groups, the supplementary ones included.
    pub(crate) groups: Vec<u32>,
    started: Option<StartTime>,
}

impl Peer {
    /// The client of a connection.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = u32::try_from(getsockopt(stream, sockopt::LocalPeerPid)?).unwrap_or(0);
        let uid = credentials.uid();
        let mut groups = groups_of(uid, credentials.gid());
        groups.push(credentials.gid());
        Ok(Self { pid, uid, groups, started: process::start_time(pid).ok() })
    }

    /// Whether the process still runs, so that its pid still means it.
    pub(crate) fn is_running(&self) -> bool {
        self.started.is_some() && process::start_time(self.pid).ok() == self.started
    }

    /// The system as the client sees it.
    ///
    /// # Errors
    /// None on this system.
    pub(crate) fn host(&self) -> Result<Host, NetnsError> {
        Host::new(None)
    }

    /// Pids mean the same to all.
    pub(crate) fn shares_pids(&self) -> bool {
        true
    }
}

/// The groups that the user database gives to the user (getgrouplist(3)).
fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    const MOST: usize = 256;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let Some(name) = user.and_then(|user| CString::new(user.name).ok()) else { return Vec::new() };
    let mut groups: [libc::c_int; MOST] = [0; MOST];
    let mut count = libc::c_int::try_from(MOST).unwrap_or(0);
    // SAFETY: at most `count` groups are written, and their number into `count`.
    unsafe { libc::getgrouplist(name.as_ptr(), gid.cast_signed(), groups.as_mut_ptr(), &raw mut count) };
    let count = usize::try_from(count).unwrap_or(0).min(MOST);
    groups[..count].iter().map(|group| group.cast_unsigned()).collect()
}
