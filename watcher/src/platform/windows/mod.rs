//! Windows: the IP helper API through netstat2, process handles, requests to end through the console or a window.

mod bind;
mod children;
mod close;
pub(super) mod files;
mod handle;
mod listeners;
pub(super) mod process;
mod signals;

use std::fs::File;
use std::io;
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::process::Command;

use windows_sys::Win32::Foundation::{ERROR_SHARING_VIOLATION, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::Console::{
    GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE,
};
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

use super::contract::{FileId, NotObeyed};

pub(super) use self::bind::try_bind;
pub(super) use self::children::{
    SHELL, become_command, end_group, is_executable, is_in_group, lead_group, runs,
};
pub(super) use self::handle::WindowsProcess as OwnProcess;
pub(super) use self::listeners::holds;
pub(super) use self::signals::Signals;

/// The default path of the configuration.
pub(super) const CONFIG: &str = r"C:\ProgramData\gatewatch\config.toml";
/// Where the agent's socket would be if Windows had an agent.
pub(super) const AGENT_SOCKET: &str = "gatewatch-agent.sock";

/// Users have no numbers here.
pub(super) fn caller() -> Option<u32> {
    None
}

/// A file's number takes an open handle here, which nothing needs yet.
pub(super) fn file(_path: &Path) -> Option<FileId> {
    None
}

/// There is no command that gives a command all rights: a console has them if it was started as administrator.
pub(super) fn with_all_rights(_words: Vec<String>) -> Option<Vec<String>> {
    None
}

/// The performance counter in nanoseconds, the clock behind `Instant`; it starts at boot.
pub(super) fn monotonic_now() -> u64 {
    let (mut ticks, mut a_second) = (0, 1);
    // SAFETY: the call writes a number to a variable of ours. It does not fail since Windows XP.
    unsafe { QueryPerformanceCounter(&raw mut ticks) };
    // SAFETY: as above.
    unsafe { QueryPerformanceFrequency(&raw mut a_second) };
    let nanoseconds = i128::from(ticks) * 1_000_000_000 / i128::from(a_second.max(1));
    u64::try_from(nanoseconds).unwrap_or(0)
}

/// Runs as the helper that sends Ctrl-C if this process was started as one. Otherwise makes our standard handles
/// non-inheritable, because a child inherits every inheritable handle, even one that it does not know of, and the
/// reader of our output pipe sees no end as long as any process has it. The child gets only the handles meant for it.
pub(super) fn before_main() -> Option<u8> {
    if let Some(status) = close::helper() {
        return Some(status);
    }
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: the call takes a number; if it returns no valid handle, the next call fails.
        let handle = unsafe { GetStdHandle(which) };
        // SAFETY: the call changes a flag of a handle, and does nothing if the handle is not valid.
        unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
    }
    None
}

/// A command that runs under another title: on Windows that is its file's name, so it is run from a copy.
///
/// # Errors
/// If the copy can't be created.
pub(super) fn titled(program: &Path, title: &str) -> io::Result<Command> {
    let copy = std::env::temp_dir().join(format!("{title}.exe"));
    match std::fs::copy(program, &copy) {
        // Another process runs from this copy.
        Err(error)
            if error.raw_os_error().map(i32::cast_unsigned) == Some(ERROR_SHARING_VIOLATION)
                && copy.exists() => {}
        copied => drop(copied?),
    }
    let mut command = Command::new(copy);
    // A separate console, because a Ctrl-C in ours would end this process as well.
    command.creation_flags(CREATE_NO_WINDOW);
    Ok(command)
}

/// A pipe here tells only a writer that its reader has gone.
pub(super) async fn reader_gone() {
    std::future::pending::<()>().await;
}

/// Windows has no root.
pub(super) fn open_to_obey(path: &Path) -> Result<File, NotObeyed> {
    Ok(File::open(path)?)
}
