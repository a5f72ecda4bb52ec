//! Who is at the other end of a Unix socket, as the kernel says (unix(4), `LOCAL_PEERPID`, `LOCAL_PEERCRED`).

use std::ffi::CString;
use std::io;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid, User, getgrouplist};
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
        let mut groups = groups_of(Uid::from_raw(uid), Gid::from_raw(credentials.gid()));
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

/// The groups that the user database gives to the user.
fn groups_of(uid: Uid, gid: Gid) -> Vec<u32> {
    let name = User::from_uid(uid).ok().flatten().and_then(|user| CString::new(user.name).ok());
    let groups = name.and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}
