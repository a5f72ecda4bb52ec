//! macOS: libproc through netstat2, signals, kqueue.

pub(super) mod handle;
pub(crate) mod peer;
pub(super) mod process;

use std::io;
use std::os::fd::OwnedFd;

use nix::time::ClockId;

use super::poll;
use super::unix::{bind, clock_now};
use crate::observe::{Holder, Socket};
use crate::system::{Bind, BindAddress, BindAs};

pub(crate) use super::elsewhere::{HAS_EVENTS, Host, kernel, privileges, service};
pub(crate) use super::unix::{helper, keep_handles, signals, socket, titled, users};

/// Where clients look for the agent when nothing else is said.
pub(crate) const AGENT_SOCKET: &str = "/var/run/gatewatch/agent.sock";

/// `CLOCK_UPTIME_RAW` in nanoseconds, by which `Instant` counts here; `CLOCK_MONOTONIC` goes on while the machine sleeps.
pub(crate) fn monotonic_now() -> u64 {
    clock_now(ClockId::from_raw(nix::libc::CLOCK_UPTIME_RAW))
}

/// Whether the process still has a listener on the socket's address.
pub(super) fn holds(holder: &Holder, socket: &Socket) -> io::Result<bool> {
    let all = poll::tcp_sockets().map_err(io::Error::other)?;
    let same = |other: Socket| {
        other.address == socket.address && other.holders.iter().any(|other| other.pid == holder.pid)
    };
    Ok(all.iter().filter_map(poll::listener).any(same))
}

/// One bind.
pub(super) fn try_bind(address: &BindAddress, how: BindAs) -> Bind {
    bind::try_bind(|bind| Ok(bind()), address, how)
}

/// Makes a socket for a bind that proves: nothing is special about it here.
pub(crate) fn prepare_bind(_socket: &OwnedFd) {}
