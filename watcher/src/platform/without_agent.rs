//! For a system without a host agent: connecting and starting always fail.

use std::io;
use std::path::Path;

use super::Host;
use super::contract::{AgentSystem, Credentials, NetnsError, Peer, ServiceSystem};

/// A listening socket, or a client: neither exists, so there is no value of this type.
pub(crate) enum Absent {}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the agent is for Linux and macOS"))
}

impl AgentSystem for Host {
    type Listener = Absent;
    // Never made: any type that can be read and written will do.
    type Stream = tokio::io::Empty;
    type Peer = Absent;

    async fn connect(_path: &Path) -> io::Result<tokio::io::Empty> {
        unsupported()
    }

    fn listen(_path: &Path) -> io::Result<Absent> {
        unsupported()
    }

    async fn accept(listener: &Absent) -> io::Result<tokio::io::Empty> {
        match *listener {}
    }

    fn peer(_stream: &tokio::io::Empty) -> io::Result<Absent> {
        unsupported()
    }

    fn raise_limits() {}

    fn has_room_beside(_stream: &tokio::io::Empty, _left: u32) -> bool {
        true
    }

    fn own_user() -> u32 {
        u32::MAX
    }

    fn user(_name: &str) -> Option<u32> {
        None
    }

    fn group(_name: &str) -> Option<u32> {
        None
    }
}

impl ServiceSystem for Host {}

impl Peer<Host> for Absent {
    fn credentials(&self) -> &Credentials {
        match *self {}
    }

    fn is_running(&self) -> bool {
        match *self {}
    }

    fn has_ended(&self) -> bool {
        match *self {}
    }

    fn host(&self) -> Result<Host, NetnsError> {
        match *self {}
    }

    fn shares_pids(&self) -> bool {
        match *self {}
    }
}
