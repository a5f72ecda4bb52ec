//! Windows: the IP helper API through netstat2, process handles, polite ends through the console or a window.

mod bind;
mod close;
pub(super) mod handle;
pub(crate) mod peer;
pub(super) mod process;
pub(crate) mod signals;
pub(crate) mod socket;
mod table;
pub(crate) mod users;

use std::io;
use std::os::windows::process::CommandExt;
use std::path::Path;

use windows_sys::Win32::Foundation::{ERROR_SHARING_VIOLATION, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::Console::{
    GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE,
};
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

pub(super) use self::bind::try_bind;
pub(crate) use self::close::helper;
pub(super) use self::table::holds;
pub(crate) use super::elsewhere::{HAS_EVENTS, Host, kernel, privileges, service};

/// Where the agent's socket would be, if there were one.
pub(crate) const AGENT_SOCKET: &str = "gatewatch-agent.sock";

/// The performance counter in nanoseconds, which is what `Instant` counts by as well; it begins with the system.
pub(crate) fn monotonic_now() -> u64 {
    let (mut ticks, mut a_second) = (0, 1);
    // SAFETY: each writes a number to a variable of ours. Neither fails since Windows XP.
    unsafe { QueryPerformanceCounter(&raw mut ticks) };
    // SAFETY: as above.
    unsafe { QueryPerformanceFrequency(&raw mut a_second) };
    let nanoseconds = i128::from(ticks) * 1_000_000_000 / i128::from(a_second.max(1));
    u64::try_from(nanoseconds).unwrap_or(0)
}

/// A child inherits every handle that may be inherited, also one that it is not told of; and a pipe that was ours goes
/// on for its reader as long as anybody has it. So ours may not be, and the child is given what it is to have.
pub(crate) fn keep_handles() {
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: takes a number; what it gives may be no handle, which the next call then says.
        let handle = unsafe { GetStdHandle(which) };
        // SAFETY: changes a mark of a handle, and does nothing where there is none.
        unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
    }
}

/// A program that is to be known by another title: here that is its file's name, so it is run from a copy.
///
/// # Errors
/// When the copy can't be made.
pub(crate) fn titled(program: &Path, title: &str) -> io::Result<std::process::Command> {
    let copy = std::env::temp_dir().join(format!("{title}.exe"));
    match std::fs::copy(program, &copy) {
        // Another one runs from it.
        Err(error)
            if error.raw_os_error().map(i32::cast_unsigned) == Some(ERROR_SHARING_VIOLATION)
                && copy.exists() => {}
        copied => drop(copied?),
    }
    let mut command = std::process::Command::new(copy);
    // A console of its own: a Ctrl-C in ours would end us as well.
    command.creation_flags(CREATE_NO_WINDOW);
    Ok(command)
}
