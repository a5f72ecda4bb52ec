//! launchd, which asks nothing of the agent: a service that runs counts as ready.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// launchd's sockets are not used.
///
/// # Errors
/// None.
pub(crate) fn given_socket() -> io::Result<Option<UnixListener>> {
    Ok(None)
}

/// Requests are answered from here on.
pub(crate) fn ready(_status: &str) {}

/// The configuration is being read again.
pub(crate) fn reloading() {}

/// It ends.
pub(crate) fn stopping() {}

/// It is alive.
pub(crate) fn alive() {}

/// Nobody asks for signs of life.
pub(crate) fn alive_every() -> Option<Duration> {
    None
}
