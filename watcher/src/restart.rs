//! Restart: follows what happens to a port from the old owner's end to the new owner's first listen.
//!
//! [`Restart`] is given the events in order, with whose process each is about, and decides when the restart is over. Where
//! the events come from, how the port is cleaned and how the command is run are not its concern.
//!
//! A listener that is closed, and a bind that fails, decide nothing: servers try their port before they take it, and try
//! again while it is busy. Only the end of a process does.

mod answer;
mod handover;
mod listener;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub(crate) use self::answer::{By, CommandRun, NewOwner, Restarted, TimelineStep};
pub(crate) use self::listener::Whose;
use self::listener::{Listener, SocketKey};
use crate::clean::Cleaned;
use crate::model::{Action, Outcome, Protocol, Socket, SocketState, Step, WatchEvent, WatchKind};
use crate::platform::clock::monotonic_ns;
use crate::platform::contract::BindAddress;
use crate::steps::end::OwnerOutcome;
use crate::steps::prove;

/// How many new processes may end without the port before the restart counts as a crash loop.
const FAILURES: u32 = 3;

/// How far the command is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    /// There is none, or it was not started.
    #[default]
    NotStarted,
    Running,
    /// It has ended well, and so has left the rest to other processes.
    Done,
    Failed,
}

/// What a process has tried.
#[derive(Debug, Clone, Copy, Default)]
struct Attempt {
    listened: bool,
    refused: bool,
}

fn add(sockets: &mut Vec<SocketKey>, socket: SocketKey) {
    if !sockets.contains(&socket) {
        sockets.push(socket);
    }
}

/// A restart in progress.
#[derive(Debug, Default)]
pub(crate) struct Restart {
    /// Whether any process that takes the port is the new owner.
    adopt: bool,
    /// The sockets from before the restart: their events belong to the old owner.
    old: Vec<SocketKey>,
    /// Where the old owners that were ended were bound, if there were any. A stranger elsewhere on the port is in nobody's
    /// way.
    addresses: Vec<BindAddress>,
    /// The sockets that new processes hold.
    new: Vec<SocketKey>,
    /// Those of them that listen.
    listeners: Vec<Listener>,
    /// What processes have tried that may still fail.
    attempts: HashMap<u32, Attempt>,
    steps: Vec<(u64, Step, Option<u32>)>,
    released: Option<u64>,
    /// Whether the port was proved to be free.
    is_free: bool,
    command: Progress,
    /// Whether the time is over.
    over: bool,
    /// Whether the command wants the port for itself, so that a match that has it keeps the command from it.
    is_rival: bool,
    /// The sockets on all IPv6 addresses that leave IPv4's alone.
    ipv6_alone: Vec<SocketKey>,
    failures: u32,
    crashed: bool,
    why: Option<String>,
    /// Whether the old owner's sockets go on listening, to be handed to the command.
    keeps: bool,
    /// The new owner that uses them.
    taken_over: Option<Listener>,
    /// Why it can't be told that none does, if so.
    may_be_taken: Option<&'static str>,
}

impl Restart {
    /// A restart that takes any new owner if `adopt` is set.
    pub(crate) fn new(adopt: bool) -> Self {
        Self { adopt, ..Self::default() }
    }

    /// Records a socket that held the port before the restart did anything.
    pub(crate) fn held_before(&mut self, event: &WatchEvent) {
        add(&mut self.old, SocketKey::of(event));
    }

    /// Records what the cleaning did.
    pub(crate) fn cleaned(&mut self, cleaned: &Cleaned) {
        // Where a unit's processes are left to systemd, they are the ones that go.
        let leaves_all = cleaned.outcome == Outcome::HeldByProtected;
        let gone = |dealt: &&OwnerOutcome| match dealt.action {
            Action::Killed | Action::Gone => true,
            _ => leaves_all,
        };
        let holdings = cleaned.owners.iter().filter(gone).flat_map(|dealt| &dealt.owner.holdings);
        let sockets: Vec<Socket> = holdings.map(|holding| holding.socket.clone()).collect();
        if sockets.iter().any(Socket::owns_port) {
            self.addresses = prove::addresses(&sockets, cleaned.port, &[]);
        }
        self.is_free = cleaned.proof.is_some();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for dealt in &cleaned.owners {
            let pid = dealt.owner.pid;
            let Some(signalled) = dealt.signalled_at.map(monotonic_ns) else { continue };
            // A process that can't be asked to end is forced at once.
            if dealt.forced_at != dealt.signalled_at {
                self.steps.push((signalled, Step::Sigterm, pid));
            }
            self.steps.extend(dealt.forced_at.map(|at| (monotonic_ns(at), Step::Sigkill, pid)));
            let exited = dealt.ended_after.map(|after| (signalled + nanoseconds(after), Step::Exited, pid));
            self.steps.extend(exited);
        }
        if self.released.is_none()
            && let Some(first) = self.steps.iter().map(|(at, ..)| *at).min()
        {
            self.released = cleaned.proof.map(|proof| first + nanoseconds(proof.after));
        }
    }

