//! End: ask a process to end, then force it, and know when it has ended.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::first_look::FirstLook;
use super::identify::Rules;
use super::interrupt::Interrupt;
use super::owner::Owner;
use super::waiting::told;
use crate::model::{Action, EndSignal, EventKind, Observation, ProcessState, Verdict};
use crate::platform::contract::{
    Asked, ObserveError, Observer, ProcessError, ProcessHandle, SignalError, System,
};

/// The longest waits. The program continues the moment that the last process is gone.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// After the request to end.
    pub term: Duration,
    /// After the forced end.
    pub kill: Duration,
    /// For the port.
    pub free: Duration,
}

impl Timeouts {
    /// The defaults of the command line, the library and the agent.
    pub const DEFAULT: Self = Self {
        term: Duration::from_millis(600),
        kill: Duration::from_millis(400),
        free: Duration::from_secs(2),
    };

    /// All of them together.
    pub(crate) fn all(&self) -> Duration {
        self.term.saturating_add(self.kill).saturating_add(self.free)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How owners are ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    /// What they are asked with.
    pub(crate) signal: EndSignal,
    /// Whether they are asked at all before they are forced.
    pub(crate) ask: bool,
    /// Whether those that do not end in time are forced.
    pub(crate) kill: bool,
    /// The longest waits.
    pub(crate) timeouts: Timeouts,
    /// How long to wait.
    pub(crate) until: Until,
    /// Whether their sockets go on listening here, so that no event tells that they have let go of them.
    pub(crate) keeps: bool,
    /// What ends the waits. Nobody is forced after that.
    pub(crate) interrupt: Interrupt,
}

/// What the answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The end of the processes: at most `timeouts.term` for one that has let go of the port, because that one is not
    /// forced.
    Exited,
    /// The port alone.
    Released,
}

/// How often it is looked whether a process has let go of a socket, where no event tells it.
const LOOK: Duration = Duration::from_millis(2);

/// An owner, and what became of it.
#[derive(Debug, Clone)]
pub struct OwnerOutcome {
    /// The owner, as it was at the time of the look.
    pub owner: Owner,
    /// What was done.
    pub action: Action,
    /// The signal that it was asked to end with, or `close`; `None` if it was not asked.
    pub asked_by: Option<Cow<'static, str>>,
    /// The signal that ended it; on Windows `close` or `terminate`.
    pub ended_by: Option<Cow<'static, str>>,
    /// From its first signal until it was seen to be gone.
    pub ended_after: Option<Duration>,
    /// When it was first signalled.
    pub signalled_at: Option<Instant>,
    /// When it was forced.
    pub forced_at: Option<Instant>,
    /// The living children that an ended owner left behind, by pid.
    pub left: Vec<u32>,
    /// Who has started an ended owner and lives on, where that was looked for.
    pub starter: Option<String>,
}

impl OwnerOutcome {
    /// An owner that was not signalled; `action` says why.
    #[must_use]
    pub(crate) fn untouched(owner: Owner, action: Action) -> Self {
        Self {
            owner,
            action,
            asked_by: None,
            ended_by: None,
            ended_after: None,
            signalled_at: None,
            forced_at: None,
            left: Vec::new(),
            starter: None,
        }
    }
}

/// Ends the targets: asks all to end, waits at most `timeouts.term` for that, then forces those that remain and still
/// hold one of the sockets of the first look. Those that can't be asked are forced at once. What the observer reports
/// meanwhile is added to `seen`.
///
/// # Errors
/// When the observer breaks; those that were asked stay asked.
pub(crate) async fn end(
    system: &dyn System,
    observer: &mut dyn Observer,
    rules: &Rules,
    first_look: &FirstLook,
    targets: Vec<Owner>,
    ending: &Ending,
    seen: &mut Vec<Observation>,
) -> Result<Vec<OwnerOutcome>, ObserveError> {
    let mut outcomes = Vec::with_capacity(targets.len());
    let mut running = Vec::new();
    for target in targets {
        match terminate(system, rules, first_look, target, ending) {
            Ok(asked) => running.push(asked),
            Err(untouched) => outcomes.push(*untouched),
        }
    }
    // These could not be asked, so force them without waiting.
    for target in running.iter_mut().filter(|target| target.method.is_none()) {
        force(system, rules, first_look, target);
    }
    wait(system, observer, first_look, &mut running, ending, seen, ending.timeouts.term).await?;
    let left = |target: &&mut Running| target.gone_at.is_none() && target.forced_at.is_none();
    if ending.kill && !ending.interrupt.is_set() {
        for target in running.iter_mut().filter(left) {
            force(system, rules, first_look, target);
        }
    }
    // A process that has closed the port and lives on was not forced: there is nothing more to wait for.
    if running.iter().any(|target| target.gone_at.is_none() && target.forced_at.is_some()) {
        wait(system, observer, first_look, &mut running, ending, seen, ending.timeouts.kill).await?;
    }
    outcomes.extend(running.into_iter().map(|target| target.finish(system)));
    Ok(outcomes)
}

