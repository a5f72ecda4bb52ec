//! The policy: end the stale owners of a port, and only those, and answer once the port can be bound.
//!
//! This is the page to read first. It composes the five ideas and knows of no operating system:
//! [observe](crate::observe) who holds the port, [identify](crate::identify) and [exclude](crate::exclude) to choose
//! whom to end, [end](crate::end) them, and [prove](crate::prove) that the port can be bound.

use std::time::{Duration, Instant};

use crate::end::{Action, Ended, Timeouts, end};
use crate::exclude::Exclusions;
use crate::identify::Rules;
use crate::observe::{self, Backend, EventKind, Observation, ObserveError, Observer, Socket, SocketId};
use crate::outcome::Outcome;
use crate::owner::{Owner, owners};
use crate::process::Identity;
use crate::prove::{self, Means, Verdict};
use crate::stale::Stale;
use crate::system::{BindAddress, System};

/// What to clean, and how.
#[derive(Debug)]
pub struct Request {
    /// The port.
    pub port: u16,
    /// Which owners may be ended.
    pub rules: Rules,
    /// Which never.
    pub exclusions: Exclusions,
    /// The longest waits.
    pub timeouts: Timeouts,
    /// Say what would be ended, and signal nobody.
    pub dry_run: bool,
    /// The longest pause between two looks at a port that nobody seems to hold.
    pub pace: Duration,
}

/// The answer.
#[derive(Debug)]
pub struct Cleaned {
    /// The port.
    pub port: u16,
    /// How the port was at the end.
    pub outcome: Outcome,
    /// How it was observed.
    pub backend: Backend,
    /// Every owner that was seen, and what became of it.
    pub owners: Vec<Ended>,
    /// The proof; `None` when the port can't be bound, or was not asked (dry run).
    pub released: Option<Released>,
    /// From the first look to the answer.
    pub elapsed: Duration,
}

/// How the port came back.
#[derive(Debug, Clone, Copy)]
pub struct Released {
    /// How that is known.
    pub means: Means,
    /// From the first signal until the port was back; from the first look where nobody was signalled.
    pub after: Duration,
    /// Whether a server that does not set `SO_REUSEADDR` could bind as well.
    pub plain_bind: Option<bool>,
}

/// Ends the stale owners of a port.
///
/// Stale are the sockets that hold the port at the first look, and nothing later: who takes the port after it is a
/// new owner, and left alone.
///
/// # Errors
/// When the port can't be observed. Then nothing more is signalled.
pub async fn clean(
    system: &dyn System,
    observer: &mut dyn Observer,
    request: &Request,
) -> Result<Cleaned, ObserveError> {
    let mut case = Case::open(system, observer, request)?;
    let outcome = loop {
        if request.dry_run && !case.left.is_empty() {
            break case.would_be();
        }
        let targets = case.take_targets();
        if !targets.is_empty() {
            let ended = end(system, &request.rules, &case.stale, targets, &request.timeouts).await;
            let all_gone = ended.iter().all(|ended| matches!(ended.action, Action::Killed | Action::Gone));
            case.ended.extend(ended);
            if !all_gone {
                case.look_again(observer)?;
            }
        }
        if case.is_held() && !case.is_leaving() {
            break case.outcome();
        }
        // Nobody is known to hold the port any more, or nobody but one who goes.
        match prove::look(system, observer, request.port, &case.addresses)? {
            Verdict::Free { means, plain } => break case.proved(observer, means, plain)?,
            Verdict::Hidden => break Outcome::Unknown,
            Verdict::Held(sockets) => case.take_in(&sockets),
        }
        if (case.left.is_empty() || case.is_leaving()) && !case.wait(observer).await? {
            break case.outcome();
        }
    };
    Ok(case.close(outcome, observer.backend()))
}

/// What is known while cleaning.
struct Case<'a> {
    system: &'a dyn System,
    request: &'a Request,
    begun: Instant,
    /// What held the port at the first look.
    stale: Stale,
    /// Where to bind for the proof.
    addresses: Vec<BindAddress>,
    /// Who was dealt with.
    ended: Vec<Ended>,
    /// Who holds the port, as far as is known, beside those that were dealt with and are gone.
    left: Vec<Owner>,
    released: Option<Released>,
    /// Since when the port is held by nobody that can be seen.
    unseen_since: Option<Instant>,
    pause: Duration,
}

impl<'a> Case<'a> {
    fn open(
        system: &'a dyn System,
        observer: &mut dyn Observer,
        request: &'a Request,
    ) -> Result<Self, ObserveError> {
        let begun = Instant::now();
        let sockets: Vec<Socket> = observer.snapshot(request.port)?;
        let mut case = Self {
            system,
            request,
            begun,
            stale: Stale::default(),
            addresses: prove::addresses(&sockets, request.port),
            ended: Vec::new(),
            left: Vec::new(),
            released: None,
            unseen_since: None,
            pause: Duration::from_micros(100),
        };
        // A connection from the port matters only if the bind fails: see `take_in`.
        let owning: Vec<Socket> = sockets.into_iter().filter(Socket::owns_port).collect();
        case.take_in(&owning);
        case.stale = Stale::new(&owning, &case.left);
        Ok(case)
    }

    fn look_again(&mut self, observer: &mut dyn Observer) -> Result<(), ObserveError> {
        let mut sockets = observer.snapshot(self.request.port)?;
        sockets.retain(Socket::owns_port);
        self.take_in(&sockets);
        Ok(())
    }

