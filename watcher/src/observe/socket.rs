//! A socket that holds a port, and who holds the socket.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SocketState {
    /// It listens.
    Listen,
    /// It is bound and does not listen: not yet, no longer, or never.
    Bound,
    /// It is connected, with the port as its local one and without `SO_REUSEADDR`. It serves nobody, so its
    /// process is never ended for it; but a bind to its address fails.
    Connected,
}

/// One descriptor of a socket in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The thread whose descriptor table has it. Differs from `pid` when the thread group's leader has ended.
    pub tid: u32,
    /// The descriptor; `None` where the backend does not tell.
    pub fd: Option<u32>,
}

/// What tells one socket from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketId {
    /// The kernel's cookie (`SO_COOKIE`): never used twice while the system is up.
    Cookie(u64),
    /// The inode. It can be used again once the socket is gone.
    Inode(u64),
    /// Only its address is known, and the first process that holds it. Both can come again.
    Address(SocketAddr, Option<u32>),
}

/// A socket that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The local address and port.
    pub address: SocketAddr,
    /// What it does with the port.
    pub state: SocketState,
    /// The kernel's cookie, where it is known.
    pub cookie: Option<u64>,
    /// The inode, where it is known.
    pub inode: Option<u64>,
    /// The network namespace's inode number, where it is known.
    pub netns: Option<u32>,
    /// `IPV6_V6ONLY`: false for a dual-stack listener. `None` where it is not known, and for IPv4.
    pub v6_only: Option<bool>,
    /// The user who made it, where that is known and its holder is not.
    pub uid: Option<u32>,
    /// It is the multipath kind, whose cookie is that of the TCP socket in it.
    pub multipath: bool,
    /// Who holds it. Empty when somebody does and can't be seen.
    pub holders: Vec<Holder>,
}

impl Socket {
    /// What tells this socket from others.
    #[must_use]
    pub fn id(&self) -> SocketId {
        match (self.cookie, self.inode) {
            (Some(cookie), _) => SocketId::Cookie(cookie),
            (None, Some(inode)) => SocketId::Inode(inode),
            (None, None) => SocketId::Address(self.address, self.holders.first().map(|holder| holder.pid)),
        }
    }

    /// Whether it holds the port for itself: it listens, or is bound and may.
    #[must_use]
    pub fn owns_port(&self) -> bool {
        self.state != SocketState::Connected
    }
}

/// An address with its port. The interface becomes the scope of a link-local IPv6 address.
#[must_use]
pub fn socket_address(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if is_link_local(v6) => SocketAddrV6::new(v6, port, 0, interface).into(),
        _ => SocketAddr::new(ip, port),
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}