    /// Why it has failed so far, if so.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Records the command's start and forgets earlier failures.
    pub(crate) fn command_started(&mut self, at: u64, pid: Option<u32>) {
        self.command = Progress::Running;
        self.failures = 0;
        self.crashed = false;
        self.attempts.clear();
        self.why = None;
        self.steps.push((at, Step::CommandStarted, pid));
    }

    /// Records the command's end. `leaves_others` says whether processes of it go on; they may still listen.
    pub(crate) fn command_ended(
        &mut self,
        at: u64,
        pid: Option<u32>,
        status: Option<i32>,
        leaves_others: bool,
    ) {
        self.steps.push((at, Step::CommandEnded, None));
        let attempt = pid.and_then(|pid| self.attempts.remove(&pid)).unwrap_or_default();
        self.command = if status == Some(0) { Progress::Done } else { Progress::Failed };
        if attempt.listened && !self.is_listening() && !(leaves_others && status == Some(0)) {
            self.crashed = true;
            self.why = Some("the new owner ended again".to_owned());
        } else if status != Some(0) {
            let ended = match status {
                Some(status) => format!("the command ended with status {status}"),
                None => "a signal ended the command".to_owned(),
            };
            let refused = if attempt.refused { ": it could not take the port" } else { "" };
            self.why = Some(format!("{ended}{refused}"));
        }
    }

    /// Records that a process has ended that had tried to take the port, other than the command itself.
    pub(crate) fn ended(&mut self, pid: u32) {
        let Some(attempt) = self.attempts.remove(&pid) else { return };
        if self.is_listening() {
            return;
        }
        self.failures += 1;
        let what = if attempt.listened {
            "the new owner ended again"
        } else if attempt.refused {
            "a new process could not take the port, and ended"
        } else {
            "a new process took the port and ended before it listened"
        };
        let times = if self.failures == 1 { "once".to_owned() } else { format!("{} times", self.failures) };
        self.why = Some(format!("{what}, {times}"));
        self.crashed |= self.failures >= FAILURES || (attempt.listened && self.command != Progress::Running);
    }

    /// Whether a new process took the port before the command was started: a supervisor's work.
    #[must_use]
    pub(crate) fn is_respawned(&self) -> bool {
        self.command == Progress::NotStarted && self.new.iter().any(|socket| self.is_in_the_way(socket))
    }

    /// Whether a socket keeps the command from where the old owners were bound.
    fn is_in_the_way(&self, socket: &SocketKey) -> bool {
        let Some(address) = socket.address else { return true };
        let v6_only = self.ipv6_alone.iter().any(|alone| alone.is(socket)).then_some(true);
        let socket = Socket { v6_only, ..Socket::new(Protocol::Tcp, address, SocketState::Listen) };
        self.addresses.is_empty() || self.addresses.iter().any(|wanted| prove::keeps_out(&socket, wanted))
    }

    /// Whether the new owner listens.
    #[must_use]
    pub(crate) fn is_listening(&self) -> bool {
        self.new_owner().is_some()
    }

