//! The policy: end the stale owners of a port, and only those, and answer once the port can be bound.
//!
//! This is the page to read first. It composes the five [steps](crate::steps) and knows of no operating system:
//! [observe](crate::steps::observe) who holds the port, [identify](crate::steps::identify) and
//! [exclude](crate::steps::exclude) to choose whom to end, [end] them, and [prove] that the port can be bound.
//!
//! All is decided before the first signal: see the [plan](crate::steps::plan).

mod cleaning;
mod lingering;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::cleaning::Cleaning;
use crate::model::{Action, Backend, EndSignal, Outcome, Port, Reason};
use crate::platform::contract::{ObserveError, Observer, POLL_INTERVAL, System};
use crate::steps::elsewhere::{self, GatewayElsewhere};
use crate::steps::end::{Ending, OwnerOutcome, Timeouts, Until};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::steps::interrupt::Interrupt;
use crate::steps::keep::Keeper;
use crate::steps::makers::Makers;
use crate::steps::plan::Sparing;
use crate::steps::prove::{Plain, PortState, Proof};

/// What to clean, and how.
#[derive(Debug)]
pub(crate) struct Request {
    /// The port.
    pub(crate) port: Port,
    /// The addresses to prove where nobody holds the port; empty for all.
    pub(crate) asked: Vec<IpAddr>,
    /// Which owners may be ended.
    pub(crate) rules: Rules,
    /// Which owners are never ended.
    pub(crate) exclusions: Exclusions,
    /// Which matches are spared, or which others ended as well.
    pub(crate) sparing: Sparing,
    /// What made the port's sockets, as far as that was seen.
    pub(crate) makers: Makers,
    /// How owners are ended.
    pub(crate) ending: Ending,
    /// Report what would be ended, without signalling any process.
    pub(crate) dry_run: bool,
    /// End nobody unless that frees the addresses that the owners hold.
    pub(crate) all_or_nothing: bool,
    /// Whether to try a bind without `SO_REUSEADDR` for the proof.
    pub(crate) plain: Plain,
    /// Take connections in TIME_WAIT away where only they keep the port.
    pub(crate) drop_time_wait: bool,
    /// Where the listening sockets of those that are ended go on listening; `None` if they end with them.
    pub(crate) keeper: Option<Keeper>,
    /// The longest pause between two looks at a port that no process seems to hold.
    pub(crate) longest_pause: Duration,
    /// What of the time for all this is used up already.
    pub(crate) waited: Duration,
    /// Whether anybody still wants it.
    pub(crate) given_up: GivenUp,
}

/// Whether whoever asked for a clean has given it up. One that has signalled nobody by then ends, and signals nobody.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    /// Gives it up.
    pub(crate) fn give_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Request {
    /// A request that says no more than this: all matches are ended as the rules say, and the rest is left alone.
    pub(crate) fn new(port: Port, rules: Rules, exclusions: Exclusions) -> Self {
        let timeouts = Timeouts { term: rules.term_timeout(), ..Timeouts::DEFAULT };
        let (signal, kill) = (rules.signal(), rules.kill());
        Self {
            port,
            asked: Vec::new(),
            rules,
            exclusions,
            sparing: Sparing::default(),
            makers: Makers::default(),
            ending: Ending {
                signal,
                ask: true,
                kill,
                timeouts,
                until: Until::Exited,
                keeps: false,
                interrupt: Interrupt::default(),
            },
            dry_run: false,
            all_or_nothing: false,
            plain: Plain::Try,
            drop_time_wait: false,
            keeper: None,
            longest_pause: POLL_INTERVAL,
            waited: Duration::ZERO,
            given_up: GivenUp::default(),
        }
    }
}

/// How often owners of the same port were ended a short while before, as the agent remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedBefore {
    /// How many cleans ended somebody.
    pub count: usize,
    /// How long ago the first of them was.
    pub within: Duration,
    /// By how many callers, this one included.
    pub callers: usize,
}

