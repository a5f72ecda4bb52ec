//! The service manager, to which the agent has nothing to say here.

use std::time::Duration;

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
