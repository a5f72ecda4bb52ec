//! Owners: the processes that hold a port, each with what it is and whether it may be ended.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::exclude::{Exclusions, Relation};
use crate::identify::Rules;
use crate::observe::{Holder, Socket, SocketId, SocketState};
use crate::process::{Identity, Process};
use crate::stale::Stale;
use crate::system::{ProcessError, System};

/// A process that holds a port, or the fact that somebody unseen does.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The process; `None` when it can't be seen or read.
    pub process: Option<Process>,
    /// Its pid, where at least that is known.
    pub pid: Option<u32>,
    /// The user of an unseen owner, where the socket table tells.
    pub uid: Option<u32>,
    /// What it holds.
    pub held: Vec<Held>,
    /// The verdict of the rules.
    pub identity: Identity,
    /// Why that verdict, as a short clause for people.
    pub why: String,
    /// Why it is never ended, if so.
    pub relation: Option<Relation>,
}

/// A socket and the descriptor by which an owner holds it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The socket.
    pub socket: Socket,
    /// The descriptor; `None` for an unseen owner.
    pub holder: Option<Holder>,
}

impl Owner {
    /// Whether the process may be ended: it matches, nothing excludes it, and one of the stale sockets is its.
    #[must_use]
    pub fn is_target(&self, stale: &Stale) -> bool {
        self.identity == Identity::Match && self.relation.is_none() && self.holds_stale(stale)
    }

    /// Whether one of the stale sockets is its.
    #[must_use]
    pub fn holds_stale(&self, stale: &Stale) -> bool {
        self.process.as_ref().is_some_and(|process| self.held.iter().any(|held| stale.is_held(held, process)))
    }

    /// Whether it holds the port for itself rather than being connected from it.
    #[must_use]
    pub fn owns_port(&self) -> bool {
        self.held.iter().any(|held| held.socket.owns_port())
    }

    /// The addresses that it listens on, each once.
    #[must_use]
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self
            .held
            .iter()
            .filter(|held| held.socket.state == SocketState::Listen)
            .map(|held| held.socket.address)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Whether both are the same process: pid and start time, since pids are used again.
    #[must_use]
    pub fn same_process(&self, other: &Self) -> bool {
        match (&self.process, &other.process) {
            (Some(a), Some(b)) => a.pid == b.pid && a.start_time == b.start_time,
            _ => false,
        }
    }
}

/// The owners of the sockets, in the order of their pids, unseen ones last. Each process counts once, however many
/// sockets and descriptors it has. A process that has ended since the sockets were read is left out.
#[must_use]
pub fn owners(sockets: &[Socket], system: &dyn System, rules: &Rules, exclusions: &Exclusions) -> Vec<Owner> {
    let mut owners: Vec<Owner> = Vec::new();
    for socket in sockets {
        if socket.holders.is_empty() {
            owners.push(unseen(socket, None, "its holder can't be seen by this user".to_owned(), None));
        }
        for holder in &socket.holders {
            let held = Held { socket: socket.clone(), holder: Some(holder.clone()) };
            if let Some(owner) = owners.iter_mut().find(|owner| owner.pid == Some(holder.pid)) {
                let known = |other: &Held| {
                    other.socket.id() == held.socket.id() && other.socket.address == held.socket.address
                };
                if !owner.held.iter().any(known) {
                    owner.held.push(held);
                }
                continue;
            }
            match system.process(holder.pid, holder.tid) {
                Ok(process) => {
                    let judgement = rules.judge(&process);
                    owners.push(Owner {
                        pid: Some(process.pid),
                        uid: process.uid,
                        relation: exclusions.relation(process.pid),
                        process: Some(process),
                        held: vec![held],
                        identity: judgement.identity,
                        why: judgement.why,
                    });
                }
                Err(ProcessError::Gone) => {}
                Err(ProcessError::Unreadable(why)) => {
                    owners.push(unseen(socket, Some(holder.pid), why, exclusions.relation(holder.pid)));
                }
            }
        }
    }
    for owner in &mut owners {
        spare_clients(owner);
    }
    spare_activated(&mut owners);
    owners.sort_by_key(|owner| owner.pid.unwrap_or(u32::MAX));
    owners
}

fn unseen(socket: &Socket, pid: Option<u32>, why: String, relation: Option<Relation>) -> Owner {
    Owner {
        process: None,
        pid,
        uid: socket.uid,
        held: vec![Held { socket: socket.clone(), holder: None }],
        identity: Identity::Unclassified,
        why,
        relation,
    }
}

/// A process that is only connected *from* the port serves nobody on it: whatever the rules say, it is another.
fn spare_clients(owner: &mut Owner) {
    if !owner.owns_port() {
        owner.identity = Identity::Other;
        "it is a client whose local port happens to be this one".clone_into(&mut owner.why);
    }
}

/// With socket activation PID 1 holds the listener too, and goes on holding it when the service ends. Ending the
/// service would free nothing.
fn spare_activated(owners: &mut [Owner]) {
    let init_holds: HashSet<SocketId> = owners
        .iter()
        .filter(|owner| owner.relation == Some(Relation::Init))
        .flat_map(|owner| owner.held.iter().map(|held| held.socket.id()))
        .collect();
    for owner in owners.iter_mut().filter(|owner| owner.relation.is_none()) {
        if !init_holds.is_empty() && owner.held.iter().all(|held| init_holds.contains(&held.socket.id())) {
            owner.relation = Some(Relation::Init);
            "its socket belongs to PID 1 (socket activation): stop the socket unit instead"
                .clone_into(&mut owner.why);
        }
    }
}
