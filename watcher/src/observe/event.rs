//! What happens to a port.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A socket took the port.
    Bind,
    /// A socket began to listen.
    Listen,
    /// A listener stopped to listen and still holds the port.
    Unlisten,
    /// The port went back to the kernel, as far as this socket is concerned.
    Release,
    /// A bind, or a listen, failed since the port was taken.
    Conflict,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The local address and port.
    pub address: SocketAddr,
    /// When, on the monotonic clock (`CLOCK_MONOTONIC` on Linux), in nanoseconds.
    pub monotonic_ns: u64,
    /// The same moment, on the clock that the program measures with.
    pub at: Instant,
    /// The same moment, on the wall clock.
    pub time: SystemTime,
    /// From the kernel's timestamp until the program had the event; `None` where there was no timestamp.
    pub delay: Option<Duration>,
    /// Who did it: for a listen its caller, for a release the last holder. `None` where it is not visible.
    pub pid: Option<u32>,
    /// The user.
    pub uid: Option<u32>,
    /// The process's short name.
    pub comm: String,
    /// The socket's cookie, where it is known.
    pub cookie: Option<u64>,
    /// The network namespace's inode number, where it is known.
    pub netns: Option<u32>,
}

/// What an observer says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Something happened.
    Event(Event),
    /// This many events were dropped: what is known is out of date, and a new snapshot is due.
    Lost(u64),
}
