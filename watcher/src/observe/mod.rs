//! Observe: who holds a port, and what happens to it.
//!
//! An [`Observer`] answers both, by kernel events or by polling. Above this module nothing knows which.

mod event;
mod socket;
mod table;

use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use event::{Event, EventKind, Observation};
pub use socket::{Holder, Socket, SocketId, SocketState, socket_address};
pub use table::{Change, Table};

/// How a port is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Kernel events and a kernel iterator over all descriptors.
    Ebpf,
    /// The socket table, read again and again.
    Poll,
    /// The host agent answered.
    Agent,
}

impl Backend {
    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Poll => "poll",
            Self::Agent => "agent",
        }
    }
}

/// What a command wants to be told of. The less, the less has to be loaded at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Snapshots alone.
    Snapshots,
    /// Releases as well.
    Releases,
    /// Listening as well.
    Listening,
    /// Everything that the backend can see: binds and conflicts too.
    Everything,
}

/// Why an observation failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The backend can't be had: privileges or kernel features are missing.
    #[error("{what}: {why}; {mend}")]
    Unavailable {
        /// What can't be had.
        what: String,
        /// Why not.
        why: String,
        /// What mends it.
        mend: String,
    },
    /// Reading the sockets or their holders failed.
    #[error("reading the sockets of port {port} failed: {why}")]
    Snapshot {
        /// The port.
        port: u16,
        /// What the system said.
        why: String,
    },
    /// The stream of events broke.
    #[error("the stream of kernel events broke: {0}")]
    Stream(#[from] std::io::Error),
}

/// Sees the sockets of the ports that it was made for, in one network namespace.
///
/// A socket that was opened after the observer was made is reported by an event, one that was there before by the
/// snapshot; nothing falls between, since the events are switched on first.
pub trait Observer: Send {
    /// How it observes.
    fn backend(&self) -> Backend;

    /// The sockets that hold the port now, with all their holders. Connections that can keep others from the port
    /// are among them (see [`SocketState::Connected`]).
    ///
    /// # Errors
    /// [`ObserveError::Snapshot`] when the tables can't be read: then nothing is known, which is not "free".
    fn snapshot(&mut self, port: u16) -> Result<Vec<Socket>, ObserveError>;

    /// The next event; pending until there is one.
    ///
    /// # Errors
    /// [`ObserveError::Stream`] when no more events will come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>>;

    /// What is shorter than this can be missed; `None` where nothing is.
    fn resolution(&self) -> Option<std::time::Duration> {
        None
    }

    /// Watches these ports instead of those that it was made for.
    ///
    /// # Errors
    /// When the change can't be made.
    fn set_ports(&mut self, ports: &[u16]) -> Result<(), ObserveError>;

    /// Whether a socket may hold the port that [`Observer::snapshot`] can't show, given that a plain bind failed:
    /// the socket tables leave out sockets that are bound and do not listen. Connections that linger explain such
    /// a failure; when there are none, somebody else has it.
    ///
    /// # Errors
    /// As for [`Observer::snapshot`].
    fn may_hide_bound(&mut self, port: u16) -> Result<bool, ObserveError>;
}

/// The next event of an observer.
///
/// # Errors
/// As for [`Observer::poll_next`].
pub async fn next(observer: &mut dyn Observer) -> Result<Observation, ObserveError> {
    std::future::poll_fn(|cx| observer.poll_next(cx)).await
}

/// The events that have arrived by now, without waiting.
///
/// # Errors
/// As for [`Observer::poll_next`].
pub fn drain(observer: &mut dyn Observer) -> Result<Vec<Observation>, ObserveError> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(event) = observer.poll_next(&mut cx) {
        events.push(event?);
    }
    Ok(events)
}
