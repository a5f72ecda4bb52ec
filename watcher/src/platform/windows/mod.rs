//! Windows: the IP helper API through netstat2, process handles, polite ends through the console or a window.

mod bind;
mod close;
pub(super) mod handle;
pub(crate) mod peer;
pub(super) mod process;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod users;

use std::io;
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

pub(super) use self::bind::try_bind;
pub(crate) use self::close::helper;
pub(crate) use super::elsewhere::{HAS_EVENTS, Host, kernel, privileges, service};

/// Where the agent's socket would be, if there were one.
pub(crate) const AGENT_SOCKET: &str = "gatewatch-agent.sock";

/// Nanoseconds since the program's first look at the clock: nothing else here is measured by it.
pub(crate) fn monotonic_now() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A program that is to be known by another title: here that is its file's name, so it is run from a copy.
///
/// # Errors
/// When the copy can't be made.
pub(crate) fn titled(program: &Path, title: &str) -> io::Result<std::process::Command> {
    let copy = std::env::temp_dir().join(format!("{title}.exe"));
    std::fs::copy(program, &copy)?;
    let mut command = std::process::Command::new(copy);
    // A console of its own: a Ctrl-C in ours would end us as well.
    command.creation_flags(CREATE_NO_WINDOW);
    Ok(command)
}
