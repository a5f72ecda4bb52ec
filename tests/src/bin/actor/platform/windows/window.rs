//! A window that ends the actor when it is closed.

use std::sync::mpsc::channel;

use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::UI::WindowsAndMessaging::{
    CreateWindowExA, DefWindowProcA, DispatchMessageA, GetMessageA, MSG, RegisterClassA, WM_CLOSE, WNDCLASSA,
    WS_OVERLAPPEDWINDOW,
};

/// Opens it, on a thread of its own.
pub(super) fn open() {
    let (tell, opened) = channel();
    std::thread::spawn(move || {
        let name = c"actor".as_ptr().cast();
        let class = WNDCLASSA { lpfnWndProc: Some(hear), lpszClassName: name, ..WNDCLASSA::default() };
        // SAFETY: the class's name and procedure stay.
        unsafe { RegisterClassA(&raw const class) };
        let none = std::ptr::null_mut();
        // SAFETY: the strings are NUL-terminated, and nothing else is pointed to.
        let window = unsafe {
            CreateWindowExA(0, name, name, WS_OVERLAPPEDWINDOW, 0, 0, 200, 100, none, none, none, none.cast())
        };
        tell.send(!window.is_null()).unwrap();
        let mut message = MSG::default();
        // SAFETY: the message is written to our variable.
        while unsafe { GetMessageA(&raw mut message, none, 0, 0) } > 0 {
            // SAFETY: it has just been written.
            unsafe { DispatchMessageA(&raw const message) };
        }
    });
    assert!(opened.recv().unwrap(), "no window can be opened: {}", std::io::Error::last_os_error());
}

extern "system" fn hear(window: HWND, message: u32, first: WPARAM, second: LPARAM) -> LRESULT {
    if message == WM_CLOSE {
        std::process::exit(0);
    }
    // SAFETY: passes on what it was given.
    unsafe { DefWindowProcA(window, message, first, second) }
}
