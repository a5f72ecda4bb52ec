//! Commands that this program runs. Windows has no process groups that can be ended, and no way to become a command.

use std::io;
use std::path::Path;
use std::process::Command;

use super::handle::WindowsProcess;
use crate::platform::contract::{ProcessHandle as _, Runs};

/// The shell, and its option before a command line.
pub(in crate::platform) const SHELL: [&str; 2] = ["cmd", "/C"];

/// Whether it is a file: Windows has no right to execute that a user could lack.
pub(in crate::platform) fn is_executable(path: &Path) -> bool {
    path.is_file()
}

/// Left to Windows, which chooses by a file's suffix what runs it.
pub(in crate::platform) fn runs(_path: &Path) -> Runs {
    Runs::Itself
}

/// Nothing to prepare.
pub(in crate::platform) fn lead_group(_command: &mut Command) {}

/// Ends the command alone, by force: it can't be asked from here.
pub(in crate::platform) fn end_group(leader: u32, _force: bool) {
    if let Ok(process) = WindowsProcess::open(leader) {
        let _ = process.force();
    }
}

/// No process is.
pub(in crate::platform) fn is_in_group(_pid: u32, _leader: u32) -> bool {
    false
}

/// Runs the command to its end.
///
/// # Errors
/// If it can't be run.
pub(in crate::platform) fn become_command(command: &mut Command) -> io::Result<u8> {
    let status = command.status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
