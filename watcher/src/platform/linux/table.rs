//! The socket table for the polling backend: netstat2's, in the right network namespace.

use netstat2::{AddressFamilyFlags, ProtocolFlags, SocketInfo};

use super::netns::Netns;
use super::proc;
use crate::observe::Socket;
use crate::platform::poll::{self, SocketTable};

/// netstat2's table in one network namespace.
pub(super) struct LinuxTable(pub(super) Netns);

impl LinuxTable {
    fn to_listener(&self, info: &SocketInfo) -> Option<Socket> {
        poll::listener(info).map(|socket| Socket {
            inode: Some(u64::from(info.inode)).filter(|&inode| inode != 0),
            netns: Some(self.0.inode()),
            uid: Some(info.uid),
            ..socket
        })
    }

    /// The table without pids, which is all that netlink has to be asked for.
    fn bare(&self) -> Result<Vec<SocketInfo>, String> {
        let read = || {
            let sockets = netstat2::iterate_sockets_info_without_pids(
                AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6,
                ProtocolFlags::TCP,
            );
            sockets.and_then(Iterator::collect).map_err(|error| error.to_string())
        };
        self.0.run(read).map_err(|error| error.to_string())?
    }
}

impl SocketTable for LinuxTable {
    fn listeners(&self) -> Result<Vec<Socket>, String> {
        Ok(self.bare()?.iter().filter_map(|info| self.to_listener(info)).collect())
    }

    fn owned_listeners(&self) -> Result<Vec<Socket>, String> {
        let all = self.0.run(poll::tcp_sockets).map_err(|error| error.to_string())??;
        let mut sockets: Vec<Socket> = all.iter().filter_map(|info| self.to_listener(info)).collect();
        // netstat2 reads /proc/PID/fd alone, which is empty when a leader has ended before its threads.
        let (owned, mut unowned): (Vec<_>, Vec<_>) =
            sockets.drain(..).partition(|socket| !socket.holders.is_empty());
        proc::add_holders(&mut unowned).map_err(|error| error.to_string())?;
        sockets.extend(owned);
        sockets.extend(unowned);
        Ok(sockets)
    }

    fn has_connections(&self, port: u16) -> Result<bool, String> {
        Ok(self.bare()?.iter().any(|info| poll::is_connection(info, port)))
    }

    fn name_of(&self, pid: u32) -> Option<String> {
        proc::read(pid, pid).ok().map(|process| process.comm)
    }
}
