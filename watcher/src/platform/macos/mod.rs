//! macOS: libproc through netstat2, signals, kqueue.

pub(super) mod files;
mod handle;
mod peer;
pub(super) mod process;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::time::ClockId;

use super::Host;
use super::contract::{Bind, BindAddress, BindAs, Runs, ServiceSystem};
use super::{netstat, unix};
use crate::model::{Descriptor, Socket};

pub(super) use self::handle::MacProcess as OwnProcess;
pub(super) use self::peer::MacPeer as OwnPeer;
pub(super) use super::unix::{
    SHELL, Signals, become_command, end_group, file, is_executable, is_in_group, lead_group, open_to_obey,
    reader_gone, with_all_rights,
};

/// The default path of the configuration.
pub(super) const CONFIG: &str = "/etc/gatewatch/config.toml";
/// The default path of the agent's socket.
pub(super) const AGENT_SOCKET: &str = "/var/run/gatewatch/agent.sock";

/// The user that this process runs as.
pub(super) fn caller() -> Option<u32> {
    Some(unix::own_user())
}

/// `CLOCK_UPTIME_RAW` in nanoseconds, the clock behind `Instant` here; `CLOCK_MONOTONIC` runs on while the machine sleeps.
pub(super) fn monotonic_now() -> u64 {
    unix::clock_now(ClockId::from_raw(nix::libc::CLOCK_UPTIME_RAW))
}

/// Closes what a careless parent has left open; no helper process is needed.
pub(super) fn before_main() -> Option<u8> {
    unix::close_inherited();
    None
}

/// A command that runs under another title.
///
/// # Errors
/// Never on macOS.
pub(super) fn titled(program: &Path, title: &str) -> io::Result<Command> {
    Ok(unix::titled(program, title))
}

/// By the words of a script's first line, which the kernel splits (BINPRM_BUF_SIZE); a program's own format is left to it.
pub(super) fn runs(path: &Path) -> Runs {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    let Some(line) = start.strip_prefix(b"#!").filter(|_| read.is_ok()) else { return Runs::Itself };
    // Not split at a carriage return: to the kernel it is part of the name.
    let line = String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned);
    match words.next() {
        Some(interpreter) => Runs::By { interpreter, arguments: words.collect() },
        None => Runs::NoFormat,
    }
}

/// Whether the process still has a listener, or a UDP socket, on the socket's address.
pub(super) fn holds(descriptor: &Descriptor, socket: &Socket) -> io::Result<bool> {
    let all = netstat::servers(socket.protocol).map_err(io::Error::other)?;
    let same = |other: &Socket| {
        other.address == socket.address && other.descriptors.iter().any(|other| other.pid == descriptor.pid)
    };
    Ok(all.iter().any(same))
}

/// One bind. It may succeed beside a listener on all addresses.
pub(super) fn try_bind(address: &BindAddress, how: BindAs) -> Bind {
    unix::try_bind(|bind| Ok(bind()), prepare_bind, address, how, false)
}

/// Prepares a socket for a proof bind; nothing to do on macOS.
fn prepare_bind(_socket: &OwnedFd) {}

/// No agent's socket: launchd passes none to this program.
///
/// # Errors
/// Never on macOS.
pub(super) fn given_socket() -> io::Result<Option<UnixListener>> {
    Ok(None)
}

impl ServiceSystem for Host {}
