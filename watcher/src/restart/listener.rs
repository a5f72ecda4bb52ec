//! The listeners that come after a restart's old ones, and whose they are.

use std::net::SocketAddr;

use super::answer::{By, NewOwner};
use crate::model::WatchEvent;

/// Whose a new listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// One of the command's processes, or the unit's.
    AskedFor(By),
    /// It matches the rules. A command that has ended well has had another program do it: then this is the new owner. One
    /// that runs on may be a server itself that is about to fail, because this one has the port; so it is waited for, and
    /// only when the time is over and it has neither ended nor been refused the port, this is the new owner.
    Matching,
    /// None of these.
    Stranger,
    /// Its process can't be seen, or has ended.
    Unseen,
}

/// What distinguishes an event's socket from others: its cookie or, if ports are polled, its address and holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketKey {
    pub(super) cookie: Option<u64>,
    pub(super) address: Option<SocketAddr>,
    pub(super) pid: Option<u32>,
}

impl SocketKey {
    pub(super) fn of(event: &WatchEvent) -> Self {
        Self { cookie: event.cookie, address: event.address, pid: event.pid }
    }

    /// Whether both are one socket. Events of the agent have cookies where those of a watch that takes its place need not.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self.cookie, other.cookie) {
            (Some(one), Some(other)) => one == other,
            _ => (self.address, self.pid) == (other.address, other.pid),
        }
    }
}

/// A listener that was not there before.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: SocketKey,
    pub(super) at: u64,
    pub(super) owner: NewOwner,
    pub(super) whose: Whose,
}
