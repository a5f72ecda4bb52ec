//! Which processes made the sockets of the watched ports, and matched: judged as soon as an event tells of it, because by the
//! time that somebody asks they may have ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::model::{Verdict, WatchEvent, WatchKind};
use crate::platform::Host;
use crate::platform::contract::System as _;
use crate::steps::identify::Rules;
use crate::steps::makers::{Maker, Makers};

/// So many processes are read at once: any process can bind as often as it likes. A maker that is not read in time is not
/// known, and what it leaves behind is no match then.
const AT_ONCE: usize = 8;
/// So many are remembered.
const MOST: usize = 1024;
/// A clock tick and more: a process that began later than the event by so much has another's pid.
const LATER: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Known(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    made: Makers,
    under_way: usize,
    /// The rules may be others after a reload, and what was judged by the old ones is forgotten.
    reloads: u64,
}

impl Known {
    /// Takes note of an event, and has the process judged by the rules of its port if it has made a socket.
    pub(super) fn note(&self, event: &WatchEvent, host: &Host, rules: impl FnOnce() -> Option<Rules>) {
        let Some(cookie) = event.cookie else { return };
        match event.kind {
            WatchKind::Bind | WatchKind::Listen => {}
            WatchKind::Release => {
                lock(&self.0).made.remove(cookie);
                return;
            }
            _ => return,
        }
        let (Some(pid), Ok(runtime)) = (event.pid, Handle::try_current()) else { return };
        let reloads = {
            let mut memory = lock(&self.0);
            if memory.made.knows(cookie) || memory.made.len() >= MOST || memory.under_way >= AT_ONCE {
                return;
            }
            memory.under_way += 1;
            memory.reloads
        };
        let (memory, host, rules, at) = (Arc::clone(&self.0), host.clone(), rules(), event.time);
        runtime.spawn_blocking(move || {
            let process = host.process(pid).ok().filter(|process| process.start_time.wall <= at + LATER);
            let maker = process
                .filter(|process| rules.is_some_and(|rules| is_match(&rules, process)))
                .map(Maker::new);
            let mut memory = lock(&memory);
            memory.under_way -= 1;
            if let Some(maker) = maker.filter(|_| memory.reloads == reloads) {
                memory.made.insert(cookie, maker);
            }
        });
    }

    /// Forgets all.
    pub(super) fn forget(&self) {
        let mut memory = lock(&self.0);
        memory.made = Makers::default();
        memory.reloads += 1;
    }

    /// What is known now.
    pub(super) fn known(&self) -> Makers {
        lock(&self.0).made.clone()
    }
}

/// That every process matches says nothing of whose a socket is.
pub(super) fn is_match(rules: &Rules, process: &crate::model::Process) -> bool {
    !rules.is_any() && rules.judge(process).verdict == Verdict::Match
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
