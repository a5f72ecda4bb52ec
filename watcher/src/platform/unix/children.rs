//! Commands that this program runs, or becomes.

use std::fs::File;
use std::io::{self, Read as _};
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

/// The words of a script's first line; `None` for any other file.
pub(in crate::platform) fn interpreter(path: &Path) -> Option<Vec<String>> {
    let mut start = Vec::new();
    // The kernel reads no more of it (BINPRM_BUF_SIZE).
    File::open(path).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    // Not split at a carriage return: to the kernel it is part of the name.
    let line = String::from_utf8_lossy(line);
    Some(line.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect())
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