/// A process that was signalled.
struct Running {
    owner: Owner,
    handle: Box<dyn ProcessHandle>,
    /// The last signal that was sent; `None` so far if the process can't be asked.
    method: Option<&'static str>,
    /// The one that asked it to end.
    asked_by: Option<&'static str>,
    signalled_at: Instant,
    forced_at: Option<Instant>,
    gone_at: Option<Instant>,
    /// What was done with it, as long as no signal was sent.
    untouched: Action,
    /// Its children at that moment.
    children: Vec<u32>,
}

impl Running {
    fn finish(mut self, system: &dyn System) -> OwnerOutcome {
        if self.method.is_none() {
            return OwnerOutcome::untouched(self.owner, self.untouched);
        }
        let gone = self.gone_at.is_some();
        if !gone
            && let Some(known) = &mut self.owner.process
            && let Ok(now) = system.process(known.pid)
            && now.start_time == known.start_time
        {
            // What it does now is why the signals did not end it.
            known.state = now.state;
        }
        let is_alive = |child: &u32| system.process(*child).is_ok();
        let left = if gone { self.children.into_iter().filter(is_alive).collect() } else { Vec::new() };
        OwnerOutcome {
            action: if gone { Action::Killed } else { Action::Survived },
            asked_by: self.asked_by.map(Cow::Borrowed),
            ended_by: self.method.filter(|_| gone).map(Cow::Borrowed),
            ended_after: self.gone_at.map(|at| at - self.signalled_at),
            signalled_at: Some(self.signalled_at),
            forced_at: self.forced_at,
            owner: self.owner,
            left,
            starter: None,
        }
    }
}

/// Opens the process, makes sure that it is still the one that was seen, and asks it to end. The order matters: an open
/// handle always means the same process, so what is compared afterwards is true of the process that is signalled.
fn terminate(
    system: &dyn System,
    rules: &Rules,
    first_look: &FirstLook,
    mut target: Owner,
    ending: &Ending,
) -> Result<Running, Box<OwnerOutcome>> {
    let untouched = |owner, action| Err(Box::new(OwnerOutcome::untouched(owner, action)));
    let Some(pid) = target.pid else { return untouched(target, Action::Spared) };
    let handle = match system.open(pid) {
        Ok(handle) => handle,
        Err(error) => return untouched(target, refused(&error)),
    };
    let state = match second_look(system, rules, first_look, &target) {
        SecondLook::Stale(state) => state,
        SecondLook::Gone => return untouched(target, Action::Gone),
        SecondLook::Other(why) => {
            target.verdict = Verdict::Other;
            target.why = why;
            return untouched(target, Action::Spared);
        }
    };
    let children = system.children(pid);
    let signalled_at = Instant::now();
    let asked = if ending.ask { handle.terminate(ending.signal) } else { Ok(Asked::Unreachable) };
    match asked {
        Ok(asked) => {
            let method = match asked {
                Asked::By(method) => Some(method),
                Asked::Unreachable => None,
            };
            info!(pid, method, "asked to end");
            // A suspended process gets the signal only once it runs on: without this its handler would never run.
            if state == ProcessState::Stopped
                && let Err(error) = handle.resume()
            {
                debug!(pid, %error, "could not be resumed");
            }
            Ok(Running {
                owner: target,
                handle,
                method,
                asked_by: method,
                signalled_at,
                forced_at: None,
                gone_at: None,
                untouched: Action::Gone,
                children,
            })
        }
        Err(error) => untouched(target, refused(&error)),
    }
}

fn force(system: &dyn System, rules: &Rules, first_look: &FirstLook, target: &mut Running) {
    let pid = target.owner.pid;
    target.untouched = match second_look(system, rules, first_look, &target.owner) {
        SecondLook::Stale(_) => {
            let at = Instant::now();
            match target.handle.force() {
                Ok(method) => {
                    info!(pid, method, "ended by force");
                    if target.method.replace(method).is_none() {
                        target.signalled_at = at;
                    }
                    target.forced_at = Some(at);
                    return;
                }
                Err(error) => {
                    debug!(pid, %error, "could not be forced");
                    refused(&error)
                }
            }
        }
        // It has closed the port, or has just ended by itself: let it finish its work.
        SecondLook::Gone => {
            debug!(pid, "no longer holds the port: not forced");
            Action::Gone
        }
        SecondLook::Other(why) => {
            debug!(pid, why, "changed: not forced");
            Action::Spared
        }
    };
}

fn refused(error: &SignalError) -> Action {
    match error {
        SignalError::Gone => Action::Gone,
        SignalError::NotPermitted => Action::NotPermitted,
        SignalError::Other(error) => {
            debug!(%error, "a process could not be opened");
            Action::Spared
        }
    }
}

