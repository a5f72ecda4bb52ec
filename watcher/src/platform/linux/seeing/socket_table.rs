//! The socket table without the kernel program: sock_diag's, or else /proc/net's, and the holders from /proc.

use std::collections::{HashMap, HashSet};
use std::io;

use nix::libc;
use nix::unistd::geteuid;

use super::diag::{self, States};
use super::netns::Netns;
use super::{other_ports, proc_net, reuse, unheld};
use crate::model::{Port, Protocol, Socket};
use crate::platform::contract::{ObserveError, TimeWaits};
use crate::platform::linux::processes::proc::{self, Sight};
use crate::platform::poll::{SocketTable, failed};

/// The table of one network namespace.
pub(in crate::platform::linux) struct LinuxTable(pub(in crate::platform::linux) Netns);

impl LinuxTable {
    /// The sockets in these states. Where netlink does not answer, because `inet_diag` is neither built in nor loadable or
    /// a filter of system calls is in the way, /proc/net has all but those that are bound and do not listen.
    fn read(&self, ports: &[Port], states: States) -> Result<Vec<Socket>, ObserveError> {
        let error = match diag::sockets(&self.0, ports, states) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => error,
        };
        tracing::debug!(%error, "the kernel does not list sockets (sock_diag); reading /proc/net");
        let mut sockets = proc_net::sockets(&self.0, ports).map_err(|other| unreadable(&error, &other))?;
        if !states.include_connections() {
            sockets.retain(Socket::takes_port);
        }
        Ok(sockets)
    }
}

impl SocketTable for LinuxTable {
    fn owners(&self, ports: &[Port], bound: bool) -> Result<Vec<Socket>, ObserveError> {
        self.read(ports, if bound { States::OWNING } else { States::LISTENING })
    }

    fn with_holders(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.read(ports, States::OWNING)?;
        proc::add_descriptors(&mut sockets).map_err(|error| failed(ports, error.to_string()))?;
        Ok(sockets)
    }

    fn snapshot(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.read(ports, States::HOLDING)?;
        // A connection without an inode has been closed by its process.
        sockets.retain(|socket| socket.takes_port() || socket.inode.is_some());
        let all = proc::add_descriptors(&mut sockets).map_err(|error| failed(ports, error.to_string()))?;
        if all == Sight::Whole {
            unheld::explain(&mut sockets);
        }
        let taken: HashSet<Port> =
            sockets.iter().filter(|socket| socket.takes_port()).map(Socket::port).collect();
        let mut unseen = HashSet::new();
        sockets.retain(|socket| {
            if socket.takes_port() {
                return true;
            }
            if all == Sight::Whole || !socket.descriptors.is_empty() {
                return reuse::is_unset(socket);
            }
            // Whether one of another user's keeps the port can't be found out. Where a socket takes the port, it may have
            // been accepted there; else it is named as what may be the reason, a server's thousands once.
            !taken.contains(&socket.port()) && unseen.insert((socket.address, socket.uid))
        });
        Ok(sockets)
    }

    fn may_hide_bound(&self, port: Port) -> Result<bool, ObserveError> {
        // Since Linux 6.8 every socket that holds a port is listed, though not always with its process; of UDP always.
        if port.protocol == Protocol::Udp || diag::lists_bound() {
            return Ok(false);
        }
        match diag::has_connections(&self.0, port) {
            Ok(explained) => Ok(!explained),
            Err(error) => match proc_net::has_connections(&self.0, port) {
                Ok(explained) => Ok(!explained),
                Err(other) => Err(unreadable(&error, &other)),
            },
        }
    }

    fn name_of(&self, pid: u32) -> Option<String> {
        proc::name(pid).map(|(comm, _)| comm)
    }

    fn time_wait(&self, port: Port) -> Result<TimeWaits, ObserveError> {
        time_wait(&self.0, port)
    }

    fn drop_time_wait(&self, port: Port) -> Option<Result<usize, ObserveError>> {
        Some(drop_time_wait(&self.0, port))
    }

    fn other_ports(&self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        other_ports::of(&self.0, port, pids, |_, _, _| None)
    }
}

/// As [`Observer::time_wait`](crate::platform::contract::Observer::time_wait).
pub(super) fn time_wait(netns: &Netns, port: Port) -> Result<TimeWaits, ObserveError> {
    match diag::time_wait(netns, port) {
        Ok(lingering) => Ok(lingering),
        Err(error) => proc_net::time_wait(netns, port).map_err(|other| unreadable(&error, &other)),
    }
}

/// As [`Observer::drop_time_wait`](crate::platform::contract::Observer::drop_time_wait).
pub(super) fn drop_time_wait(netns: &Netns, port: Port) -> Result<usize, ObserveError> {
    diag::drop_time_wait(netns, port).map_err(|error| {
        let mend = match error.raw_os_error() {
            Some(libc::EPERM) if geteuid().is_root() => "grant CAP_NET_ADMIN",
            Some(libc::EPERM) => "run as root, or with CAP_NET_ADMIN",
            Some(libc::EOPNOTSUPP) => "it takes Linux 6.5 or later with CONFIG_INET_DIAG_DESTROY",
            _ => "load the module tcp_diag",
        };
        ObserveError::Unavailable {
            what: "dropping connections in TIME_WAIT".to_owned(),
            why: error.to_string(),
            mend: mend.to_owned(),
        }
    })
}

/// Neither table can be read. Nothing is known then, and an empty list would say that the port is free.
fn unreadable(netlink: &io::Error, proc_net: &io::Error) -> ObserveError {
    ObserveError::Unavailable {
        what: "the socket table".to_owned(),
        why: format!("sock_diag: {netlink}; /proc/net/tcp and udp: {proc_net}"),
        mend: "load the modules tcp_diag and udp_diag, or mount /proc".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_table_nothing_is_known() {
        let error = unreadable(&io::Error::other("one"), &io::Error::other("two"));
        assert!(
            matches!(error, ObserveError::Unavailable { why, .. } if why.contains("one") && why.contains("two"))
        );
    }
}