    /// The outcome as things are now; `None` while it is open. A success is final only once it has lasted.
    #[must_use]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.is_listening() {
            Some(Outcome::Restarted)
        } else if self.stranger().is_some_and(|stranger| match stranger.whose {
            Whose::Stranger => true,
            Whose::Matching => self.crashed || self.command == Progress::Failed,
            Whose::AskedFor(_) | Whose::Unseen => false,
        }) {
            Some(Outcome::Respawned)
        } else if self.crashed {
            Some(Outcome::Crashed)
        } else if self.command == Progress::Failed {
            Some(Outcome::CommandFailed)
        } else {
            None
        }
    }

    /// Records that the time is over.
    pub(crate) fn time_is_over(&mut self) {
        self.over = true;
    }

    /// Records that the command wants the port for itself, where no event tells that it was refused it.
    pub(crate) fn is_wanted(&mut self) {
        self.is_rival = true;
    }

    /// Records that the event's socket, on all IPv6 addresses, leaves IPv4's alone, which the event does not tell.
    pub(crate) fn is_ipv6_alone(&mut self, event: &WatchEvent) {
        add(&mut self.ipv6_alone, SocketKey::of(event));
    }

    /// Whether a match listens that is not the command's.
    #[must_use]
    pub(crate) fn has_match(&self) -> bool {
        self.listeners.iter().any(|listener| listener.whose == Whose::Matching)
    }

    /// Takes listeners that nobody can be seen to hold for strangers', where they are in nobody's way.
    pub(crate) fn give_up_elsewhere(&mut self) {
        let mut listeners = std::mem::take(&mut self.listeners);
        let unseen = |listener: &&mut Listener| listener.whose == Whose::Unseen;
        for listener in listeners.iter_mut().filter(unseen) {
            if !self.is_in_the_way(&listener.socket) {
                listener.whose = Whose::Stranger;
            }
        }
        self.listeners = listeners;
    }

    /// The outcome when nothing more is waited for.
    #[must_use]
    pub(crate) fn out_of_time(&self) -> Outcome {
        if self.is_listening() {
            return Outcome::Restarted;
        }
        match self.stranger() {
            None if self.may_be_taken.is_some() => Outcome::Unknown,
            Some(stranger) if stranger.whose == Whose::Unseen => Outcome::Unknown,
            Some(_) => Outcome::Respawned,
            None => Outcome::TimedOut,
        }
    }

    /// Adds to the reason why the restart failed.
    pub(crate) fn note(&mut self, note: &str) {
        self.why = Some(self.why.take().map_or_else(|| note.to_owned(), |why| format!("{why}; {note}")));
    }

    /// Whether the process behind a listener is still to be found.
    #[must_use]
    pub(crate) fn has_unseen(&self) -> bool {
        self.listeners.iter().any(|listener| listener.whose == Whose::Unseen)
    }

    /// Corrects what is known of a listener's process, by a look at its holders now.
    pub(crate) fn is_held_by(&mut self, event: &WatchEvent, whose: Whose) {
        let polled = SocketKey { cookie: None, address: event.address, pid: None };
        let socket = SocketKey::of(event);
        let unseen = |known: &&mut Listener| {
            known.whose == Whose::Unseen && (known.socket.is(&socket) || known.socket == polled)
        };
        if whose != Whose::Unseen
            && let Some(listener) = self.listeners.iter_mut().find(unseen)
        {
            self.new.retain(|known| !known.is(&listener.socket));
            self.new.push(socket);
            let WatchEvent { pid, uid, comm, .. } = event.clone();
            *listener = Listener {
                socket,
                at: listener.at,
                owner: NewOwner { pid, uid, comm, ..listener.owner.clone() },
                whose,
            };
            if !self.keeps || matches!(whose, Whose::AskedFor(_)) {
                self.attempts.entry(event.pid.unwrap_or_default()).or_default().listened = true;
            }
        }
    }

    /// Forgets who listens on the sockets of a process that has ended: others may have inherited them.
    pub(crate) fn look_again(&mut self, pid: u32) {
        for listener in self.listeners.iter_mut().filter(|listener| listener.owner.pid == Some(pid)) {
            listener.whose = Whose::Unseen;
        }
    }

    /// Forgets what nobody holds any more, after events were lost: `held` is who holds the port now.
    pub(crate) fn held_now(&mut self, held: &[WatchEvent]) {
        let at = monotonic_ns(Instant::now());
        let there: Vec<SocketKey> = held.iter().map(SocketKey::of).collect();
        let is_there = |socket: &SocketKey| there.iter().any(|held| held.is(socket));
        let before = self.old.len();
        self.old.retain(is_there);
        if self.old.len() < before {
            self.let_go(at);
        }
        self.new.retain(is_there);
        let gone = self.listeners.extract_if(.., |listener| !is_there(&listener.socket));
        self.steps.extend(gone.map(|listener| (at, Step::Lost, listener.owner.pid)));
    }

    /// Follows an event of the port. `whose` is about the event's process. Returns whether the process must be followed to
    /// its end.
    pub(crate) fn follow(&mut self, event: &WatchEvent, whose: Whose) -> bool {
        let at = event.monotonic_ns.unwrap_or_else(|| monotonic_ns(Instant::now()));
        let socket = SocketKey::of(event);
        let is_new = !self.old.iter().any(|old| old.is(&socket));
        // A process that is gone already can't be told from the command's.
        let may_fail = match whose {
            Whose::Stranger => false,
            Whose::AskedFor(_) => true,
            // While the sockets are kept, what a supervisor starts can't have the port. That says nothing of the command.
            Whose::Matching | Whose::Unseen => !self.keeps,
        };
        match &event.kind {
            WatchKind::Bind if is_new && event.port.protocol == Protocol::Tcp => {
                add(&mut self.new, socket);
                self.steps.push((at, Step::Bind, event.pid));
                return may_fail && self.tries(event, |_| ());
            }
            // By UDP, what is bound serves.
            WatchKind::Bind | WatchKind::Listen | WatchKind::Held if is_new => {
                let known = self.listeners.iter().any(|listener| listener.socket.is(&socket));
                if !known {
                    add(&mut self.new, socket);
                    if event.kind == WatchKind::Bind {
                        self.steps.push((at, Step::Bind, event.pid));
                    } else if event.kind == WatchKind::Listen {
                        self.steps.push((at, Step::Listen, event.pid));
                    }
                    let WatchEvent { pid, uid, comm, address, .. } = event.clone();
                    let owner = NewOwner { pid, uid, comm, address, by: None };
                    self.listeners.push(Listener { socket, at, owner, whose });
                }
                return may_fail && self.tries(event, |attempt| attempt.listened = true);
            }
            WatchKind::Release if !is_new => {
                self.old.retain(|old| !old.is(&socket));
                self.let_go(at);
            }
            WatchKind::Release => {
                self.steps.push((at, Step::Lost, event.pid));
                self.new.retain(|new| !new.is(&socket));
                self.listeners.retain(|listener| !listener.socket.is(&socket));
            }
            WatchKind::Conflict { .. } | WatchKind::Refused if self.command != Progress::NotStarted => {
                self.steps.push((at, Step::Conflict, event.pid));
                // Once refused, it may end and be started again by a process of the command that is no server itself.
                self.is_rival |= matches!(whose, Whose::AskedFor(By::Command));
                // Where two sockets are bound to one address, the kernel reports a listener for a moment before it refuses
                // the second one's `listen`.
                return may_fail
                    && self.tries(event, |attempt| *attempt = Attempt { listened: false, refused: true });
            }
            WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Held
            | WatchKind::Conflict { .. }
            | WatchKind::Refused
            | WatchKind::Ready { .. }
            | WatchKind::Free
            | WatchKind::Lost { .. } => {}
        }
        false
    }

    /// Records that somebody from before the restart has let go of the port.
    fn let_go(&mut self, at: u64) {
        // Who still has it where the command was started because it is free is in nobody's way.
        if !self.is_free || self.command == Progress::NotStarted {
            self.released = self.released.max(Some(at));
        }
    }

    fn tries(&mut self, event: &WatchEvent, what: impl FnOnce(&mut Attempt)) -> bool {
        let Some(pid) = event.pid else { return false };
        what(self.attempts.entry(pid).or_default());
        true
    }

    /// The first listener that is the asked-for one, and why it is.
    fn new_owner(&self) -> Option<(&Listener, Option<By>)> {
        let by = |listener: &Listener| match listener.whose {
            Whose::AskedFor(by) => Some(Some(by)),
            Whose::Matching if self.matches_count() => Some(Some(By::Rules)),
            Whose::Stranger if self.adopt && self.is_in_the_way(&listener.socket) => Some(None),
            Whose::Matching | Whose::Stranger | Whose::Unseen => None,
        };
        if self.keeps {
            return self.taken_over.as_ref().and_then(|listener| Some((listener, by(listener)?)));
        }
        self.listeners.iter().find_map(|listener| Some((listener, by(listener)?)))
    }

    /// Whether a match that is not the command's is the new owner.
    fn matches_count(&self) -> bool {
        match self.command {
            Progress::NotStarted | Progress::Done => true,
            Progress::Running => self.adopt || (self.over && !self.is_rival),
            Progress::Failed => self.adopt,
        }
    }

    /// Another process that listens where the old owners did, if so.
    fn stranger(&self) -> Option<&Listener> {
        let rank = |listener: &&Listener| match listener.whose {
            Whose::Stranger => 0,
            Whose::Matching => 1,
            Whose::AskedFor(_) | Whose::Unseen => 2,
        };
        self.listeners.iter().filter(|listener| self.is_in_the_way(&listener.socket)).min_by_key(rank)
    }
}
