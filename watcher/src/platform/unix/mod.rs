//! What Linux and macOS have in common.

pub(crate) mod bind;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod users;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A clock in nanoseconds.
pub(super) fn clock_now(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Plays a part that another run of this program has for it: none on these systems.
pub(crate) fn helper() -> Option<u8> {
    None
}

/// A child here is given the descriptors that it is told of, and no others.
pub(crate) fn keep_handles() {}

/// A program that is to be known by another title.
///
/// # Errors
/// None on these systems.
pub(crate) fn titled(program: &Path, title: &str) -> std::io::Result<Command> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.arg0(title);
    Ok(command)
}
