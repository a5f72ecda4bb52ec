//! What happens to a port: as an observer reports it, and as a watch reports it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use strum::{EnumString, IntoStaticStr, VariantNames};

use super::backend::Backend;
use super::port::{Port, Protocol};

/// The kinds of events that an observer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// A socket took the port.
    Bind,
    /// A socket began to listen.
    Listen,
    /// A listener stopped listening but still holds the port.
    #[allow(dead_code, reason = "only a kernel that reports events reports this one")]
    Unlisten,
    /// The socket gave the port back to the kernel.
    Release,
    /// `bind` or `listen` failed because the port was in use.
    Conflict,
    /// A guard refused a bind.
    #[allow(dead_code, reason = "only Linux has guards")]
    Refused,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: EventKind,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The local address and port.
    pub(crate) address: SocketAddr,
    /// The time on the monotonic clock (`CLOCK_MONOTONIC` on Linux), in nanoseconds.
    pub(crate) monotonic_ns: u64,
    /// The same moment as an `Instant`.
    pub(crate) at: Instant,
    /// The same moment, on the wall clock.
    pub(crate) time: SystemTime,
    /// From the kernel's timestamp until the program received the event; `None` if it has no timestamp.
    pub(crate) delay: Option<Duration>,
    /// The process that did it: the caller of `listen`, or for a release the last holder. `None` if it is not
    /// visible.
    pub(crate) pid: Option<u32>,
    /// The user.
    pub(crate) uid: Option<u32>,
    /// The process's short name.
    pub(crate) comm: String,
    /// Whether the process is a kernel thread, which closed what another process left behind.
    pub(crate) by_kernel_thread: bool,
    /// The socket's cookie, if known.
    pub(crate) cookie: Option<u64>,
    /// The network namespace's inode number, if known.
    pub(crate) netns: Option<u32>,
}

impl Event {
    /// The port that the event is about.
    #[must_use]
    pub(crate) fn port(&self) -> Port {
        Port { protocol: self.protocol, number: self.address.port() }
    }
}

/// What an observer reports next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observation {
    /// Something happened.
    Event(Event),
    /// This many events were dropped (`None` if unknown), not counting those that no watch reports: the known sockets are
    /// out of date, and a new snapshot is needed.
    Lost(Option<u64>, LostIn),
}

/// In which network namespaces events were dropped. The kernel program counts no further, because anybody can make
/// namespaces without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostIn {
    /// The observer's own.
    Home,
    /// Others than that.
    Elsewhere,
    /// It is not known.
    #[default]
    Anywhere,
}

impl LostIn {
    /// Whether events of this namespace can be among them; `None` stands for all.
    #[must_use]
    pub(crate) fn concerns(self, netns: Option<u32>, home: u32) -> bool {
        match self {
            Self::Home => netns.is_none_or(|netns| netns == home),
            Self::Elsewhere => netns != Some(home),
            Self::Anywhere => true,
        }
    }
}

/// The kinds of events that a watch reports.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum WatchKind {
    /// A socket already held the port.
    Held,
    /// The watch is armed: nothing later can be missed.
    Ready {
        /// Changes shorter than this may be missed; `None` if none can be.
        resolution: Option<Duration>,
    },
    /// A socket took the port.
    Bind,
    /// A socket began to listen.
    Listen,
    /// A bind failed.
    Conflict {
        /// The processes that hold the port; of many, the first few.
        holders: Vec<NamedProcess>,
        /// How many hold it.
        total: usize,
    },
    /// The port is guarded, and a bind was refused.
    Refused,
    /// A socket gave the port back.
    Release,
    /// The last socket gave the port back.
    Free,
    /// Events were dropped; `held` events follow.
    Lost {
        /// How many; `None` if unknown.
        count: Option<u64>,
        /// Where.
        lost_in: LostIn,
    },
}

impl WatchKind {
    /// The name in JSON and in metrics.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }
}

/// What happened to a watched port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// The port; for `Ready` and `Lost`, which concern all ports, the first one.
    pub port: Port,
    /// The time on the wall clock.
    pub time: SystemTime,
    /// The same moment on the monotonic clock, in nanoseconds; `None` if no kernel or poll event gave it.
    pub monotonic_ns: Option<u64>,
    /// The owner, the process that tried, or the last holder.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its short name.
    pub comm: Option<String>,
    /// The short name of its thread that did it, where that has one of its own.
    pub thread: Option<String>,
    /// The address.
    pub address: Option<SocketAddr>,
    /// The network namespace's inode number.
    pub netns: Option<u32>,
    /// The socket's cookie.
    pub cookie: Option<u64>,
    /// How it was observed.
    pub backend: Backend,
    /// From the kernel's timestamp until the program received the event.
    pub delay: Option<Duration>,
}

impl WatchEvent {
    /// What an observer's event tells, as this kind.
    pub(crate) fn of(event: &Event, kind: WatchKind, backend: Backend) -> Self {
        Self {
            kind,
            port: event.port(),
            time: event.time,
            monotonic_ns: Some(event.monotonic_ns),
            pid: event.pid,
            uid: event.uid,
            comm: Some(event.comm.clone()).filter(|comm| !comm.is_empty()),
            thread: None,
            address: Some(event.address),
            netns: event.netns,
            cookie: event.cookie,
            backend,
            delay: event.delay,
        }
    }

    /// An event stamped now, with all other fields empty.
    #[must_use]
    pub(crate) fn now(kind: WatchKind, port: Port, backend: Backend) -> Self {
        Self {
            kind,
            port,
            time: SystemTime::now(),
            monotonic_ns: None,
            pid: None,
            uid: None,
            comm: None,
            thread: None,
            address: None,
            netns: None,
            cookie: None,
            backend,
            delay: None,
        }
    }
}

/// A process that holds a port, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedProcess {
    /// The pid; `None` for one that can't be seen.
    pub pid: Option<u32>,
    /// Its short name.
    pub comm: Option<String>,
    /// The address that it holds.
    pub address: Option<SocketAddr>,
}
