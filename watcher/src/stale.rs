//! Stale: what held the port at the first look, and nothing that came later.

use std::collections::HashSet;

use crate::observe::{Socket, SocketId};
use crate::owner::{Held, Owner};
use crate::process::Process;

/// The sockets of the first look.
#[derive(Debug, Clone, Default)]
pub struct Stale {
    sockets: HashSet<SocketId>,
    /// The processes that held them: pid and start time.
    processes: HashSet<(u32, u64)>,
}

impl Stale {
    /// These sockets, and the owners that were found to hold them.
    #[must_use]
    pub fn new(sockets: &[Socket], owners: &[Owner]) -> Self {
        Self {
            sockets: sockets.iter().filter(|socket| socket.owns_port()).map(Socket::id).collect(),
            processes: owners.iter().filter_map(|owner| owner.process.as_ref()).map(name).collect(),
        }
    }

    /// Whether the process holds the port by one of these sockets.
    ///
    /// The kernel's number for a socket says by itself that it is the same one, also in the hands of a worker that was
    /// forked since. An address does not: a new owner that takes the place of the old one has the same, and may have
    /// been given the old one's pid as well. There the process has to be one of those of the first look.
    #[must_use]
    pub fn is_held(&self, held: &Held, process: &Process) -> bool {
        held.socket.owns_port()
            && self.sockets.contains(&held.socket.id())
            && (!matches!(held.socket.id(), SocketId::Address(..)) || self.processes.contains(&name(process)))
    }

    /// The sockets.
    #[must_use]
    pub fn sockets(&self) -> &HashSet<SocketId> {
        &self.sockets
    }
}

fn name(process: &Process) -> (u32, u64) {
    (process.pid, process.start_time.raw)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identify::tests::process;
    use crate::observe::{Holder, SocketState};
    use crate::process::{Identity, StartTime};

    fn owner(start: u64, inode: Option<u64>) -> Owner {
        let mut process = process(&["openclaw-gateway"]);
        process.start_time = StartTime { raw: start, wall: SystemTime::UNIX_EPOCH };
        let socket = Socket {
            address: ([127, 0, 0, 1], 80).into(),
            state: SocketState::Listen,
            cookie: None,
            inode,
            netns: None,
            v6_only: None,
            uid: None,
            multipath: false,
            holders: vec![Holder { pid: process.pid, tid: process.pid, fd: None }],
        };
        Owner {
            pid: Some(process.pid),
            uid: process.uid,
            process: Some(process),
            held: vec![Held { socket, holder: None }],
            identity: Identity::Match,
            why: String::new(),
            relation: None,
        }
    }

    fn stale(owner: &Owner) -> Stale {
        Stale::new(&[owner.held[0].socket.clone()], std::slice::from_ref(owner))
    }

    #[test]
    fn a_new_process_with_the_old_ones_pid_and_address_is_not_stale() {
        // given a system that tells sockets apart by address alone
        let stale = stale(&owner(1, None));
        // then only the process of the first look may be ended for it
        assert!(owner(1, None).is_target(&stale));
        assert!(!owner(2, None).is_target(&stale));
    }

    #[test]
    fn a_worker_that_was_forked_since_is_stale_by_its_socket() {
        let stale = stale(&owner(1, Some(5)));
        assert!(owner(2, Some(5)).is_target(&stale));
        assert!(!owner(2, Some(6)).is_target(&stale));
    }
}
