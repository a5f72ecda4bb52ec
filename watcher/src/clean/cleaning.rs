//! What is known while a port is cleaned, and what follows from it.

use std::time::{Duration, Instant};

use tracing::debug;

use super::{Cleaned, LeftOut, Request, lingering};
use crate::model::{
    Action, Backend, EventKind, Observation, Outcome, ProofKind, Reason, Socket, SocketId, Verdict,
};
use crate::platform::contract::{BindAddress, ObserveError, Observer, System};
use crate::steps::end::{Ending, OwnerOutcome, Until, end};
use crate::steps::first_look::FirstLook;
use crate::steps::observe;
use crate::steps::owner::{Owner, add_other_ports, owners};
use crate::steps::prove::{self, PortState, Proof, keeps_out};

/// For so long a socket without a process may be what is left of one that has just ended: the kernel takes some 100 ms to
/// take half a GiB of memory back, and the sockets come after it.
const UNSEEN_GRACE: Duration = Duration::from_millis(300);

/// A port that is held for longer after its owners have ended is followed by events. Until then a few looks are cheaper.
const STAYS_HELD: Duration = Duration::from_millis(1);

pub(super) struct Cleaning<'a> {
    system: &'a dyn System,
    request: &'a Request,
    begun: Instant,
    /// When the first look was over. The timeouts count from then: on a host with millions of descriptors a look takes long,
    /// and who has not been asked yet has had no time to end.
    first_looked: Instant,
    /// When the look began that tells who is left.
    looked: Instant,
    /// What held the port at the first look.
    first_look: FirstLook,
    /// Where to bind for the proof: the addresses of those that are ended, or of all where nobody is.
    addresses: Vec<BindAddress>,
    /// The owners that were dealt with.
    dealt_with: Vec<OwnerOutcome>,
    /// The remaining owners, as far as known, apart from those that were dealt with and are gone.
    left: Vec<Owner>,
    /// Owners of the first look that were on their way out already.
    leaving: Vec<Owner>,
    /// How often owners were ended: each time after the first those that were forked meanwhile.
    generation: u32,
    /// What the observer reported while owners were ended.
    seen: Vec<Observation>,
    proof: Option<Proof>,
    free_in: Option<Duration>,
    /// When the port first looked unowned but could not be bound.
    unseen_since: Option<Instant>,
    /// When a socket that no list shows first kept it from being free.
    hidden_since: Option<Instant>,
    pause: Duration,
    /// Whether events are switched on.
    follows: bool,
}

impl<'a> Cleaning<'a> {
    pub(super) fn begin(
        system: &'a dyn System,
        observer: &mut dyn Observer,
        request: &'a Request,
    ) -> Result<Self, ObserveError> {
        let begun = Instant::now();
        let sockets = snapshot(observer, request)?;
        let mut cleaning = Self {
            system,
            request,
            begun,
            first_looked: begun,
            looked: begun,
            first_look: FirstLook::default(),
            addresses: Vec::new(),
            dealt_with: Vec::new(),
            left: Vec::new(),
            leaving: Vec::new(),
            generation: 0,
            seen: Vec::new(),
            proof: None,
            free_in: None,
            unseen_since: None,
            hidden_since: None,
            pause: Duration::from_micros(100),
            follows: false,
        };
        // A TCP connection from the port matters only if the bind fails: see `update`.
        let owning: Vec<Socket> = sockets.into_iter().filter(Socket::takes_port).collect();
        cleaning.left = cleaning.owners_of(&owning);
        cleaning.add_other_ports(observer);
        cleaning.first_look = FirstLook::new(&owning, &cleaning.left);
        request.sparing.decide(&mut cleaning.left, &cleaning.first_look, &request.exclusions);
        cleaning.leaving = cleaning.left.iter().filter(|owner| owner.is_leaving()).cloned().collect();
        let ended: Vec<Socket> = cleaning
            .left
            .iter()
            .filter(|owner| owner.is_target(&cleaning.first_look))
            .flat_map(|owner| owner.holdings.iter().map(|holding| holding.socket.clone()))
            .collect();
        let proven = if ended.is_empty() { &owning } else { &ended };
        cleaning.addresses = prove::addresses(proven, request.port, &request.asked);
        cleaning.first_looked = Instant::now();
        Ok(cleaning)
    }

