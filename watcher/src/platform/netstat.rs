//! netstat2's socket table, for systems whose own table this program does not read: it shows listeners with their
//! processes, and connections.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use netstat2::{AddressFamilyFlags, ProtocolFlags, ProtocolSocketInfo, SocketInfo, TcpState};

use super::contract::{MOST_OTHER_PORTS, ObserveError};
use super::poll::{self, SocketTable};
use crate::model::{Descriptor, Port, Protocol, Socket, SocketState};

/// netstat2's table of the whole system, for systems without network namespaces.
pub(crate) struct SystemTable {
    /// Finds the short name of a process.
    name_of: fn(u32) -> Option<String>,
    /// Of all ports, as the last look found them: it reads the whole table, with each listener's process.
    listeners: RefCell<Vec<Socket>>,
}

impl SystemTable {
    pub(crate) fn new(name_of: fn(u32) -> Option<String>) -> Self {
        Self { name_of, listeners: RefCell::default() }
    }
}

impl SocketTable for SystemTable {
    fn owners(&self, ports: &[Port], _bound: bool) -> Result<Vec<Socket>, ObserveError> {
        let protocols = ports.iter().fold(ProtocolFlags::empty(), |all, port| all | flag(port.protocol));
        let all = sockets(protocols).map_err(|why| poll::failed(ports, why))?;
        let listeners: Vec<Socket> = all.iter().filter_map(server).collect();
        let wanted = listeners.iter().filter(|socket| ports.contains(&socket.port())).cloned().collect();
        *self.listeners.borrow_mut() = listeners;
        Ok(wanted)
    }

    fn with_holders(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        self.owners(ports, false)
    }

    fn snapshot(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        self.owners(ports, false)
    }

    fn may_hide_bound(&self, port: Port) -> Result<bool, ObserveError> {
        let all = sockets(flag(port.protocol)).map_err(|why| poll::failed(&[port], why))?;
        Ok(!all.iter().any(|info| is_connection(info, port)))
    }

    fn name_of(&self, pid: u32) -> Option<String> {
        (self.name_of)(pid)
    }

    fn other_ports(&self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        let listeners = self.listeners.borrow();
        let is_other = |other: &Port| other.protocol == port.protocol && *other != port;
        let of = |pid: u32| -> Vec<u16> {
            let held =
                listeners.iter().filter(|socket| socket.descriptors.iter().any(|held| held.pid == pid));
            let ports: BTreeSet<u16> =
                held.map(Socket::port).filter(is_other).map(|other| other.number).collect();
            ports.into_iter().take(MOST_OTHER_PORTS).collect()
        };
        pids.iter().map(|&pid| (pid, of(pid))).collect()
    }
}

fn flag(protocol: Protocol) -> ProtocolFlags {
    match protocol {
        Protocol::Tcp => ProtocolFlags::TCP,
        Protocol::Udp => ProtocolFlags::UDP,
    }
}

/// netstat2's table of the sockets of these protocols.
fn sockets(protocols: ProtocolFlags) -> Result<Vec<SocketInfo>, String> {
    netstat2::get_sockets_info(AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6, protocols)
        .map_err(|error| error.to_string())
}

/// All that serve by this protocol.
pub(crate) fn servers(protocol: Protocol) -> Result<Vec<Socket>, String> {
    Ok(sockets(flag(protocol))?.iter().filter_map(server).collect())
}

/// Converts a netstat2 listener or UDP socket; `None` for any other socket. It does not tell which UDP sockets are
/// connected.
fn server(info: &SocketInfo) -> Option<Socket> {
    let socket = match &info.protocol_socket_info {
        ProtocolSocketInfo::Tcp(tcp) => {
            let address = (tcp.local_addr, tcp.local_port).into();
            (tcp.state == TcpState::Listen)
                .then(|| Socket::new(Protocol::Tcp, address, SocketState::Listen))?
        }
        ProtocolSocketInfo::Udp(udp) => {
            Socket::new(Protocol::Udp, (udp.local_addr, udp.local_port).into(), SocketState::Bound)
        }
    };
    let pids = info.associated_pids.iter().filter(|&&pid| pid != 0);
    Some(Socket { descriptors: pids.map(|&pid| Descriptor { pid, fd: None }).collect(), ..socket })
}

/// Whether it is a connection from the port, open or lingering.
fn is_connection(info: &SocketInfo, port: Port) -> bool {
    match &info.protocol_socket_info {
        ProtocolSocketInfo::Tcp(tcp) => {
            port == Port::tcp(tcp.local_port) && tcp.state != TcpState::Listen && tcp.remote_port != 0
        }
        ProtocolSocketInfo::Udp(_) => false,
    }
}
