//! The process at the other end of a Unix socket, as the kernel reports it (unix(4), `LOCAL_PEERPID`, `LOCAL_PEERCRED`).

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

use super::process;
use crate::model::StartTime;
use crate::platform::Host;
use crate::platform::contract::{Credentials, NetnsError, Peer, Platform};

/// A client, as it was when it connected.
#[derive(Debug)]
pub(crate) struct MacPeer {
    credentials: Credentials,
    started: Option<StartTime>,
}

impl MacPeer {
    pub(in crate::platform) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = u32::try_from(getsockopt(stream, sockopt::LocalPeerPid)?).unwrap_or(0);
        let uid = credentials.uid();
        let mut groups = groups_of(uid, credentials.gid());
        groups.push(credentials.gid());
        Ok(Self { credentials: Credentials { pid, uid, groups }, started: process::start_time(pid).ok() })
    }
}

impl Peer<Host> for MacPeer {
    fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    fn is_running(&self) -> bool {
        self.started.is_some() && process::start_time(self.pid()).ok() == self.started
    }

    fn has_ended(&self) -> bool {
        self.started.is_some() && !self.is_running()
    }

    fn host(&self) -> Result<Host, NetnsError> {
        Host::new(None)
    }

    fn shares_pids(&self) -> bool {
        true
    }
}

/// The user's groups according to the user database (getgrouplist(3)).
fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    const MOST: usize = 256;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let Some(name) = user.and_then(|user| CString::new(user.name).ok()) else { return Vec::new() };
    let mut groups: [libc::c_int; MOST] = [0; MOST];
    let mut count = libc::c_int::try_from(MOST).unwrap_or(0);
    // SAFETY: at most `count` groups are written, and then their number into `count`.
    unsafe { libc::getgrouplist(name.as_ptr(), gid.cast_signed(), groups.as_mut_ptr(), &raw mut count) };
    let count = usize::try_from(count).unwrap_or(0).min(MOST);
    groups[..count].iter().map(|group| group.cast_unsigned()).collect()
}
