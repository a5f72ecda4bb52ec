//! A restart in which the old owner's sockets go on listening, and are handed to the command.
//!
//! The new owner is then a process of the command that uses all of them, and nobody else: a listener that the command opens
//! beside them shows that it does not.

use std::time::Instant;

use super::listener::{Listener, SocketKey};
use super::{By, NewOwner, Progress, Restart, Whose};
use crate::model::Step;
use crate::platform::clock::monotonic_ns;

impl Restart {
    /// Records that the old owner's sockets were taken over, to be handed to the command.
    pub(crate) fn keeps(&mut self, since: Instant) {
        if std::mem::replace(&mut self.keeps, true) {
            return;
        }
        self.steps.push((monotonic_ns(since), Step::Kept, None));
    }

    /// Records who uses the kept sockets now, and what makes it the asked-for one.
    pub(crate) fn used_by(&mut self, owner: NewOwner, by: By) {
        if self.taken_over.as_ref().is_some_and(|known| known.owner.pid == owner.pid) {
            return;
        }
        let at = monotonic_ns(Instant::now());
        self.steps.push((at, Step::TakenOver, owner.pid));
        let socket = SocketKey { cookie: None, address: owner.address, pid: owner.pid };
        self.taken_over = Some(Listener { socket, at, owner, whose: Whose::AskedFor(by) });
    }

    /// Records that nobody is seen to use the kept sockets, and why somebody may all the same.
    pub(crate) fn is_used_by_none(&mut self, may_be_taken: Option<&'static str>) {
        (self.taken_over, self.may_be_taken) = (None, may_be_taken);
    }

    /// Whether the old owner's sockets are handed to the command.
    #[must_use]
    pub(crate) fn hands_on(&self) -> bool {
        self.keeps
    }

    /// Why it can't be told that nobody uses the kept sockets, if so.
    #[must_use]
    pub(crate) fn may_be_taken(&self) -> Option<&'static str> {
        self.may_be_taken
    }

    /// Whether the sockets are kept, and the command has tried to have one of its own.
    #[must_use]
    pub(crate) fn wants_its_own(&self) -> bool {
        let is_refused = self.attempts.values().any(|attempt| attempt.refused);
        self.keeps
            && self.taken_over.is_none()
            && (is_refused || self.new.iter().any(|socket| self.may_be_its_own(socket)))
    }

    /// Whether a new process has ended without the port.
    #[must_use]
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether a socket is where the old owner's were, and was opened by a process that is not known to be another's.
    fn may_be_its_own(&self, socket: &SocketKey) -> bool {
        self.is_in_the_way(socket) && socket.pid.is_none_or(|pid| self.attempts.contains_key(&pid))
    }

    /// Records that the kept sockets were closed, because the command did not use them. What its first processes had belongs
    /// to the past; who else has taken the port by now keeps the command from it.
    pub(crate) fn fell_back(&mut self) {
        self.is_used_by_none(None);
        self.keeps = false;
        let is_others = |whose| matches!(whose, Whose::Stranger | Whose::Matching);
        let gone = self.listeners.extract_if(.., |listener| !is_others(listener.whose));
        let gone: Vec<SocketKey> = gone.map(|listener| listener.socket).collect();
        self.new.retain(|socket| !gone.iter().any(|gone| gone.is(socket)));
        self.old.extend(gone);
        self.released = Some(monotonic_ns(Instant::now()));
    }

    /// Whether another process has taken the port, so that the command need not be started again.
    #[must_use]
    pub(crate) fn is_taken(&self) -> bool {
        self.stranger().is_some()
    }

    /// Records that the command was ended, and not started again.
    pub(crate) fn is_not_started_again(&mut self) {
        // One that has ended well has left the port to who has it now.
        if self.command != Progress::Done {
            self.command = Progress::Failed;
            self.note("the command was not started again");
        }
    }
}
