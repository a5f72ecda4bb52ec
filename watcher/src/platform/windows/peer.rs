//! The agent's clients, of which there are none here.

use std::convert::Infallible;
use std::io;

use super::Host;
use super::socket::Stream;
use crate::platform::NetnsError;

/// No client: there is none of this type.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) groups: Vec<u32>,
    never: Infallible,
}

impl Peer {
    /// # Errors
    /// Always.
    pub(crate) fn of(_stream: &Stream) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn is_running(&self) -> bool {
        match self.never {}
    }

    /// # Errors
    /// Never comes to be.
    pub(crate) fn host(&self) -> Result<Host, NetnsError> {
        match self.never {}
    }

    pub(crate) fn shares_pids(&self) -> bool {
        match self.never {}
    }
}