/// The result of a second look.
enum SecondLook {
    /// The same process, still matching, still holding a stale socket.
    Stale(ProcessState),
    /// It ended, or closed the port.
    Gone,
    /// It is another process now, or could not be read.
    Other(String),
}

fn second_look(system: &dyn System, rules: &Rules, first_look: &FirstLook, target: &Owner) -> SecondLook {
    let Some(before) = &target.process else { return SecondLook::Other("it was never seen".to_owned()) };
    let now = match system.process(before.pid) {
        Ok(now) => now,
        Err(ProcessError::Gone) => return SecondLook::Gone,
        Err(error) => return SecondLook::Other(error.to_string()),
    };
    if now.start_time != before.start_time {
        return SecondLook::Gone;
    }
    // Its memory goes first, and with it what it could be identified by; its sockets follow.
    if now.state == ProcessState::Leaving {
        return SecondLook::Gone;
    }
    let judgement = rules.judge(&now);
    if judgement.verdict != Verdict::Match && !target.inherits {
        return SecondLook::Other(judgement.why);
    }
    let mut doubt = None;
    for holding in target.holdings.iter().filter(|holding| first_look.includes(holding, before)) {
        let Some(descriptor) = &holding.descriptor else { continue };
        match system.holds(descriptor, &holding.socket) {
            Ok(true) => return SecondLook::Stale(now.state),
            Ok(false) => {}
            Err(error) => doubt = Some(format!("whether it still holds the port is unknown: {error}")),
        }
    }
    doubt.map_or(SecondLook::Gone, SecondLook::Other)
}

/// Waits until all have ended, or have let go of the port where that is enough, or `limit` has passed.
async fn wait(
    system: &dyn System,
    observer: &mut dyn Observer,
    first_look: &FirstLook,
    running: &mut [Running],
    ending: &Ending,
    seen: &mut Vec<Observation>,
    limit: Duration,
) -> Result<(), ObserveError> {
    let waited_for = alive(running);
    let mut looks = ending.keeps.then(|| tokio::time::interval(LOOK));
    let over = poll_fn(|cx| {
        let mut left = false;
        for target in running.iter_mut().filter(|target| target.gone_at.is_none()) {
            match target.handle.poll_exit(cx) {
                Poll::Ready(Ok(())) => target.gone_at = Some(Instant::now()),
                // If waiting on the handle fails, nothing is known about the process: it counts as alive.
                Poll::Ready(Err(error)) => {
                    debug!(pid = target.owner.pid, %error, "waiting for its end failed");
                    left = true;
                }
                Poll::Pending => left = true,
            }
        }
        if !left {
            return Poll::Ready(Ok(()));
        }
        if ending.until == Until::Released {
            let mut released = false;
            while looks.as_mut().is_some_and(|looks| looks.poll_tick(cx).is_ready()) {
                released = true;
            }
            while let Poll::Ready(observation) = observer.poll_next(cx) {
                let observation = observation?;
                released |=
                    matches!(&observation, Observation::Event(event) if event.kind == EventKind::Release);
                seen.push(observation);
            }
            let holds = |target: &Running| target.gone_at.is_none() && target.holds(system, first_look);
            if released && !running.iter().any(holds) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    });
    // A limit, not a sleep: the future is ready as soon as the last one is gone.
    let over = tokio::time::timeout(limit, over);
    let over = async {
        tokio::select! {
            biased;
            over = over => over.unwrap_or(Ok(())),
            () = ending.interrupt.wait() => Ok(()),
        }
    };
    told(|| waited_for, Some(limit), over).await
}

/// What is waited for, for people: the end of those that are alive.
fn alive(running: &[Running]) -> String {
    let names: Vec<String> = running
        .iter()
        .filter(|target| target.gone_at.is_none())
        .map(|Running { owner: Owner { process, pid, .. }, .. }| {
            let name = process.as_ref().map_or("a process", |process| process.comm.as_str());
            format!("{name} (pid {})", pid.unwrap_or_default())
        })
        .collect();
    let method = running.iter().find_map(|target| target.method).unwrap_or("a signal");
    let run = if names.len() == 1 { "runs" } else { "run" };
    format!("{method} was sent, {} still {run}", names.join(", "))
}

impl Running {
    /// Whether it still holds a socket of the first look; true where that can't be told.
    fn holds(&self, system: &dyn System, first_look: &FirstLook) -> bool {
        let Some(process) = &self.owner.process else { return true };
        let mut stale = self.owner.holdings.iter().filter(|holding| first_look.includes(holding, process));
        stale.any(|holding| {
            holding
                .descriptor
                .as_ref()
                .is_none_or(|descriptor| system.holds(descriptor, &holding.socket).unwrap_or(true))
        })
    }
}
