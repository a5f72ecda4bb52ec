//! Windows: the console's keys, windows, what a process lets others do to it, sockets that a child inherits.

mod ending;
mod rights;
mod window;

use std::fs::File;
use std::net::SocketAddr;
use std::os::windows::io::{AsHandle, AsRawSocket};
use std::os::windows::process::CommandExt;
use std::process::{Command, Stdio};

use socket2::{Protocol, Socket};
use windows_sys::Win32::Foundation::{HANDLE, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

pub(crate) use self::ending::Ending;
use crate::{Part, play};

/// What only actors on Windows do.
#[derive(clap::Args)]
pub(crate) struct Own {
    /// Open a window, and end when it is closed
    #[arg(long)]
    window: bool,
    /// Deny everybody this right to this process
    #[arg(long)]
    deny: Option<rights::Right>,
    /// Let a child inherit the listeners
    #[arg(long)]
    heir: bool,
    /// Only press Ctrl-C in the console of this process
    #[arg(long, value_name = "PID")]
    press_ctrl_c_in: Option<u32>,
}

/// Does what comes before the sockets are opened.
pub(crate) fn dress(own: &Own) {
    if let Some(pid) = own.press_ctrl_c_in {
        ending::press_ctrl_c(pid);
    }
    if let Some(right) = own.deny {
        rights::deny(right);
    }
    if own.window {
        window::open();
    }
}

/// This program once more, by the same name, with a console of its own.
pub(crate) fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.creation_flags(CREATE_NO_WINDOW);
    command
}

/// Standard input.
pub(crate) fn input() -> File {
    File::from(std::io::stdin().as_handle().try_clone_to_owned().unwrap())
}

/// TCP.
pub(crate) fn protocol(_own: &Own) -> Protocol {
    Protocol::TCP
}

/// Nothing: with `SO_REUSEADDR`, which means something else here, two could listen.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail here")]
pub(crate) fn reuse(_part: &Part, _socket: &Socket) -> std::io::Result<()> {
    Ok(())
}

/// None: no service manager gives any.
pub(crate) fn given(_own: &Own) -> Option<Vec<Socket>> {
    None
}

/// Nothing to set.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail here")]
pub(crate) fn share(_own: &Own, _socket: &Socket) -> std::io::Result<()> {
    Ok(())
}

/// Nothing more.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail here")]
pub(crate) fn after_listen(_part: &Part, _socket: &Socket) -> std::io::Result<()> {
    Ok(())
}

/// Plays the part; before that an heir, if asked for, inherits the sockets.
#[expect(clippy::needless_pass_by_value, reason = "on Linux another thread takes them over")]
pub(crate) fn act(part: Part, ending: Ending, sockets: Vec<Socket>, address: Option<SocketAddr>) -> ! {
    let mut holders = vec![std::process::id()];
    if part.own.heir {
        holders.push(leave_to_an_heir(&sockets));
    }
    play(&part, &ending, sockets, address, &holders)
}

fn leave_to_an_heir(sockets: &[Socket]) -> u32 {
    for socket in sockets {
        let handle = std::ptr::with_exposed_provenance_mut::<std::ffi::c_void>(
            usize::try_from(socket.as_raw_socket()).unwrap(),
        );
        let inherit = HANDLE_FLAG_INHERIT;
        // SAFETY: changes a flag of an open handle.
        let marked = unsafe { SetHandleInformation(handle as HANDLE, inherit, inherit) };
        assert!(marked != 0, "{}", std::io::Error::last_os_error());
    }
    // It ends when the test does: it has the same standard input.
    again().stdout(Stdio::null()).spawn().unwrap().id()
}

/// There is no fork here.
pub(crate) fn go_on_in_a_fork() {
    panic!("Windows has no fork");
}
