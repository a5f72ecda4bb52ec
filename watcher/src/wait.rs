//! Wait: until a port can be bound, or until a process listens on it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use strum::{EnumString, IntoStaticStr};
use tokio::time::timeout;

use crate::model::{Backend, Outcome, Port, Reason, Socket, Verdict};
use crate::platform::contract::{BindAddress, ObserveError, Observer, System};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::steps::observe;
use crate::steps::owner::{Owner, add_other_ports, owners};
use crate::steps::prove::{self, Plain, PortState};

/// How a wait ended.
#[derive(Debug, Clone)]
pub(crate) struct Waited {
    /// The port.
    pub(crate) port: Port,
    /// What came.
    pub(crate) outcome: Outcome,
    /// Why, where the outcome alone does not say.
    pub(crate) reason: Option<Reason>,
    /// How the port was observed.
    pub(crate) backend: Backend,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// The process that listens; where the time ran out, one that still holds the port.
    pub(crate) owner: Option<Owner>,
}

impl Waited {
    /// An answer that says no more than this.
    pub(crate) fn told(outcome: Outcome, observer: &dyn Observer, port: Port, begun: Instant) -> Self {
        let (backend, elapsed) = (observer.backend(), begun.elapsed());
        Self { port, outcome, reason: None, backend, elapsed, owner: None }
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Until {
    /// The port can be bound.
    Free,
    /// A process listens on the port; by UDP, it is bound to it.
    Listening,
}

impl Until {
    /// The name on the command line and in the agent's interface.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// By its name; `None` for any other.
    pub(crate) fn named(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// The longest wait; `None` for ever.
    pub(crate) timeout: Option<Duration>,
    /// The longest pause between two looks if no event reports a change.
    pub(crate) longest_pause: Duration,
}

/// Which listener is waited for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// What owners are judged by.
    pub(crate) rules: Rules,
    /// Whether only one that matches counts.
    pub(crate) must_match: bool,
    /// One of this process; `None` for any.
    pub(crate) pid: Option<u32>,
    /// One that has listened for this long.
    pub(crate) settle: Duration,
}

impl Wanted {
    /// Any listener.
    pub(crate) fn any(rules: Rules) -> Self {
        Self { rules, must_match: false, pid: None, settle: Duration::ZERO }
    }

    fn is_met_by(&self, owner: &Owner) -> bool {
        let listens = owner.holdings.iter().any(|holding| holding.socket.serves());
        let matches = !self.must_match || owner.verdict == Verdict::Match;
        listens && matches && self.pid.is_none_or(|pid| owner.pid == Some(pid))
    }
}

impl Deadline {
    fn is_over(&self, begun: Instant) -> bool {
        self.timeout.is_some_and(|limit| begun.elapsed() >= limit)
    }

    /// What is left of the time, at most `pause`; `None` when it is over.
    pub(crate) fn next_pause(&self, begun: Instant, pause: Duration) -> Option<Duration> {
        match self.timeout {
            None => Some(pause),
            Some(limit) => {
                limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()).map(|left| left.min(pause))
            }
        }
    }
}

/// Waits until the port can be bound: [`Outcome::Free`], or [`Outcome::TimedOut`]. With [`Plain::Try`] it has to be free for
/// a server that does not set `SO_REUSEADDR` as well. `asked` are the addresses to bind where nobody holds the port; empty
/// for all. `rules` are what an owner is judged by that still holds it in the end.
///
/// # Errors
/// When the port can't be observed.
pub(crate) async fn free(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: Port,
    asked: &[IpAddr],
    plain: Plain,
    deadline: Deadline,
    rules: &Rules,
) -> Result<Waited, ObserveError> {
    let begun = Instant::now();
    let mut looks = Looks::new(port, asked, plain, deadline.longest_pause);
    loop {
        let longest = match looks.look(system, observer)? {
            Looked::Free => return Ok(Waited::told(Outcome::Free, observer, port, begun)),
            Looked::Held { longest } => longest,
        };
        let Some(wait) = deadline.next_pause(begun, longest) else { break };
        observe::change(observer, wait).await?;
    }
    still_held(system, observer, port, &looks.seen, rules, begun)
}

/// The looks of a wait until a port is free. A look can take long, so where others are to be served meanwhile it is taken on
/// another thread; between looks, events are waited for.
pub(crate) struct Looks {
    port: Port,
    asked: Vec<IpAddr>,
    plain: Plain,
    longest_pause: Duration,
    /// The addresses to bind, once the first look was taken.
    addresses: Option<Vec<BindAddress>>,
    /// What the last look found.
    pub(crate) seen: Vec<Socket>,
    pause: Duration,
}

/// What a look has shown.
pub(crate) enum Looked {
    Free,
    /// Look again after an event, or after so long.
    Held {
        longest: Duration,
    },
}

impl Looks {
    /// For a port to be bound at these addresses where nobody holds it; none for all.
    pub(crate) fn new(port: Port, asked: &[IpAddr], plain: Plain, longest_pause: Duration) -> Self {
        let (asked, pause) = (asked.to_vec(), Duration::from_millis(1));
        Self { port, asked, plain, longest_pause, addresses: None, seen: Vec::new(), pause }
    }