    fn take_in(&mut self, sockets: &[Socket]) {
        self.left = owners(sockets, self.system, &self.request.rules, &self.request.exclusions);
    }

    /// Takes out those that may be ended and were not tried before: also workers that were forked since the first
    /// look and hold the same socket.
    fn take_targets(&mut self) -> Vec<Owner> {
        let tried = |owner: &Owner| self.ended.iter().any(|ended| ended.owner.same_process(owner));
        let (targets, left) =
            self.left.drain(..).partition(|owner: &Owner| owner.is_target(&self.stale) && !tried(owner));
        self.left = left;
        targets
    }

    /// Whether somebody who is not going to be ended holds the port.
    fn is_held(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether what holds the port is only what is left of those that were ended: a process is seen to have ended before
    /// the system has taken back all that it had, and by then nobody holds its sockets.
    fn is_leaving(&self) -> bool {
        let was_ended = |address| {
            let killed = self.ended.iter().filter(|ended| ended.action == Action::Killed);
            killed.flat_map(|ended| &ended.owner.held).any(|held| held.socket.address == address)
        };
        !self.left.is_empty()
            && self.left.iter().all(|owner| {
                owner.pid.is_none() && owner.held.iter().all(|held| was_ended(held.socket.address))
            })
    }

    /// The outcome that those who are left make, by the order of the contract.
    fn outcome(&self) -> Outcome {
        let left_as = |action| {
            self.ended
                .iter()
                .any(|ended| ended.action == action && self.left.iter().any(|o| o.same_process(&ended.owner)))
        };
        let any = |what: fn(&Owner) -> bool| self.left.iter().any(what);
        if left_as(Action::NotPermitted) {
            Outcome::NotPermitted
        } else if left_as(Action::Survived) {
            Outcome::TimedOut
        } else if any(|owner| owner.relation.is_some()) {
            Outcome::HeldByProtected
        } else if self.left.iter().any(|owner| self.is_new(owner)) {
            Outcome::Respawned
        } else if any(|owner| owner.identity == Identity::Other) {
            Outcome::HeldByOther
        } else if self.left.is_empty() && self.ended.iter().any(|ended| ended.action == Action::Killed) {
            // Everybody is gone, and the port is still not back.
            Outcome::TimedOut
        } else {
            Outcome::Unknown
        }
    }

    /// Whether it took the port after the first look, as a new owner does when the old one is gone. Somebody unseen
    /// can't be told to be new.
    fn is_new(&self, owner: &Owner) -> bool {
        owner.process.is_some()
            && owner.owns_port()
            && !owner.holds_stale(&self.stale)
            && !self.ended.iter().any(|ended| ended.owner.same_process(owner))
    }

    /// The outcome of a dry run: what would stay, or that nothing would.
    fn would_be(&mut self) -> Outcome {
        let targets = self.take_targets();
        let outcome = if self.left.is_empty() { Outcome::WouldClean } else { self.outcome() };
        self.ended.extend(targets.into_iter().map(|target| Ended::untouched(target, Action::WouldKill)));
        outcome
    }

    fn proved(
        &mut self,
        observer: &mut dyn Observer,
        means: Means,
        plain_bind: Option<bool>,
    ) -> Result<Outcome, ObserveError> {
        let first_signal = self.ended.iter().filter_map(|ended| ended.signalled_at).min();
        let mut released =
            Released { means, after: first_signal.unwrap_or(self.begun).elapsed(), plain_bind };
        // The kernel stamps the moment at which it took each stale socket's port back.
        let mut waiting = self.stale.sockets().clone();
        for observation in observe::drain(observer)? {
            if let Observation::Event(event) = observation
                && event.kind == EventKind::Release
                && event.cookie.is_some_and(|cookie| waiting.remove(&SocketId::Cookie(cookie)))
                && waiting.is_empty()
                && means == Means::Bind
            {
                let after = event.at.saturating_duration_since(first_signal.unwrap_or(self.begun));
                released = Released { means: Means::Ebpf, after, plain_bind };
            }
        }
        self.released = Some(released);
        Ok(if first_signal.is_some() { Outcome::Cleaned } else { Outcome::Free })
    }

    /// Waits until something happens to the port, or a short while; false when the time for that is over.
    async fn wait(&mut self, observer: &mut dyn Observer) -> Result<bool, ObserveError> {
        let deadline = *self.unseen_since.get_or_insert_with(Instant::now) + self.request.timeouts.free;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Limited, since what holds the port can be something that sends no event, as a connection does.
        if let Ok(event) = tokio::time::timeout(self.pause.min(left), observe::next(observer)).await {
            event?;
        }
        self.pause = (self.pause * 2).min(self.request.pace);
        Ok(true)
    }

    fn close(self, outcome: Outcome, backend: Backend) -> Cleaned {
        let mut owners = self.ended;
        let spared: Vec<Owner> = self
            .left
            .into_iter()
            .filter(|owner| !owners.iter().any(|ended| ended.owner.same_process(owner)))
            .collect();
        owners.extend(spared.into_iter().map(|owner| Ended::untouched(owner, Action::Spared)));
        owners.sort_by_key(|ended| ended.owner.pid.unwrap_or(u32::MAX));
        Cleaned {
            port: self.request.port,
            outcome,
            backend,
            owners,
            released: self.released,
            elapsed: self.begun.elapsed(),
        }
    }
}
