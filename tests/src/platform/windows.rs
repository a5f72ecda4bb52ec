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

/// Whether a server can listen on this port.
pub(crate) fn is_unused(port: u16) -> bool {
    crate::can_bind((std::net::Ipv4Addr::UNSPECIFIED, port).into())
}

/// The actor with a name: its file's, because a program can choose no other.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(program(name));
    interruptible(&mut command);
    command
}

/// Gives a program another name, by a copy: the system may show a process under any of its file's links.
pub(crate) fn name_again(program: &Path, name: &Path) -> io::Result<()> {
    std::fs::copy(program, name).map(drop)
}

/// Gives a program a console of its own: keys pressed in a console reach all processes that share it.
pub(crate) fn interruptible(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Interrupts a program as a person at its console would.
pub(crate) fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    let pressed = Command::new(program("actor")).args(["--press-ctrl-c-in", &pid]).status();
    assert!(pressed.unwrap().success());
}

/// Means a process even after its pid is reused.
pub struct Life(OwnedHandle);

impl Life {
    /// Opens it.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Self {
        // SAFETY: takes numbers and gives a new handle, or null.
        let handle = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, pid) };
        assert!(!handle.is_null(), "{}", io::Error::last_os_error());
        // SAFETY: the system has just made this handle for us.
        Self(unsafe { OwnedHandle::from_raw_handle(handle) })
    }

    /// Whether it has ended, or ends within this time. A zombie has ended.
    ///
    /// # Panics
    /// When that can't be found out.
    pub fn ends_within(&self, time: Duration) -> bool {
        let milliseconds = time.as_millis().try_into().unwrap();
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.0.as_raw_handle() as HANDLE, milliseconds) == WAIT_OBJECT_0 }
    }
}

/// Users have no numbers here.
pub fn user() -> Value {
    Value::Null
}

/// There are no multipath sockets for servers here.
pub(crate) fn has_multipath() -> bool {
    false
}

pub(crate) fn has_io_uring() -> bool {
    false
}

/// Why this system can't show what needs this; `None` if it can.
pub(crate) fn cannot(needs: Needs) -> Option<&'static str> {
    match needs {
        Needs::Ipv6Owners if is_wine() => Some("Wine names no process for a listener over IPv6"),
        Needs::Checkout if is_wine() => Some("Wine has no cargo of its own"),
        _ => None,
    }
}

/// Whether this is Wine, which has a function that Windows lacks.
fn is_wine() -> bool {
    // SAFETY: both take NUL-terminated strings, and the library is always loaded.
    unsafe {
        let library = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(library, c"wine_get_version".as_ptr().cast()).is_some()
    }
}

impl Part {
    /// Nothing to do: a process here has no short name but its file's.
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