impl fmt::Display for EndedBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, within, callers } = self;
        let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
        let seconds = within.as_secs();
        match callers {
            0 | 1 => return write!(f, "ended {times} in {seconds} s by one caller"),
            2 => write!(f, "ended {times} in {seconds} s by two callers")?,
            _ => write!(f, "ended {times} in {seconds} s by {callers} callers")?,
        }
        f.write_str(": each ends what another has started, unless `--min-age` spares what has just begun")
    }
}

/// The owners beyond those that the agent describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many there were.
    pub count: usize,
    /// The pids of those among them that were signalled and are gone.
    pub killed: Vec<u32>,
}

/// The answer.
#[derive(Debug)]
pub struct Cleaned {
    /// The port.
    pub port: Port,
    /// How the port was at the end.
    pub outcome: Outcome,
    /// Why, where the outcome alone does not say.
    pub reason: Option<Reason>,
    /// How long the port stays taken, where that is known.
    pub free_in: Option<Duration>,
    /// How it was observed.
    pub backend: Backend,
    /// Every owner that was seen, and what became of it.
    pub owners: Vec<OwnerOutcome>,
    /// What the agent tells of more than it describes.
    pub left_out: LeftOut,
    /// What was ended on the port before; `None` if nobody was, or nobody remembers.
    pub ended_before: Option<EndedBefore>,
    /// Gateways that listen on other ports, where a gateway's port was found free.
    pub gateways_elsewhere: Vec<GatewayElsewhere>,
    /// The proof; `None` if the port can't be bound, or binding was not tried (dry run).
    pub proof: Option<Proof>,
    /// From the first look to the answer.
    pub elapsed: Duration,
}

impl Cleaned {
    /// This answer with what an earlier clean of the same port did, of which it is the continuation.
    pub(crate) fn after(mut self, earlier: Self) -> Self {
        let ended = earlier.owners.into_iter().filter(|dealt| dealt.action == Action::Killed);
        self.owners.extend(ended);
        self.owners.sort_by_key(|dealt| dealt.owner.pid.unwrap_or(u32::MAX));
        if self.outcome == Outcome::Free && self.owners.iter().any(|dealt| dealt.action == Action::Killed) {
            self.outcome = Outcome::Cleaned;
        }
        self.elapsed += earlier.elapsed;
        self
    }

    /// The answer where the time was over before anything could be done.
    pub(crate) fn too_late(port: Port, backend: Backend, elapsed: Duration) -> Self {
        Self {
            port,
            outcome: Outcome::TimedOut,
            reason: None,
            free_in: None,
            backend,
            owners: Vec::new(),
            left_out: LeftOut::default(),
            ended_before: None,
            gateways_elsewhere: Vec::new(),
            proof: None,
            elapsed,
        }
    }
}

/// Ends the stale owners of a port.
///
/// Stale sockets are those that hold the port at the first look, and no others: a process that takes the port later is
/// a new owner, and is left alone. Owners on other addresses, which do not keep anybody from those of the ended ones,
/// are left alone as well and do not spoil the outcome.
///
/// # Errors
/// When the port can't be observed. Then no further process is signalled.
pub(crate) async fn clean(
    system: &dyn System,
    observer: &mut dyn Observer,
    request: &Request,
) -> Result<Cleaned, ObserveError> {
    let mut cleaning = Cleaning::begin(system, observer, request)?;
    if request.dry_run || request.all_or_nothing {
        cleaning.settle(observer).await?;
    }
    let would_be = cleaning.foreseen(observer)?;
    let in_vain = request.all_or_nothing && would_be != Outcome::WouldClean;
    if cleaning.is_owned() && in_vain {
        return Ok(cleaning.undone(would_be, observer.backend()));
    }
    if !cleaning.keep() {
        return Ok(cleaning.undone(Outcome::Unknown, observer.backend()));
    }
    if cleaning.is_owned() && request.dry_run {
        return Ok(cleaning.undone(would_be, observer.backend()));
    }
    let outcome = loop {
        if request.given_up.is_given_up() && !cleaning.has_signalled() {
            break Outcome::TimedOut;
        }
        cleaning.end_targets(observer).await?;
        if request.ending.interrupt.is_set() {
            break Outcome::TimedOut;
        }
        if cleaning.is_held() && !cleaning.is_leaving() {
            break cleaning.outcome();
        }
        // No process is known to hold the port any more, or only one that is leaving.
        let since = Instant::now();
        let state = cleaning.look(observer)?;
        let is_hidden = matches!(state, PortState::Hidden);
        match state {
            PortState::Kept => break cleaning.kept(),
            PortState::Free { kind, plain } => break cleaning.proved(observer, kind, plain)?,
            // A server that has bound and is about to listen is seen by a later look.
            PortState::Hidden if cleaning.may_show_itself() => {}
            PortState::Hidden => break Outcome::Unknown,
            PortState::Held(sockets) => cleaning.update(&sockets, since),
        }
        if cleaning.is_held() && !cleaning.is_leaving() {
            continue;
        }
        if !cleaning.is_held()
            && let Some(outcome) = cleaning.of_time_wait(observer)?
        {
            break outcome;
        }
        if !cleaning.wait(observer).await? {
            break if is_hidden { Outcome::Unknown } else { cleaning.outcome() };
        }
    };
    cleaning.add_other_ports(observer);
    let mut cleaned = cleaning.finish(outcome, observer.backend());
    // Whoever changed a gateway's port finds the new one free, while the old gateway goes on.
    if outcome == Outcome::Free && request.rules.is_gateways() && !request.all_or_nothing {
        cleaned.gateways_elsewhere = elsewhere::gateways(system, observer, &request.rules, request.port);
    }
    Ok(cleaned)
}

