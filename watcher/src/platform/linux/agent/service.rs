//! The protocol between the agent and its service manager (`sd_notify(3)`, `sd_listen_fds(3)`).

use std::ffi::OsStr;
use std::io;
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::platform::contract::ServiceState;

/// How long a message to the manager may take.
const PATIENCE: Duration = Duration::from_millis(100);

/// The socket that the service manager passes to the agent, if any. The manager keeps it when the agent ends.
///
/// # Errors
/// If it is not a Unix socket.
pub(in crate::platform) fn given_socket() -> io::Result<Option<UnixListener>> {
    let Some(fd) = sd_notify::listen_fds()?.next() else { return Ok(None) };
    // SAFETY: the manager's protocol gives this descriptor to this process, and it is used only once, at the start.
    let listener = unsafe { UnixListener::from_raw_fd(fd) };
    listener.set_nonblocking(true)?;
    listener.local_addr()?;
    Ok(Some(listener))
}

/// Reports a state to the manager.
pub(super) fn notify(state: ServiceState<'_>) {
    match state {
        ServiceState::Ready(status) => tell(&[NotifyState::Ready, NotifyState::Status(status)]),
        ServiceState::Reloading => {
            let now = NotifyState::monotonic_usec_now().ok();
            tell(&[Some(NotifyState::Reloading), now].into_iter().flatten().collect::<Vec<_>>());
        }
        ServiceState::Alive => tell(&[NotifyState::Watchdog]),
        ServiceState::Stopping => tell(&[NotifyState::Stopping]),
    }
}

/// How often to report that the agent is alive: twice per watchdog interval. `None` if the manager has no watchdog.
pub(super) fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

/// A manager that does not read lets its queue fill, and the agent does not wait for it.
fn tell(state: &[NotifyState<'_>]) {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text: String = state.iter().map(|state| format!("{state}\n")).collect();
    let told = manager(&to).and_then(|to| {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(text.as_bytes(), &to)
    });
    if let Err(error) = told {
        tracing::debug!(%error, "the service manager can't be notified");
    }
}

/// The manager's socket: a path, or after `@` a name that is none.
fn manager(to: &OsStr) -> io::Result<SocketAddr> {
    match to.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(to),
    }
}
