//! The lines of `watch` and of the agent's event stream.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::WireError;
use super::values::{
    cookie, is_tcp, micros, read_address, read_cookie, read_timestamp, timestamp, unreadable,
};
use crate::model::{Backend, NamedProcess, Port, Protocol, WatchEvent, WatchKind};

/// One line of `watch`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Line)]
pub(crate) struct WatchLine {
    /// What happened.
    #[schema(value_type = WatchKind)]
    event: String,
    /// The port. Of `lost`, which concerns all that were asked for, the first one; 0 where every port was.
    port: u16,
    /// Its protocol, where that is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    protocol: Protocol,
    /// The time, RFC 3339 in UTC.
    time: String,
    /// The same moment on the monotonic clock; null if no kernel or poll event gave it.
    monotonic_ns: Option<u64>,
    /// The owner, the process that tried, or the last holder.
    pid: Option<u32>,
    /// Its user.
    uid: Option<u32>,
    /// Its short name.
    comm: Option<String>,
    /// The short name of its thread that did it, where that has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thread: Option<String>,
    /// The address.
    address: Option<String>,
    /// The network namespace's inode number.
    netns: Option<u32>,
    /// The socket's cookie.
    socket: Option<String>,
    /// How it was observed.
    backend: Backend,
    /// From the kernel's timestamp until the program received the event, in microseconds.
    delay_us: Option<u64>,
    /// For a conflict: the processes that hold the port, 16 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<HolderJson>>,
    /// For a conflict: how many processes hold the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holders_total: Option<usize>,
    /// For `lost`: how many events.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// For `ready`: changes shorter than this may be missed, in microseconds. Only if ports are polled.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolution_us: Option<u64>,
    /// From the agent: the position after this line, from which to continue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// A process that holds a port, in the line of a conflict.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HolderLine)]
struct HolderJson {
    /// The pid; null for one that can't be seen.
    pid: Option<u32>,
    /// Its short name.
    comm: Option<String>,
    /// The address that it holds.
    address: String,
}

impl WatchLine {
    /// The line of an event, with the cursor after it if an agent sends it.
    pub(crate) fn new(event: &WatchEvent, cursor: Option<String>) -> Self {
        Self { cursor, ..Self::from(event) }
    }

    /// What happened.
    pub(super) fn name(&self) -> &str {
        &self.event
    }

    /// The same line, of something else.
    pub(super) fn named(self, name: &str) -> Self {
        Self { event: name.to_owned(), ..self }
    }
}

impl From<&WatchEvent> for WatchLine {
    fn from(event: &WatchEvent) -> Self {
        let mut line = Self {
            event: event.kind.name().to_owned(),
            port: event.port.number,
            protocol: event.port.protocol,
            time: timestamp(event.time, 6),
            monotonic_ns: event.monotonic_ns,
            pid: event.pid,
            uid: event.uid,
            comm: event.comm.clone(),
            thread: event.thread.clone(),
            address: event.address.map(|address| address.to_string()),
            netns: event.netns,
            socket: event.cookie.map(cookie),
            backend: event.backend,
            delay_us: event.delay.map(micros),
            holders: None,
            holders_total: None,
            count: None,
            resolution_us: None,
            cursor: None,
        };
        match &event.kind {
            WatchKind::Ready { resolution } => line.resolution_us = resolution.map(micros),
            WatchKind::Conflict { holders, total } => {
                line.holders = Some(holders.iter().map(HolderJson::from).collect());
                line.holders_total = Some(*total);
            }
            WatchKind::Lost { count, .. } => line.count = *count,
            WatchKind::Held
            | WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Refused
            | WatchKind::Release
            | WatchKind::Free => {}
        }
        line
    }
}

impl TryFrom<WatchLine> for WatchEvent {
    type Error = WireError;

    fn try_from(line: WatchLine) -> Result<Self, WireError> {
        let mut kind = line.event.parse().map_err(|_| unreadable("event", &line.event))?;
        match &mut kind {
            WatchKind::Ready { resolution } => *resolution = line.resolution_us.map(Duration::from_micros),
            WatchKind::Conflict { holders, total } => {
                *holders = line.holders.into_iter().flatten().map(NamedProcess::from).collect();
                // An agent of before told all of them.
                *total = line.holders_total.unwrap_or(holders.len());
            }
            WatchKind::Lost { count, .. } => *count = line.count,
            WatchKind::Held
            | WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Refused
            | WatchKind::Release
            | WatchKind::Free => {}
        }
        Ok(Self {
            kind,
            port: Port { protocol: line.protocol, number: line.port },
            time: read_timestamp("time", &line.time)?,
            monotonic_ns: line.monotonic_ns,
            pid: line.pid,
            uid: line.uid,
            comm: line.comm,
            thread: line.thread,
            address: line.address.map(|text| read_address("address", &text)).transpose()?,
            netns: line.netns,
            cookie: line.socket.map(|text| read_cookie("socket", &text)).transpose()?,
            backend: line.backend,
            delay: line.delay_us.map(Duration::from_micros),
        })
    }
}

impl From<&NamedProcess> for HolderJson {
    fn from(process: &NamedProcess) -> Self {
        let address = process.address.map(|address| address.to_string()).unwrap_or_default();
        Self { pid: process.pid, comm: process.comm.clone(), address }
    }
}

impl From<HolderJson> for NamedProcess {
    fn from(json: HolderJson) -> Self {
        Self { pid: json.pid, comm: json.comm, address: json.address.parse().ok() }
    }
}
