//! Windows, and Wine.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;
use windows_sys::Win32::Foundation::{HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    CREATE_NO_WINDOW, DETACHED_PROCESS, OpenProcess, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use crate::{Backend, Needs, Part, program};

/// How ports can be observed.
pub const BACKENDS: &[Backend] = &[Backend::Poll];
/// How an owner is asked to end.
pub const ASKED: &str = "close";
/// How it is forced.
pub const FORCED: &str = "terminate";
/// A program that holds ports for others.
pub const FORWARDER: &str = "wslrelay";

/// The actor under a name: its file's, since there is no other that a program could choose.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(program(name));
    interruptible(&mut command);
    command
}

/// Gives a program another name. By a copy: the system may show a process by any of its file's links.
pub(crate) fn name_again(program: &Path, name: &Path) -> io::Result<()> {
    std::fs::copy(program, name).map(drop)
}

/// A console of its own: keys that are pressed in one reach all who share it.
pub(crate) fn interruptible(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Interrupts a program as a person at its console would.
pub(crate) fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    let pressed = Command::new(program("actor")).args(["--press-ctrl-c-in", &pid]).status();
    assert!(pressed.unwrap().success());
}

/// Goes on meaning a process when its pid is used again.
pub struct Life(OwnedHandle);

impl Life {
    /// Takes hold of it.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(pid: u32) -> Self {
        // SAFETY: takes numbers and gives a new handle, or null.
        let handle = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, pid) };
        assert!(!handle.is_null(), "{}", io::Error::last_os_error());
        // SAFETY: the system has just made this handle for us.
        Self(unsafe { OwnedHandle::from_raw_handle(handle) })
    }

    /// Whether it has ended by now, or does within this time. A zombie has ended.
    ///
    /// # Panics
    /// When that can't be told.
    pub fn ends_within(&self, time: Duration) -> bool {
        let milliseconds = time.as_millis().try_into().unwrap();
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.0.as_raw_handle() as HANDLE, milliseconds) == WAIT_OBJECT_0 }
    }
}

/// Nobody has a number here.
pub fn user() -> Value {
    Value::Null
}

/// What this system can't show, and why.
pub(crate) fn cannot(needs: Needs) -> Option<&'static str> {
    match needs {
        Needs::Ipv6Owners if is_wine() => Some("Wine names no process for a listener over IPv6"),
        _ => None,
    }
}

/// Whether this is Wine, which says so by a function that Windows has not got.
fn is_wine() -> bool {
    // SAFETY: both take strings that end, and the library is always loaded.
    unsafe {
        let library = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(library, c"wine_get_version".as_ptr().cast()).is_some()
    }
}

impl Part {
    /// A process here has no other short name than its file's.
    pub fn with_comm(self, _name: &str) -> Self {
        self
    }

    /// Without a console, through which it could be asked to end.
    pub fn without_console(mut self) -> Self {
        self.command.creation_flags(DETACHED_PROCESS);
        self
    }
}

/// There is no root here.
pub(crate) fn is_root() -> bool {
    false
}