/// What a request is asked to end owners with, where the caller says so rather than the rules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overrides {
    pub(crate) signal: Option<EndSignal>,
    pub(crate) term: Option<Duration>,
    pub(crate) kill: Option<Duration>,
    pub(crate) free: Option<Duration>,
}

impl Overrides {
    /// Puts what the caller says in the place of what the rules say.
    pub(crate) fn apply(&self, ending: &mut Ending) {
        let Ending { signal, timeouts, .. } = ending;
        *signal = self.signal.unwrap_or(*signal);
        timeouts.term = self.term.unwrap_or(timeouts.term);
        timeouts.kill = self.kill.unwrap_or(timeouts.kill);
        timeouts.free = self.free.unwrap_or(timeouts.free);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;
    use crate::model::{Action, Descriptor, Observation, Protocol, Socket, SocketState};
    use crate::steps::fake::{FakeSystem, process};

    /// Its first look takes long, and finds a listener whose process has ended meanwhile; later ones find nothing.
    struct SlowFirstLook(Option<Socket>);

    impl Observer for SlowFirstLook {
        fn backend(&self) -> Backend {
            Backend::Poll
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            let found = self.0.take();
            if found.is_some() {
                // Longer than the grace of a socket that no process is seen to hold.
                std::thread::sleep(Duration::from_millis(400));
            }
            Ok(found.into_iter().collect())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(false)
        }
    }

    #[tokio::test]
    async fn an_owner_that_ends_during_a_slow_first_look_does_not_stay_unknown() {
        let system = FakeSystem::with_binds_that_succeed();
        let listener = Socket::new(Protocol::Tcp, ([127, 0, 0, 1], 80).into(), SocketState::Listen);
        let exclusions = Exclusions::new(&system, 1, &[], false);
        let request = Request::new(Port::tcp(80), Rules::any(), exclusions);
        let cleaned = clean(&system, &mut SlowFirstLook(Some(listener)), &request).await.unwrap();
        assert_eq!(cleaned.outcome, Outcome::Free);
    }

    /// Looks that find these sockets, one after the other, and then the last for good.
    struct Looks(Vec<Socket>);

    impl Observer for Looks {
        fn backend(&self) -> Backend {
            Backend::Poll
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            Ok(vec![if self.0.len() > 1 { self.0.remove(0) } else { self.0[0].clone() }])
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(false)
        }
    }

    #[tokio::test]
    async fn what_is_left_of_an_owner_that_exits_decides_no_plan() {
        // given a socket that nobody holds at the first look, as that of a process that exits
        let system = FakeSystem::with_binds_that_succeed();
        let listener = Socket::new(Protocol::Tcp, ([127, 0, 0, 1], 80).into(), SocketState::Listen);
        for (dry_run, all_or_nothing) in [(true, false), (false, true), (true, true)] {
            let exclusions = Exclusions::new(&system, 1, &[], false);
            let request = Request::new(Port::tcp(80), Rules::any(), exclusions);
            let request = Request { dry_run, all_or_nothing, ..request };
            let cleaned = clean(&system, &mut SlowFirstLook(Some(listener.clone())), &request).await.unwrap();
            assert_eq!(cleaned.outcome, Outcome::Free);
        }
    }

    #[tokio::test]
    async fn a_dry_run_signals_nobody_who_is_seen_late() {
        // given a socket that is on its way to a process at the first look
        let owner = process(&["server"]);
        let address = ([127, 0, 0, 1], 80).into();
        let unheld = Socket { cookie: Some(1), ..Socket::new(Protocol::Tcp, address, SocketState::Listen) };
        let descriptors = vec![Descriptor { pid: owner.pid, fd: None }];
        let held = Socket { descriptors, ..unheld.clone() };
        let system = FakeSystem::default().with_process(owner.clone());
        let exclusions = Exclusions::new(&system, 1, &[], false);
        let request = Request::new(Port::tcp(80), Rules::any(), exclusions);
        let request = Request { dry_run: true, ..request };
        let cleaned = clean(&system, &mut Looks(vec![unheld, held]), &request).await.unwrap();
        assert_eq!(cleaned.outcome, Outcome::WouldClean);
        let actions: Vec<Action> = cleaned.owners.iter().map(|dealt| dealt.action).collect();
        assert_eq!(actions, [Action::WouldKill]);
    }

    #[tokio::test]
    async fn a_new_owner_with_the_pid_of_the_old_one_and_its_tick_is_new() {
        // given an owner that has ended before it is signalled, and one with its pid and start time that has a socket of its own
        let owner = process(&["server"]);
        let listener = |cookie| Socket {
            cookie: Some(cookie),
            descriptors: vec![Descriptor { pid: owner.pid, fd: None }],
            ..Socket::new(Protocol::Tcp, ([127, 0, 0, 1], 80).into(), SocketState::Listen)
        };
        let system = FakeSystem::default().with_process(owner.clone());
        let exclusions = Exclusions::new(&system, 1, &[], false);
        let request = Request::new(Port::tcp(80), Rules::any(), exclusions);
        let mut looks = Looks(vec![listener(1), listener(2)]);
        let cleaned = clean(&system, &mut looks, &request).await.unwrap();
        // then it is not unknown, and is named beside the old one
        assert_eq!(cleaned.outcome, Outcome::Respawned);
        let actions: Vec<Action> = cleaned.owners.iter().map(|dealt| dealt.action).collect();
        assert_eq!(actions, [Action::Gone, Action::Spared]);
    }

    /// A look finds nobody while the server has bound and does not listen: as many as are left, and then its listener, if it is
    /// ever seen.
    struct Starting(u32, Option<Socket>);

    impl Observer for Starting {
        fn backend(&self) -> Backend {
            Backend::Poll
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            let is_seen = self.0 == 0;
            self.0 = self.0.saturating_sub(1);
            Ok(self.1.iter().filter(|_| is_seen).cloned().collect())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(true)
        }
    }

    #[tokio::test]
    async fn a_server_that_is_about_to_listen_is_waited_for_but_no_hidden_socket_is_called_free() {
        let owner = process(&["server"]);
        let descriptors = vec![Descriptor { pid: owner.pid, fd: None }];
        let address = ([127, 0, 0, 1], 80).into();
        let listener = Socket { descriptors, ..Socket::new(Protocol::Tcp, address, SocketState::Listen) };
        let system = FakeSystem::with_binds_that_share().with_process(owner);
        for (server, outcome) in [(Some(listener), Outcome::Respawned), (None, Outcome::Unknown)] {
            let exclusions = Exclusions::new(&system, 1, &[], false);
            let request = Request::new(Port::tcp(80), Rules::any(), exclusions);
            let cleaned = clean(&system, &mut Starting(2, server), &request).await.unwrap();
            assert_eq!(cleaned.outcome, outcome);
        }
    }
}
