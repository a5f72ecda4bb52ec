//! The protocol between the agent and its service manager (`sd_notify(3)`, `sd_listen_fds(3)`).

use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::platform::contract::ServiceState;

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

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager can't be notified");
    }
}
