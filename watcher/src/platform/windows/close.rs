//! Asks a process to end: WM_CLOSE to its windows, Ctrl-C to its console.
//!
//! A program has one console at a time, and a Ctrl-C reaches every process that shares it: the shell that the process
//! was started from, its children, perhaps our caller. So a helper, another instance of this program, leaves its own
//! console, attaches to the process's, and sends the Ctrl-C only if no other process uses that console.

use std::io;
use std::os::windows::io::AsRawHandle;
use std::os::windows::process::CommandExt;
use std::process::{Command, Stdio};

use windows_sys::Win32::Foundation::{HANDLE, HWND, LPARAM, WAIT_OBJECT_0};
use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, GetConsoleProcessList,
    SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::{CREATE_NO_WINDOW, WaitForSingleObject};
use windows_sys::Win32::UI::WindowsAndMessaging::{
    EnumWindows, GetWindowThreadProcessId, PostMessageW, WM_CLOSE,
};
use windows_sys::core::BOOL;

/// Passes the helper the pid to ask.
const VARIABLE: &str = "GATEWATCH_PRESS_CTRL_C_IN";
/// The longest wait for the helper, in milliseconds. It usually takes a few.
const HELPERS_TIME: u32 = 5_000;

/// Asks the process to end; false if no request can reach it. The process may ignore a request: only its exit shows
/// whether it obeyed.
pub(super) fn ask(pid: u32) -> io::Result<bool> {
    let closed = close_windows(pid);
    let pressed = press(pid)?;
    Ok(closed || pressed)
}

/// Starts the helper to send Ctrl-C; false if the process has no console, or other processes share it.
fn press(pid: u32) -> io::Result<bool> {
    let mut helper = Command::new(std::env::current_exe()?);
    helper.env(VARIABLE, pid.to_string()).creation_flags(CREATE_NO_WINDOW);
    let mut helper = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // SAFETY: the handle is open as long as the child is not dropped.
    let ended = unsafe { WaitForSingleObject(helper.as_raw_handle() as HANDLE, HELPERS_TIME) };
    if ended == WAIT_OBJECT_0 {
        return Ok(helper.wait()?.success());
    }
    helper.kill()?;
    // Whether the helper has sent Ctrl-C is unknown, so the process is given time to end.
    Ok(true)
}

/// Runs as the helper if this process was started as one; returns its exit status: 0 if Ctrl-C was sent.
pub(crate) fn helper() -> Option<u8> {
    let pid: u32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // SAFETY: detaches from this process's own console, which nothing here uses.
    unsafe { FreeConsole() };
    // SAFETY: the call takes a number.
    let joined = unsafe { AttachConsole(pid) } != 0;
    let pressed = joined && is_its_alone(pid) && press_here();
    Some(u8::from(!pressed))
}

/// Whether only this process and the one to ask use the console that this process has attached to.
fn is_its_alone(pid: u32) -> bool {
    let mut pids = [0; 3];
    let room = u32::try_from(pids.len()).unwrap_or(0);
    // SAFETY: at most as many numbers are written as fit; none if there are more.
    let count = unsafe { GetConsoleProcessList(pids.as_mut_ptr(), room) };
    count == 2 && pids[..2].iter().all(|&other| other == pid || other == std::process::id())
}

fn press_here() -> bool {
    // SAFETY: the call is given no function: this process itself must ignore Ctrl-C.
    let deaf = unsafe { SetConsoleCtrlHandler(None, 1) } != 0;
    // SAFETY: the call takes two numbers; Ctrl-C reaches the processes in the console, as intended.
    deaf && unsafe { GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) } != 0
}

/// The process whose windows to close, and whether one was asked to close.
struct Windows {
    pid: u32,
    closed: bool,
}

/// Asks the windows of the process to close; false if it has none.
fn close_windows(pid: u32) -> bool {
    let mut windows = Windows { pid, closed: false };
    let place = (&raw mut windows).expose_provenance();
    // SAFETY: the callback is called with each window and our pointer before this returns, and keeps neither.
    unsafe { EnumWindows(Some(close_if_of), place.cast_signed() as LPARAM) };
    windows.closed
}

/// Asks a window to close if it belongs to the process.
///
/// # Safety
/// `place` is a pointer to a [`Windows`] that nothing else uses meanwhile.
unsafe extern "system" fn close_if_of(window: HWND, place: LPARAM) -> BOOL {
    // SAFETY: the pointer is to a `Windows` that only `close_windows` has, which waits for this call.
    let windows = unsafe { &mut *std::ptr::with_exposed_provenance_mut::<Windows>(place.cast_unsigned()) };
    let mut pid = 0;
    // SAFETY: the window comes from the system, and the number is written to our variable.
    unsafe { GetWindowThreadProcessId(window, &raw mut pid) };
    if pid == windows.pid {
        // SAFETY: the message consists of two numbers.
        windows.closed |= unsafe { PostMessageW(window, WM_CLOSE, 0, 0) } != 0;
    }
    1
}
