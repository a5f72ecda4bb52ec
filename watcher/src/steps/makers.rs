//! Makers: the processes that made the port's sockets and matched, as far as somebody has watched them do it.
//!
//! A worker can outlive the process that it has its listener from, and its own command line need not tell what it serves: a
//! worker of Python's multiprocessing shows `python -c … spawn_main …`. What made its socket does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::exclude::Exclusions;
use super::identify::stands_in;
use super::owner::Owner;
use crate::model::{Process, StartTime, Verdict};
use crate::platform::contract::System;

/// A process that made a socket, and matched then.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    pid: u32,
    begun: StartTime,
    name: String,
    uid: Option<u32>,
    exe: Option<PathBuf>,
}

impl Maker {
    pub(crate) fn new(process: Process) -> Self {
        let Process { pid, start_time: begun, comm: name, uid, exe, .. } = process;
        Self { pid, begun, name, uid, exe }
    }

    /// Whether a process could be a worker of its: the same program, run by the same user. Any other one that holds the socket
    /// may have been handed it, or have inherited it by mistake.
    fn may_have_started(&self, process: &Process) -> bool {
        self.exe.is_some() && self.exe == process.exe && self.uid.is_some() && self.uid == process.uid
    }

    fn has_ended(&self, system: &dyn System) -> bool {
        system.process(self.pid).map_or(true, |now| now.start_time != self.begun)
    }
}

/// The makers that are known, by the cookies of their sockets. A clone is what is known now, and shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Makers(Arc<HashMap<u64, Maker>>);

impl Makers {
    /// Remembers what made the socket with this cookie.
    pub(crate) fn insert(&mut self, cookie: u64, maker: Maker) {
        Arc::make_mut(&mut self.0).insert(cookie, maker);
    }

    /// Forgets what made it.
    pub(crate) fn remove(&mut self, cookie: u64) {
        if self.knows(cookie) {
            Arc::make_mut(&mut self.0).remove(&cookie);
        }
    }

    pub(crate) fn knows(&self, cookie: u64) -> bool {
        self.0.contains_key(&cookie)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Finds the workers that were left behind among the owners: those are matches too.
    pub(crate) fn mark(&self, owners: &mut [Owner], system: &dyn System, exclusions: &Exclusions) {
        for owner in owners.iter_mut().filter(|owner| owner.verdict == Verdict::Other && owner.owns_port()) {
            let Some(process) = &owner.process else { continue };
            let maker = owner.holdings.iter().find_map(|held| self.0.get(&held.socket.cookie?));
            let is_workers = |maker: &&Maker| {
                maker.may_have_started(process)
                    && maker.has_ended(system)
                    && !stands_in(process)
                    && exclusions.may_be_ancestor(process).is_none()
            };
            if let Some(maker) = maker.filter(is_workers) {
                owner.why =
                    format!("its socket was made by {} (pid {}), which matched", maker.name, maker.pid);
                owner.verdict = Verdict::Match;
                owner.inherits = true;
            }
        }
    }
}
