//! Asking a process to end: WM_CLOSE to its windows, Ctrl-C to its console.
//!
//! A program has one console at a time, and a Ctrl-C reaches all who share it: the shell that the process was started
//! from, its children, perhaps our caller. So a helper, this same program started anew, leaves its own console, joins the
//! other's, and presses the keys there only if nobody else is in it.

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

/// Tells the helper whom to ask.
const VARIABLE: &str = "GATEWATCH_PRESS_CTRL_C_IN";
/// The longest wait for the helper, in milliseconds. It needs a few.
const HELPERS_TIME: u32 = 5_000;

/// Asks the process to end; false where no request reaches it. It need not hear one that does: what it does shows in its
/// exit.
pub(super) fn ask(pid: u32) -> io::Result<bool> {
    let closed = close_windows(pid);
    let pressed = press(pid)?;
    Ok(closed || pressed)
}

/// Has the helper press the keys; false where the console is not the process's alone, or there is none.
fn press(pid: u32) -> io::Result<bool> {
    let mut helper = Command::new(std::env::current_exe()?);
    helper.env(VARIABLE, pid.to_string()).creation_flags(CREATE_NO_WINDOW);
    let mut helper = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // SAFETY: the handle is open for as long as the child is not dropped.
    let ended = unsafe { WaitForSingleObject(helper.as_raw_handle() as HANDLE, HELPERS_TIME) };
    if ended == WAIT_OBJECT_0 {
        return Ok(helper.wait()?.success());
    }
    helper.kill()?;
    // Whether it had pressed them by then is not known, and time is given for it.
    Ok(true)
}

/// Plays the helper, where this process was started as one; its exit status: 0 when the keys were pressed.
pub(crate) fn helper() -> Option<u8> {
    let pid: u32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // SAFETY: gives up this process's own console, which nothing here uses.
    unsafe { FreeConsole() };
    // SAFETY: takes a number.
    let joined = unsafe { AttachConsole(pid) } != 0;
    let pressed = joined && is_its_alone(pid) && press_here();
    Some(u8::from(!pressed))
}

/// Whether the console that this process has joined is used by nobody but it and the other.
fn is_its_alone(pid: u32) -> bool {
    let mut pids = [0; 3];
    let room = u32::try_from(pids.len()).unwrap_or(0);
    // SAFETY: at most as many numbers are written as there is room for; where that is too little, none.
    let count = unsafe { GetConsoleProcessList(pids.as_mut_ptr(), room) };
    count == 2 && pids[..2].iter().all(|&other| other == pid || other == std::process::id())
}

fn press_here() -> bool {
    // SAFETY: takes no function: this process is not to heed the keys itself.
    let deaf = unsafe { SetConsoleCtrlHandler(None, 1) } != 0;
    // SAFETY: takes two numbers; it reaches those in the console, which is what the helper is for.
    deaf && unsafe { GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) } != 0
}

/// The windows of a process, and whether one was asked to close.
struct Windows {
    pid: u32,
    closed: bool,
}

/// Asks the windows of the process to close; false where it has none.
fn close_windows(pid: u32) -> bool {
    let mut windows = Windows { pid, closed: false };
    let place = (&raw mut windows).expose_provenance();
    // SAFETY: the callback is called with each window and our place, before this returns, and keeps neither.
    unsafe { EnumWindows(Some(close_if_of), place.cast_signed() as LPARAM) };
    windows.closed
}

unsafe extern "system" fn close_if_of(window: HWND, place: LPARAM) -> BOOL {
    // SAFETY: the place is that of a `Windows` which `close_windows` alone has, and which waits for us.
    let windows = unsafe { &mut *std::ptr::with_exposed_provenance_mut::<Windows>(place.cast_unsigned()) };
    let mut pid = 0;
    // SAFETY: the window is the system's own, and the number is written to our variable.
    unsafe { GetWindowThreadProcessId(window, &raw mut pid) };
    if pid == windows.pid {
        // SAFETY: a message of two numbers.
        windows.closed |= unsafe { PostMessageW(window, WM_CLOSE, 0, 0) } != 0;
    }
    1
}
