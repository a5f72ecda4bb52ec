//! Asking a process to end: WM_CLOSE to its windows, Ctrl-C to its console.
//!
//! A program has one console at a time, and a Ctrl-C reaches all who share it. So a helper, this same program started
//! anew, leaves its own console, joins the other's, and presses the keys there.

use std::io;
use std::os::windows::process::CommandExt;
use std::process::{Command, Stdio};

use windows_sys::Win32::Foundation::{HWND, LPARAM};
use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;
use windows_sys::Win32::UI::WindowsAndMessaging::{
    EnumWindows, GetWindowThreadProcessId, PostMessageW, WM_CLOSE,
};
use windows_sys::core::BOOL;

/// Tells the helper whom to ask.
const VARIABLE: &str = "GATEWATCH_PRESS_CTRL_C_IN";

/// Asks the process to end. It need not hear: what it does shows in its exit.
pub(super) fn ask(pid: u32) -> io::Result<()> {
    close_windows(pid);
    let mut helper = Command::new(std::env::current_exe()?);
    helper.env(VARIABLE, pid.to_string()).creation_flags(CREATE_NO_WINDOW);
    helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok(())
}

/// Plays the helper, where this process was started as one; its exit status.
pub(crate) fn helper() -> Option<u8> {
    let pid: u32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // SAFETY: each takes numbers, or nothing, and concerns this process's own console alone, but for the last, which
    // is what the helper is for.
    let pressed = unsafe {
        FreeConsole();
        AttachConsole(pid) != 0
            && SetConsoleCtrlHandler(None, 1) != 0
            && GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) != 0
    };
    Some(u8::from(!pressed))
}

fn close_windows(pid: u32) {
    // SAFETY: the callback is called with each window and our number, and keeps neither.
    unsafe { EnumWindows(Some(close_if_of), LPARAM::try_from(pid).unwrap_or(0)) };
}

unsafe extern "system" fn close_if_of(window: HWND, wanted: LPARAM) -> BOOL {
    let mut pid = 0;
    // SAFETY: the window is the system's own, and the number is written to our variable.
    unsafe { GetWindowThreadProcessId(window, &raw mut pid) };
    if LPARAM::try_from(pid) == Ok(wanted) {
        // SAFETY: a message of two numbers.
        unsafe { PostMessageW(window, WM_CLOSE, 0, 0) };
    }
    1
}
