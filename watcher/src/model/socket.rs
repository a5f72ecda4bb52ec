//! A socket that holds a port, and which processes hold the socket.

use std::net::SocketAddr;

use strum::{EnumString, IntoStaticStr, VariantNames};

use super::outcome::Reason;
use super::port::{Port, Protocol};

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum SocketState {
    /// It listens.
    Listen,
    /// It is bound but does not listen: not yet, no longer, or never. A UDP socket never listens: bound, it serves.
    Bound,
    /// It is connected, with the port as its local port and, if it is a TCP socket, without `SO_REUSEADDR`. It serves no
    /// clients, so its process is never ended for it; but a bind to its address fails.
    Connected,
}

/// One descriptor of a socket in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The process.
    pub pid: u32,
    /// Where in the process it is; `None` if the backend does not know.
    pub fd: Option<Fd>,
}

/// The number of a descriptor, and the table that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fd {
    /// A thread in whose table it is. Differs from the pid if the thread group's leader has ended.
    pub thread: u32,
    /// The number.
    pub number: u32,
}

/// What distinguishes one socket from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SocketId {
    /// The kernel's cookie (`SO_COOKIE`): never used twice while the system is up.
    Cookie(u64),
    /// The inode. It can be reused once the socket is gone.
    Inode(u64),
    /// Only its address and the first process that holds it are known. Another socket can have the same.
    Address(Protocol, SocketAddr, Option<u32>),
}

/// A socket that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The protocol.
    pub protocol: Protocol,
    /// The local address and port.
    pub address: SocketAddr,
    /// What it does with the port.
    pub state: SocketState,
    /// The kernel's cookie, if known.
    pub cookie: Option<u64>,
    /// The inode, if known.
    pub inode: Option<u64>,
    /// The network namespace's inode number, if known.
    pub netns: Option<u32>,
    /// `IPV6_V6ONLY`: false for a dual-stack listener. `None` if unknown, and for IPv4.
    pub v6_only: Option<bool>,
    /// The user who created it, if known. The process that holds it can be another's.
    pub uid: Option<u32>,
    /// Whether it is a multipath socket, whose cookie is that of the TCP socket inside it.
    pub multipath: bool,
    /// Whether it is newer than the look that found it. A look takes time: its moment is that at which the kernel's table
    /// was read, and what only the longer search for descriptors found may have come since.
    pub after_look: bool,
    /// The descriptors that lead to it. Empty if the process that holds it can't be seen.
    pub descriptors: Vec<Descriptor>,
    /// Why no descriptor leads to it, where that is known.
    pub unheld: Option<Reason>,
}

impl Socket {
    /// A socket of which only this is known.
    #[must_use]
    pub(crate) fn new(protocol: Protocol, address: SocketAddr, state: SocketState) -> Self {
        Self {
            protocol,
            address,
            state,
            cookie: None,
            inode: None,
            netns: None,
            v6_only: None,
            uid: None,
            multipath: false,
            after_look: false,
            descriptors: Vec::new(),
            unheld: None,
        }
    }

    /// The port that it holds.
    #[must_use]
    pub(crate) fn port(&self) -> Port {
        Port { protocol: self.protocol, number: self.address.port() }
    }

    /// What distinguishes this socket from others.
    #[must_use]
    pub(crate) fn id(&self) -> SocketId {
        match (self.cookie, self.inode) {
            (Some(cookie), _) => SocketId::Cookie(cookie),
            (None, Some(inode)) => SocketId::Inode(inode),
            (None, None) => {
                let holder = self.descriptors.first().map(|first| first.pid);
                SocketId::Address(self.protocol, self.address, holder)
            }
        }
    }

    /// Whether it holds the port for itself: it listens, or is bound and may begin to listen.
    #[must_use]
    pub(crate) fn owns_port(&self) -> bool {
        match self.state {
            SocketState::Listen | SocketState::Bound => true,
            SocketState::Connected => false,
        }
    }

    /// Whether it serves clients on the port: it listens, or, as UDP knows no listening, is bound and not connected.
    #[must_use]
    pub(crate) fn serves(&self) -> bool {
        match (self.protocol, self.state) {
            (Protocol::Tcp, SocketState::Listen) | (Protocol::Udp, SocketState::Bound) => true,
            (Protocol::Tcp, SocketState::Bound | SocketState::Connected)
            | (Protocol::Udp, SocketState::Listen | SocketState::Connected) => false,
        }
    }

    /// Whether it stands for sockets, or holders of some, of which there were too many to keep account of.
    #[must_use]
    pub(crate) fn is_left_out(&self) -> bool {
        self.unheld == Some(Reason::TooMany)
    }

    /// Whether the port is taken as long as the socket is there. A TCP connection shares its port with the server that
    /// accepted it; a UDP socket has its own, connected or not.
    #[must_use]
    pub(crate) fn takes_port(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.owns_port(),
            Protocol::Udp => true,
        }
    }
}