    fn owners_of(&self, sockets: &[Socket]) -> Vec<Owner> {
        let Request { rules, exclusions, makers, .. } = self.request;
        let mut owners = owners(sockets, self.system, rules, exclusions);
        makers.mark(&mut owners, self.system, exclusions);
        owners
    }

    /// Adds what each owner listens on besides. One that is ended must be asked before.
    pub(super) fn add_other_ports(&mut self, observer: &mut dyn Observer) {
        add_other_ports(&mut self.left, observer, self.request.port);
    }

    fn refresh(&mut self, observer: &mut dyn Observer) -> Result<(), ObserveError> {
        let since = Instant::now();
        let mut sockets = snapshot(observer, self.request)?;
        sockets.retain(Socket::takes_port);
        self.update(&sockets, since);
        Ok(())
    }

    /// Looks again before it is decided whether anybody is ended at all, where that depends on a socket that no process is
    /// seen to hold: it may be what is left of a process that is exiting.
    pub(super) async fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), ObserveError> {
        let is_unseen = |owner: &Owner| owner.pid.is_none();
        while self.would_be() == Outcome::Unknown
            && self.in_the_way().any(is_unseen)
            && self.may_be_going()
            && self.wait(observer).await?
        {
            self.refresh(observer)?;
        }
        self.add_other_ports(observer);
        // This wait was not for the port.
        self.unseen_since = None;
        Ok(())
    }

    /// Takes a look that began then as the newest one.
    pub(super) fn update(&mut self, sockets: &[Socket], since: Instant) {
        self.looked = since;
        self.hidden_since = None;
        let mut left = self.owners_of(sockets);
        self.request.sparing.decide(&mut left, &self.first_look, &self.request.exclusions);
        self.left = left;
    }

    /// Ends those that may be ended and were not tried before: also workers that were forked since the first look and
    /// hold the same socket. Those of the second generation are forced at once: an owner that forks another whenever it
    /// is asked to end would go on for ever.
    pub(super) async fn end_targets(&mut self, observer: &mut dyn Observer) -> Result<(), ObserveError> {
        // Whom a dry run would end is told, and nobody is signalled.
        if self.request.dry_run || self.is_over() || !self.left.iter().any(|owner| self.is_to_end(owner)) {
            return Ok(());
        }
        self.request.ending.interrupt.begin().await;
        if self.request.ending.interrupt.is_set() {
            return Ok(());
        }
        let targets = self.take_targets();
        let ending = self.request.ending.clone();
        let ask = self.generation == 0 || !ending.kill;
        let ending = Ending { ask, keeps: self.keeps(), ..ending };
        self.generation += 1;
        if ending.until == Until::Released {
            self.follow(observer);
        }
        let (rules, first_look) = (&self.request.rules, &self.first_look);
        let outcomes =
            end(self.system, observer, rules, first_look, targets, &ending, &mut self.seen).await?;
        let gone = |owner: &OwnerOutcome| matches!(owner.action, Action::Killed | Action::Gone);
        let all_gone = outcomes.iter().all(gone);
        self.dealt_with.extend(outcomes);
        if !all_gone {
            self.refresh(observer)?;
        }
        Ok(())
    }

    /// Keeps the listening sockets of those that will be ended, if that was asked for; false if they can't be.
    pub(super) fn keep(&self) -> bool {
        let targets = self.left.iter().filter(|owner| owner.is_target(&self.first_look));
        self.request.keeper.as_ref().is_none_or(|keeper| keeper.take(self.system, targets))
    }

    /// Whether sockets of the port go on listening here.
    fn keeps(&self) -> bool {
        self.request.keeper.as_ref().is_some_and(|keeper| keeper.since(self.request.port).is_some())
    }

    /// Whether the port can be bound or, where it goes on listening here, nobody else has it.
    pub(super) fn look(&self, observer: &mut dyn Observer) -> Result<PortState, ObserveError> {
        if !self.keeps() {
            let Request { port, plain, .. } = *self.request;
            return prove::look(self.system, observer, port, &self.addresses, plain);
        }
        let mut sockets = snapshot(observer, self.request)?;
        sockets.retain(Socket::takes_port);
        let meets = |socket: &Socket| self.addresses.iter().any(|address| keeps_out(socket, address));
        Ok(if sockets.iter().any(meets) { PortState::Held(sockets) } else { PortState::Kept })
    }

    /// Whether any process was signalled.
    pub(super) fn has_signalled(&self) -> bool {
        self.dealt_with.iter().any(|dealt| dealt.signalled_at.is_some())
    }

    fn take_targets(&mut self) -> Vec<Owner> {
        let (targets, left) =
            std::mem::take(&mut self.left).into_iter().partition(|owner| self.is_to_end(owner));
        self.left = left;
        targets
    }

    fn is_to_end(&self, owner: &Owner) -> bool {
        let was_tried = || self.dealt_with.iter().any(|dealt| dealt.owner.same_process(owner));
        owner.is_target(&self.first_look) && !was_tried()
    }

    /// Whether the three timeouts together are over.
    fn is_over(&self) -> bool {
        self.first_looked.elapsed() + self.request.waited > self.request.ending.timeouts.all()
    }

    /// Those that keep others from the addresses in question. A process that is never ended counts wherever it is bound: it
    /// may be the very gateway that the caller belongs to.
    fn in_the_way(&self) -> impl Iterator<Item = &Owner> {
        self.left.iter().filter(|owner| owner.exclusion.is_some() || self.keeps_out(owner))
    }

    fn keeps_out(&self, owner: &Owner) -> bool {
        let meets = |socket: &Socket| self.addresses.iter().any(|address| keeps_out(socket, address));
        owner.holdings.iter().any(|holding| meets(&holding.socket))
    }

    /// Whether anybody holds the port, on whatever address.
    pub(super) fn is_owned(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether a process that is not going to be ended holds an address in question.
    pub(super) fn is_held(&self) -> bool {
        self.in_the_way().next().is_some()
    }

    /// Whether all that hold the port are about to let go of it: processes on their way out, and what is left of those
    /// that were ended. A process is seen to have ended before the system has taken back all that it had, and by then
    /// nobody holds its sockets.
    pub(super) fn is_leaving(&self) -> bool {
        let was_ended = |address| {
            let went = |dealt: &&OwnerOutcome| matches!(dealt.action, Action::Killed | Action::Gone);
            let killed = self.dealt_with.iter().filter(went);
            let gone = killed.map(|dealt| &dealt.owner).chain(&self.leaving);
            gone.flat_map(|owner| &owner.holdings).any(|holding| holding.socket.address == address)
        };
        let may_be_going = self.may_be_going();
        let of_ended = |owner: &Owner| {
            let ended = || owner.holdings.iter().all(|holding| was_ended(holding.socket.address));
            // A connection is no listener of one that has just ended, unless that is what was done here.
            let may_be_going = may_be_going && (owner.owns_port() || !self.dealt_with.is_empty());
            owner.pid.is_none() && (may_be_going || ended())
        };
        self.is_held() && self.in_the_way().all(|owner| owner.is_leaving() || of_ended(owner))
    }

    /// Whether a socket that no process is seen to hold may still be on its way out: somebody else may have ended its process
    /// just before the first look, or during it. On a busy machine that look alone can take longer than the grace, so only a
    /// later look that still finds the socket tells.
    fn may_be_going(&self) -> bool {
        self.looked.saturating_duration_since(self.first_looked) < UNSEEN_GRACE
    }

    /// Whether a socket that no list shows has been there for so short a time that it may be one of a server that starts.
    pub(super) fn may_show_itself(&mut self) -> bool {
        self.hidden_since.get_or_insert_with(Instant::now).elapsed() < UNSEEN_GRACE
    }

    /// The outcome that those in the way make, by the order of the contract.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome_of(&self.in_the_way().collect::<Vec<_>>())
    }

    fn outcome_of(&self, left: &[&Owner]) -> Outcome {
        let left_as = |action| {
            self.dealt_with
                .iter()
                .any(|dealt| dealt.action == action && left.iter().any(|o| o.same_process(&dealt.owner)))
        };
        let any = |what: fn(&Owner) -> bool| left.iter().any(|owner| what(owner));
        if left_as(Action::NotPermitted) {
            Outcome::NotPermitted
        } else if left_as(Action::Survived) || (self.is_over() && self.is_still_stale(left)) {
            Outcome::TimedOut
        } else if any(|owner| owner.exclusion.is_some()) {
            Outcome::HeldByProtected
        } else if any(|owner| owner.unheld() == Some(Reason::TooMany)) {
            Outcome::Unknown
        } else if left.iter().any(|owner| self.is_new(owner)) {
            Outcome::Respawned
        } else if any(|owner| owner.verdict == Verdict::Other || owner.spared_for.is_some()) {
            Outcome::HeldByOther
        } else if left.is_empty() && self.dealt_with.iter().any(|dealt| dealt.action == Action::Killed) {
            // All owners are gone, and the port is still not back.
            Outcome::TimedOut
        } else {
            Outcome::Unknown
        }
    }

    /// Whether one of them could still be ended, or is about to end, but for the time.
    fn is_still_stale(&self, left: &[&Owner]) -> bool {
        left.iter().any(|owner| owner.is_target(&self.first_look) || owner.is_leaving())
    }

    /// Whether it took the port after the first look, as a new owner does when the old one is gone. Of an unseen process
    /// that can't be told. Pid and start time may be those of one that was ended: a tick of the kernel's is long enough for
    /// both (10 ms).
    fn is_new(&self, owner: &Owner) -> bool {
        owner.process.is_some() && owner.owns_port() && !owner.holds_stale(&self.first_look)
    }

    /// The outcome that ending the targets would make: what would stay, or that nothing would.
    pub(super) fn would_be(&self) -> Outcome {
        let goes = |owner: &Owner| owner.is_target(&self.first_look) || owner.is_leaving();
        let left: Vec<&Owner> = self.in_the_way().filter(|owner| !goes(owner)).collect();
        if left.is_empty() { Outcome::WouldClean } else { self.outcome_of(&left) }
    }

    /// The same where it is decided by that whether anybody is ended, or told: connections that would keep the port from the
    /// next server for longer than there is time count as well.
    pub(super) fn foreseen(&mut self, observer: &mut dyn Observer) -> Result<Outcome, ObserveError> {
        let would_be = self.would_be();
        let Request { port, dry_run, all_or_nothing, drop_time_wait, keeper, .. } = self.request;
        let asks = *dry_run || *all_or_nothing;
        if !asks || *drop_time_wait || keeper.is_some() || would_be != Outcome::WouldClean {
            return Ok(would_be);
        }
        let targets = self.left.iter().filter(|owner| owner.is_target(&self.first_look));
        let free_in = lingering::after_the_end_of(self.system, observer, *port, targets, &self.addresses)?;
        // An owner that obeys has ended at once.
        let time = self.time_for_the_port();
        self.free_in = free_in.filter(|&free_in| free_in > time);
        Ok(if self.free_in.is_some() { Outcome::TimedOut } else { would_be })
    }

    /// The answer where nobody is signalled.
    pub(super) fn undone(mut self, outcome: Outcome, backend: Backend) -> Cleaned {
        let targets = self.take_targets();
        let would_kill = |target| OwnerOutcome::untouched(target, Action::WouldKill);
        self.dealt_with.extend(targets.into_iter().map(would_kill));
        self.leaving.clear();
        self.finish(outcome, backend)
    }

    pub(super) fn proved(
        &mut self,
        observer: &mut dyn Observer,
        kind: ProofKind,
        plain_bind: Option<bool>,
    ) -> Result<Outcome, ObserveError> {
        let first_signal = self.dealt_with.iter().filter_map(|dealt| dealt.signalled_at).min();
        let mut proof = Proof { kind, after: first_signal.unwrap_or(self.begun).elapsed(), plain_bind };
        // The kernel stamps the moment at which it took each ended owner's port back.
        let mut waiting = self.first_look.sockets().clone();
        waiting.retain(|id| !self.left.iter().any(|owner| owner.holds(*id)));
        self.seen.extend(observe::drain(observer)?);
        for observation in &self.seen {
            if let Observation::Event(event) = observation
                && event.kind == EventKind::Release
                // By polling, its time is that of a look.
                && event.delay.is_some()
                && event.cookie.is_some_and(|cookie| waiting.remove(&SocketId::Cookie(cookie)))
                && waiting.is_empty()
                && kind == ProofKind::Bind
            {
                let after = event.at.saturating_duration_since(first_signal.unwrap_or(self.begun));
                proof = Proof { kind: ProofKind::Ebpf, after, plain_bind };
            }
        }
        self.proof = Some(proof);
        Ok(if first_signal.is_some() { Outcome::Cleaned } else { Outcome::Free })
    }

    /// The outcome where the port goes on listening here, and nobody else has it.
    pub(super) fn kept(&self) -> Outcome {
        if self.has_signalled() { Outcome::Cleaned } else { Outcome::Free }
    }

    /// Where nobody is left and the port can't be bound: the outcome, if connections in TIME_WAIT decide it. Those of a server
    /// that did not set `SO_REUSEADDR` keep every bind out until the kernel's timer is over; one that is longer than the time
    /// for the port is not waited for. A dry run waits for none and takes none away, and says that they would go.
    pub(super) fn of_time_wait(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<Option<Outcome>, ObserveError> {
        let Request { port, dry_run, drop_time_wait, .. } = *self.request;
        let Some(free_in) = observer.time_wait(port)?.into_values().max() else { return Ok(None) };
        if drop_time_wait && !dry_run {
            let dropped = observer.drop_time_wait(port)?;
            debug!(dropped, "connections in TIME_WAIT were taken away");
            return Ok(None);
        }
        self.free_in = Some(free_in);
        let would_go = drop_time_wait || free_in <= self.time_left();
        Ok(match (would_go, dry_run) {
            (true, true) => Some(Outcome::WouldClean),
            (true, false) => None,
            (false, _) => Some(Outcome::TimedOut),
        })
    }

    fn time_left(&mut self) -> Duration {
        let timeouts = self.request.ending.timeouts;
        // A process on its way out is granted what one that was ended would have been.
        let extra = if self.is_leaving() { timeouts.term + timeouts.kill } else { Duration::ZERO };
        let since = *self.unseen_since.get_or_insert_with(Instant::now);
        (since + self.time_for_the_port() + extra).saturating_duration_since(Instant::now())
    }

    /// How long a port that nobody holds may take to be free.
    fn time_for_the_port(&self) -> Duration {
        let free = self.request.ending.timeouts.free;
        // What is left of one that has just ended gets its time, however long the wait before.
        free.saturating_sub(self.request.waited).max(UNSEEN_GRACE.min(free))
    }

    /// Switches events on, if they are not; true if they were not, so that a look comes first.
    fn follow(&mut self, observer: &mut dyn Observer) -> bool {
        if !self.follows {
            observer.follow();
        }
        !std::mem::replace(&mut self.follows, true)
    }

    /// Waits until something happens to the port, or a short while; false once the deadline has passed.
    pub(super) async fn wait(&mut self, observer: &mut dyn Observer) -> Result<bool, ObserveError> {
        let left = self.time_left();
        if left.is_zero() {
            return Ok(false);
        }
        if self.pause > STAYS_HELD && self.follow(observer) {
            return Ok(true);
        }
        // Limited, because what holds the port may send no event: a connection, for example.
        let next = tokio::time::timeout(self.pause.min(left), observe::next(observer));
        tokio::select! {
            biased;
            next = next => if let Ok(event) = next {
                self.seen.push(event?);
            },
            () = self.request.ending.interrupt.wait() => {}
        }
        self.pause = (self.pause * 2).min(self.request.longest_pause);
        Ok(true)
    }

    pub(super) fn finish(self, outcome: Outcome, backend: Backend) -> Cleaned {
        let reason = self.reason(outcome);
        let mut owners = self.dealt_with;
        let first_look = &self.first_look;
        let known = |owners: &[OwnerOutcome], owner: &Owner| {
            let gone = |action| matches!(action, Action::Killed | Action::Gone);
            owners.iter().any(|dealt| {
                dealt.owner.same_process(owner) && (!gone(dealt.action) || owner.holds_stale(first_look))
            })
        };
        let left: Vec<Owner> = self.left.into_iter().filter(|owner| !known(&owners, owner)).collect();
        owners.extend(left.into_iter().map(|owner| OwnerOutcome::untouched(owner, Action::Spared)));
        let gone: Vec<Owner> = self.leaving.into_iter().filter(|owner| !known(&owners, owner)).collect();
        owners.extend(gone.into_iter().map(|owner| OwnerOutcome::untouched(owner, Action::Gone)));
        owners.sort_by_key(|dealt| dealt.owner.pid.unwrap_or(u32::MAX));
        Cleaned {
            port: self.request.port,
            outcome,
            reason,
            free_in: self.free_in.filter(|_| reason == Some(Reason::TimeWait)),
            backend,
            owners,
            left_out: LeftOut::default(),
            ended_before: None,
            gateways_elsewhere: Vec::new(),
            proof: self.proof,
            elapsed: self.begun.elapsed() + self.request.waited,
        }
    }

    fn reason(&self, outcome: Outcome) -> Option<Reason> {
        match outcome {
            Outcome::HeldByOther => {
                let spared = self.in_the_way().find_map(|owner| owner.spared_for);
                let client =
                    || self.in_the_way().all(|owner| !owner.owns_port()).then_some(Reason::BoundClient);
                spared.or_else(client)
            }
            Outcome::Unknown => {
                let too_many = |owner: &Owner| owner.unheld().filter(|&why| why == Reason::TooMany);
                let why = self.in_the_way().find_map(too_many);
                why.or_else(|| self.in_the_way().find_map(Owner::unheld))
            }
            Outcome::TimedOut if self.request.ending.interrupt.is_set() => Some(Reason::Interrupted),
            Outcome::TimedOut | Outcome::WouldClean if self.in_the_way().all(Owner::is_leaving) => {
                self.free_in.map(|_| Reason::TimeWait)
            }
            Outcome::Free
            | Outcome::Cleaned
            | Outcome::WouldClean
            | Outcome::Listening
            | Outcome::Restarted
            | Outcome::CommandFailed
            | Outcome::Crashed
            | Outcome::HeldByProtected
            | Outcome::NotPermitted
            | Outcome::TimedOut
            | Outcome::Respawned => None,
        }
    }
}

/// What holds the port, apart from what goes on listening here.
fn snapshot(observer: &mut dyn Observer, request: &Request) -> Result<Vec<Socket>, ObserveError> {
    let mut sockets = observer.snapshot(request.port)?;
    if let Some(keeper) = &request.keeper {
        keeper.leave_out_own(&mut sockets);
    }
    Ok(sockets)
}
