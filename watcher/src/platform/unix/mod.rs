//! What Linux and macOS have in common.

mod agent;
mod agent_socket;
mod bind;
mod children;
mod descriptors;
mod folders;
mod inherited;
mod signals;
mod users;

use std::fs::Metadata;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(super) use self::bind::try_bind;
pub(super) use self::children::{SHELL, become_command, end_group, is_executable, is_in_group, lead_group};
pub(super) use self::folders::open_to_obey;
#[cfg(target_os = "linux")]
pub(super) use self::folders::refuse_strangers;
pub(super) use self::inherited::close_inherited;
pub(super) use self::signals::Signals;
pub(super) use self::users::{own_user, with_all_rights};
use super::contract::{FileId, Permissions, SignalError};
use crate::model::EndSignal;

/// As [`Platform::file`](super::contract::Platform::file).
pub(super) fn file(path: &Path) -> Option<FileId> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(FileId { device: metadata.dev(), inode: metadata.ino(), links: metadata.nlink() })
}

/// A signal by its number and its name.
pub(super) fn signal(signal: EndSignal) -> (libc::c_int, &'static str) {
    match signal {
        EndSignal::Term => (libc::SIGTERM, "SIGTERM"),
        EndSignal::Int => (libc::SIGINT, "SIGINT"),
        EndSignal::Quit => (libc::SIGQUIT, "SIGQUIT"),
        EndSignal::Hup => (libc::SIGHUP, "SIGHUP"),
        EndSignal::Usr1 => (libc::SIGUSR1, "SIGUSR1"),
        EndSignal::Usr2 => (libc::SIGUSR2, "SIGUSR2"),
    }
}

/// Why a process could not be signalled.
pub(super) fn refused(errno: Errno) -> SignalError {
    match errno {
        Errno::ESRCH => SignalError::Gone,
        Errno::EPERM => SignalError::NotPermitted,
        other => SignalError::Other(other.into()),
    }
}

/// The owner, the group and the permission bits of a file.
pub(super) fn permissions(file: &Metadata) -> Permissions {
    Permissions { uid: file.uid(), gid: file.gid(), mode: file.mode() }
}

/// A clock in nanoseconds.
pub(super) fn clock_now(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A command that runs under another title than its program's name: on these systems, argument 0.
pub(super) fn titled(program: &Path, title: &str) -> Command {
    let mut command = Command::new(program);
    command.arg0(title);
    command
}

/// Ready once the reader of standard output has gone: a pipe whose reading end is closed is in error (poll(2), POLLERR). A
/// file has no reader, and can't be waited on; then it is never ready.
pub(super) async fn reader_gone() {
    let error = Interest::ERROR;
    // Nothing is read or written through it: a descriptor of its own leaves standard output's mode as it is.
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    // SAFETY: an OwnedFd owns its descriptor, and always gives the same one.
    let out = out.and_then(|out| unsafe { AsyncFd::register_with_interest(out, error) }.map_err(Into::into));
    if let Ok(out) = out
        && out.ready(error).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