    /// Looks at the port, and tries to bind it if nobody is seen to hold it.
    ///
    /// # Errors
    /// When the port can't be observed.
    pub(crate) fn look(
        &mut self,
        system: &dyn System,
        observer: &mut dyn Observer,
    ) -> Result<Looked, ObserveError> {
        self.seen = observer.snapshot(self.port)?;
        if self.addresses.is_none() {
            let addresses = prove::addresses(&self.seen, self.port, &self.asked);
            if self.is_free(system, observer, &addresses)? {
                return Ok(Looked::Free);
            }
            self.addresses = Some(addresses);
            // What happens before that is not told, so the look is taken once more.
            observer.follow();
            self.seen = observer.snapshot(self.port)?;
        }
        let addresses = self.addresses.clone().unwrap_or_default();
        if self.is_free(system, observer, &addresses)? {
            return Ok(Looked::Free);
        }
        // Without an owner to wait for, looks are all there is: a client's connection, say, ends without an event.
        if self.seen.iter().any(Socket::takes_port) {
            return Ok(Looked::Held { longest: Duration::from_secs(1).max(self.longest_pause) });
        }
        let longest = self.pause;
        self.pause = (self.pause * 2).min(self.longest_pause);
        Ok(Looked::Held { longest })
    }

    /// Whether nobody holds the port and it can be bound at these addresses.
    fn is_free(
        &mut self,
        system: &dyn System,
        observer: &mut dyn Observer,
        addresses: &[BindAddress],
    ) -> Result<bool, ObserveError> {
        if self.seen.iter().any(Socket::takes_port) {
            return Ok(false);
        }
        match prove::look(system, observer, self.port, addresses, self.plain)? {
            PortState::Free { plain: Some(false), .. } | PortState::Kept | PortState::Hidden => Ok(false),
            PortState::Free { .. } => Ok(true),
            PortState::Held(sockets) => {
                self.seen = sockets;
                Ok(false)
            }
        }
    }
}

/// The answer where the time is over, with who still held the port at the last look.
///
/// # Errors
/// When the port can't be observed.
pub(crate) fn still_held(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: Port,
    seen: &[Socket],
    rules: &Rules,
    begun: Instant,
) -> Result<Waited, ObserveError> {
    let mut owner = owners(seen, system, rules, &Exclusions::default()).into_iter().next();
    add_other_ports(owner.as_mut_slice(), observer, port);
    let reason = match &owner {
        Some(owner) if !owner.owns_port() => Some(Reason::BoundClient),
        Some(owner) => owner.unheld(),
        None => (!observer.time_wait(port)?.is_empty()).then_some(Reason::TimeWait),
    };
    Ok(Waited { reason, owner, ..Waited::told(Outcome::TimedOut, observer, port, begun) })
}

/// Waits until the wanted process listens on the port: [`Outcome::Listening`], or [`Outcome::TimedOut`].
///
/// # Errors
/// When the port can't be observed.
pub(crate) async fn listening(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: Port,
    wanted: &Wanted,
    deadline: Deadline,
) -> Result<Waited, ObserveError> {
    let begun = Instant::now();
    let exclusions = Exclusions::default();
    // The listener that is there, and since when it is the same one.
    let mut found: Option<(Owner, Instant)> = None;
    let mut sockets = observer.snapshot(port)?;
    loop {
        let mut all = owners(&sockets, system, &wanted.rules, &exclusions);
        let met = all.iter().position(|owner| wanted.is_met_by(owner)).map(|at| all.swap_remove(at));
        found = met.map(|owner| match found.take() {
            Some((known, since)) if known.is_same(&owner) => (owner, since),
            _ => (owner, Instant::now()),
        });
        let settles_in = match &found {
            Some((_, since)) => wanted.settle.saturating_sub(since.elapsed()),
            None => Duration::from_secs(3600),
        };
        let answer = |outcome, reason, mut owner: Option<Owner>, observer: &mut dyn Observer| {
            add_other_ports(owner.as_mut_slice(), observer, port);
            Waited { reason, owner, ..Waited::told(outcome, observer, port, begun) }
        };
        if let Some((owner, _)) = &found
            && settles_in.is_zero()
        {
            return Ok(answer(Outcome::Listening, None, Some(owner.clone()), observer));
        }
        let Some(wait) = deadline.next_pause(begun, settles_in) else {
            let reason = found.as_ref().map(|_| Reason::NotSettled);
            let owner = found.map(|(owner, _)| owner).or_else(|| all.into_iter().next());
            return Ok(answer(Outcome::TimedOut, reason, owner, observer));
        };
        // Any event may be the one: it is looked at afresh, because a listener that comes can go again at once.
        let event = timeout(wait, observe::next(observer)).await.ok().transpose()?;
        let more = observe::drain(observer)?;
        // A look can take longer than the time that was given, and where nothing has happened it would show the same.
        if event.is_some() || !more.is_empty() || !deadline.is_over(begun) {
            sockets = observer.snapshot(port)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;
    use crate::model::Observation;
    use crate::steps::fake::FakeSystem;

    /// A port that nobody has, where each look takes long.
    struct SlowLooks(u32);

    const LOOK: Duration = Duration::from_millis(20);

    impl Observer for SlowLooks {
        fn backend(&self) -> Backend {
            Backend::Ebpf
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            self.0 += 1;
            std::thread::sleep(LOOK);
            Ok(Vec::new())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(false)
        }
    }

    #[test]
    fn a_wait_in_which_nothing_happens_looks_once() {
        let mut observer = SlowLooks(0);
        let deadline = Deadline { timeout: Some(LOOK * 2), longest_pause: LOOK };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let system = FakeSystem::default();
        let wanted = Wanted::any(Rules::any());
        let waiting = listening(&system, &mut observer, Port::tcp(1), &wanted, deadline);
        assert_eq!(runtime.block_on(waiting).unwrap().outcome, Outcome::TimedOut);
        assert_eq!(observer.0, 1);
    }
}
