//! The first look: what held the port when the job began, and nothing later. Only the sockets in it are stale.

use std::collections::HashSet;

use super::owner::{Holding, Owner};
use crate::model::{Process, Socket, SocketId};

/// The sockets of the first look, and the processes that held them.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstLook {
    sockets: HashSet<SocketId>,
    /// The processes: pid and start time.
    processes: HashSet<(u32, u64)>,
}

impl FirstLook {
    /// A first look at these sockets and their owners.
    #[must_use]
    pub(crate) fn new(sockets: &[Socket], owners: &[Owner]) -> Self {
        Self {
            sockets: sockets
                .iter()
                .filter(|socket| socket.owns_port() && !socket.after_look)
                .map(Socket::id)
                .collect(),
            processes: owners.iter().filter_map(|owner| owner.process.as_ref()).map(identity).collect(),
        }
    }

    /// Whether the process holds the port by one of these sockets.
    ///
    /// The kernel's number for a socket is proof enough that it is the same socket, even if a worker that was forked
    /// later holds it. An address is not: a new owner that replaces the old one has the same address, and may have the
    /// old one's pid as well. In that case the process must be one of those of the first look.
    #[must_use]
    pub(crate) fn includes(&self, holding: &Holding, process: &Process) -> bool {
        let id = holding.socket.id();
        let known = match id {
            SocketId::Cookie(_) | SocketId::Inode(_) => true,
            SocketId::Address(..) => self.processes.contains(&identity(process)),
        };
        known && holding.socket.owns_port() && self.sockets.contains(&id)
    }

    /// The sockets.
    #[must_use]
    pub(crate) fn sockets(&self) -> &HashSet<SocketId> {
        &self.sockets
    }
}

fn identity(process: &Process) -> (u32, u64) {
    (process.pid, process.start_time.raw)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{Descriptor, Protocol, SocketState, StartTime, Verdict};
    use crate::steps::fake::process;

    fn owner(start: u64, inode: Option<u64>) -> Owner {
        let mut process = process(&["openclaw-gateway"]);
        process.start_time = StartTime { raw: start, wall: SystemTime::UNIX_EPOCH };
        let address = ([127, 0, 0, 1], 80).into();
        let socket = Socket {
            inode,
            descriptors: vec![Descriptor { pid: process.pid, fd: None }],
            ..Socket::new(Protocol::Tcp, address, SocketState::Listen)
        };
        Owner {
            pid: Some(process.pid),
            age: None,
            uid: process.uid,
            process: Some(process),
            holdings: vec![Holding { socket, descriptor: None }],
            other_ports: None,
            verdict: Verdict::Match,
            why: String::new(),
            exclusion: None,
            spared_for: None,
            inherits: false,
        }
    }

    fn first_look(owner: &Owner) -> FirstLook {
        FirstLook::new(&[owner.holdings[0].socket.clone()], std::slice::from_ref(owner))
    }

    #[test]
    fn a_new_process_with_the_old_ones_pid_and_address_is_not_stale() {
        // given a system that distinguishes sockets by address alone
        let first_look = first_look(&owner(1, None));
        // then only the process of the first look may be ended for it
        assert!(owner(1, None).is_target(&first_look));
        assert!(!owner(2, None).is_target(&first_look));
    }

    #[test]
    fn a_worker_that_was_forked_since_is_stale_by_its_socket() {
        let first_look = first_look(&owner(1, Some(5)));
        assert!(owner(2, Some(5)).is_target(&first_look));
        assert!(!owner(2, Some(6)).is_target(&first_look));
    }
}
