//! Commands that this program runs, or becomes.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access, getpgid};

/// The shell, and its option before a command line.
pub(in crate::platform) const SHELL: [&str; 2] = ["sh", "-c"];

/// Whether this user may execute the file. Root may if anybody may.
pub(in crate::platform) fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Gives the command a process group of its own.
pub(in crate::platform) fn lead_group(command: &mut Command) {
    command.process_group(0);
}

/// Signals the whole group.
pub(in crate::platform) fn end_group(leader: u32, force: bool) {
    let signal = if force { Signal::SIGKILL } else { Signal::SIGTERM };
    if let Some(leader) = pid(leader) {
        let _ = killpg(leader, signal);
    }
}

/// Whether the process is in the group that the command leads.
pub(in crate::platform) fn is_in_group(process: u32, leader: u32) -> bool {
    pid(leader).is_some_and(|leader| pid(process).is_some_and(|process| getpgid(Some(process)) == Ok(leader)))
}

/// Becomes the command: execve(2). Returns only if that fails.
///
/// # Errors
/// Always.
pub(in crate::platform) fn become_command(command: &mut Command) -> io::Result<u8> {
    Err(command.exec())
}

/// A pid as the system calls take it; never 0 or 1, which mean other things to some of them.
fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().filter(|&number| number > 1).map(Pid::from_raw)
}
