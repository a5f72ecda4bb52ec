//! Follows the ports of `restart` after the clean, until a new owner listens on each.

use std::collections::HashSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::args::{Format, RestartArgs};
use super::exit::CliError;
use super::handing::LOOK_WHO_TAKES;
use super::started::{End, Started};
use super::store::UnitStore;
use super::watch::{Source, leave_a_turn};
use crate::model::{Outcome, Port, Protocol, WatchEvent, WatchKind};
use crate::platform::contract::{Platform, Signals as _};
use crate::platform::{Host, clock};
use crate::restart::{CommandRun, Restart, Whose};
use crate::steps::end::Timeouts;
use crate::steps::keep::Keeper;

/// How often the holder of a listener that has none yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a listener may have none before it counts as one that can't be seen.
const UNSEEN: Duration = Duration::from_secs(1);

/// How long a command may take to end by the signal that interrupts this program: a terminal sends it to the whole process
/// group, and a command in that group is then on its way out.
const WITH_US: Duration = Duration::from_millis(250);

/// From here on, a status is that of a program that a signal ended, as shells tell it.
const SIGNALLED: i32 = 128;

/// By so much later an event is, in nanoseconds, that all of before have been read.
const AFTER: u64 = 100_000_000;

/// A restart whose ports are clean.
pub(super) struct Following<'a, 's> {
    pub(super) args: &'a RestartArgs,
    pub(super) format: Format,
    pub(super) restarts: &'a mut [(Port, Restart)],
    pub(super) source: &'a mut Source<'s>,
    pub(super) started: Started,
    pub(super) signals: <Host as Platform>::Signals,
    /// The old owner's sockets, where they are handed to the command.
    pub(super) keeper: Keeper,
    /// Where systemd hands them to a unit instead.
    pub(super) store: Option<UnitStore>,
}

impl Following<'_, '_> {
    /// Runs the command, if there is one, and follows the ports until a new owner listens on each, or it is certain that
    /// none will. Gives each port's outcome, where that is not its clean's.
    pub(super) async fn run(
        &mut self,
        argv: Vec<String>,
    ) -> Result<(Vec<Option<Outcome>>, Option<CommandRun>), CliError> {
        // What has happened so far was not caused by the command.
        self.read_what_is_there(Duration::ZERO).await?;
        if self.any(Restart::is_respawned) && !self.args.adopt && !argv.is_empty() {
            self.each(|restart| restart.note("the command was not run"));
            let outcome = |restart: &Restart| restart.is_respawned().then_some(Outcome::Respawned);
            return Ok((self.restarts.iter().map(|(_, restart)| outcome(restart)).collect(), None));
        }
        let mut deadline = Instant::now() + self.args.listen_timeout;
        if !self.all(Restart::is_listening) && !argv.is_empty() {
            let keeper = if self.store.is_some() { Keeper::default() } else { self.keeper.clone() };
            if let Err(error) = self.start(&argv, &keeper) {
                return self.not_started(error);
            }
        }
        let (mut status, mut settled, mut unseen, mut wants_own) = (None, None, None, None);
        let is_interrupted = loop {
            let now = Instant::now();
            self.look_who_took_over();
            if let Some(why) = self.why_not_taken_over(&mut wants_own, now >= deadline) {
                if let Err(error) = self.start_without_sockets(&argv, &why).await {
                    return self.not_started(error);
                }
                (status, settled, unseen) = (None, None, None);
                deadline = Instant::now() + self.args.listen_timeout;
                continue;
            }
            if self.all(Restart::is_listening) {
                if now >= *settled.get_or_insert(now + self.args.settle) {
                    break false;
                }
            } else if self.any(|restart| restart.outcome().is_some_and(|it| it != Outcome::Restarted)) {
                break false;
            } else {
                settled = None;
            }
            unseen = self.any(Restart::has_unseen).then(|| unseen.unwrap_or(now + UNSEEN));
            let over = settled.unwrap_or(unseen.unwrap_or(deadline).min(deadline));
            if now >= over && now < deadline && settled.is_none() {
                self.each(Restart::give_up_elsewhere);
                if !self.any(Restart::has_unseen) {
                    continue;
                }
            }
            if now >= over {
                if now >= deadline {
                    self.each(Restart::time_is_over);
                    self.notice_rivals(Started::is_match);
                }
                break false;
            }
            // A match that has taken the port is the command's work, or keeps the command from it.
            let is_beside = self.started.running().is_some() && self.any(Restart::has_match);
            let is_blind = self.source.sees_no_conflicts();
            let pause = match (unseen, is_beside && is_blind) {
                (Some(_), _) => LOOK_AGAIN,
                (None, true) => self.args.clean.observing.poll_interval,
                (None, false) => Duration::MAX,
            };
            let pause = if self.keeper.is_empty() { pause } else { pause.min(LOOK_WHO_TAKES) };
            let pause = pause.min(over - now);
            leave_a_turn().await;
            tokio::select! {
                // What ends this program may have ended the command as well, and is why.
                biased;
                _ = self.signals.next() => {
                    if let Some(ended) = self.started.end_within(WITH_US).await {
                        status = ended.code();
                        self.command_ended(status).await?;
                    }
                    self.each(|restart| restart.note("interrupted"));
                    break true;
                }
                ended = self.started.next_end() => match ended {
                    End::Command(ended) => {
                        status = ended.code();
                        self.command_ended(status).await?;
                        // A signal to the whole group can end the command before it reaches this program.
                        let is_signals = status.is_none_or(|status| !(0..SIGNALLED).contains(&status));
                        if is_signals && timeout(WITH_US, self.signals.next()).await.is_ok() {
                            self.each(|restart| restart.note("interrupted"));
                            break true;
                        }
                    }
                    End::Process(pid) => {
                        self.look_again(pid).await?;
                        self.each(|restart| restart.ended(pid));
                    }
                },
                told = next_event(self.source) => self.followed(told?).await?,
                () = sleep(pause) => {
                    if unseen.is_some() {
                        self.find_holders().await?;
                    }
                    if is_beside && is_blind {
                        self.notice_rivals(Started::tries_again);
                    }
                }
            }
        };
        let outcomes = self.outcomes(is_interrupted);
        for ((_, restart), _) in
            self.restarts.iter_mut().zip(&outcomes).filter(|(_, it)| **it == Outcome::Unknown)
        {
            if let Some(why) = restart.may_be_taken() {
                restart.note(&format!("whether the command serves can't be told: {why}"));
            }
        }
        let taken =
            outcomes.iter().zip(self.restarts.iter_mut()).filter(|(it, _)| **it == Outcome::Respawned);
        if argv.is_empty() {
            taken.for_each(|(_, (_, it))| it.note("without a command, --adopt takes whoever it is"));
        }
        let running = self.started.running();
        let mut command =
            (!argv.is_empty()).then(|| CommandRun { argv, status, running, listeners: Vec::new() });
        let is_done = outcomes.iter().all(|outcome| *outcome == Outcome::Restarted);
        if is_done {
            self.keeper.give_up();
        }
        if let Some(command) = command.as_mut().filter(|_| !is_done) {
            self.leave(command).await;
        }
        Ok((outcomes.into_iter().map(Some).collect(), command))
    }

    /// The answer where the command could not be started after all. The old owners have ended for it, so that all is told.
    fn not_started(
        &mut self,
        error: CliError,
    ) -> Result<(Vec<Option<Outcome>>, Option<CommandRun>), CliError> {
        let CliError::Command { .. } = error else { return Err(error) };
        self.each(|restart| restart.note(&error.to_string()));
        Ok((self.restarts.iter().map(|_| Some(Outcome::CommandFailed)).collect(), None))
    }

    /// Each port's outcome. What ended the restart on one ends the wait for the others.
    fn outcomes(&self, is_interrupted: bool) -> Vec<Outcome> {
        if is_interrupted {
            return self.restarts.iter().map(|_| Outcome::TimedOut).collect();
        }
        let decided = self.restarts.iter().filter_map(|(_, restart)| restart.outcome());
        let failed = decided.into_iter().find(|outcome| *outcome != Outcome::Restarted);
        let last = |restart: &Restart| match (restart.out_of_time(), failed) {
            (Outcome::TimedOut, Some(failed)) => failed,
            (outcome, _) => outcome,
        };
        self.restarts.iter().map(|(_, restart)| restart.outcome().unwrap_or_else(|| last(restart))).collect()
    }

    /// Starts the command, which gets these sockets.
    pub(super) fn start(&mut self, argv: &[String], keeper: &Keeper) -> Result<(), CliError> {
        // Taken before the start, because the child may already have acted by the time that this process continues.
        let at = clock::monotonic_ns(Instant::now());
        // A command that does not use the sockets is ended, with its group.
        let lead_group = self.args.kill_on_failure || !keeper.is_empty();
        self.started.start(argv, self.format, lead_group, keeper)?;
        let pid = self.started.pid();
        self.each(|restart| restart.command_started(at, pid));
        Ok(())
    }

    pub(super) fn each(&mut self, act: impl Fn(&mut Restart)) {
        self.restarts.iter_mut().for_each(|(_, restart)| act(restart));
    }

    pub(super) fn any(&self, is: impl Fn(&Restart) -> bool) -> bool {
        self.restarts.iter().any(|(_, restart)| is(restart))
    }

    pub(super) fn all(&self, is: impl Fn(&Restart) -> bool) -> bool {
        self.restarts.iter().all(|(_, restart)| is(restart))
    }

    /// Follows an event. Where some were lost, who holds the ports now stands in for them.
    async fn followed(&mut self, event: WatchEvent) -> Result<(), CliError> {
        self.follow(&event);
        if matches!(event.kind, WatchKind::Lost { .. }) && !self.source.is_agents() {
            for port in self.ports() {
                let held = self.source.holders(port).await?;
                let held: Vec<WatchEvent> =
                    held.into_iter().filter(|event| event.kind == WatchKind::Held).collect();
                of_port(self.restarts, port).for_each(|restart| restart.held_now(&held));
                held.iter().for_each(|event| self.follow(event));
            }
        }
        Ok(())
    }

    fn ports(&self) -> Vec<Port> {
        self.restarts.iter().map(|(port, _)| *port).collect()
    }

    /// Notices the ports that the command wants for itself.
    fn notice_rivals(&mut self, wants: impl Fn(&mut Started, Port) -> bool) {
        for (port, restart) in self.restarts.iter_mut() {
            if wants(&mut self.started, *port) {
                restart.is_wanted();
            }
        }
    }

    /// Whose process an event is about. What else only a look tells of its socket is noted.
    fn judge(&mut self, event: &WatchEvent) -> Whose {
        let takes = matches!(event.kind, WatchKind::Bind | WatchKind::Listen | WatchKind::Held);
        if takes && self.started.is_ipv6_alone(event) {
            of_port(self.restarts, event.port).for_each(|restart| restart.is_ipv6_alone(event));
        }
        self.started.whose(event)
    }

    fn follow(&mut self, event: &WatchEvent) {
        let whose = self.judge(event);
        for restart in of_port(self.restarts, event.port) {
            if restart.follow(event, whose)
                && let Some(pid) = event.pid
            {
                self.started.follow(pid);
            }
        }
    }

    /// Follows the events that are there, until none comes for this long, or they are of a later time.
    pub(super) async fn read_what_is_there(&mut self, pause: Duration) -> Result<(), CliError> {
        let begun = clock::monotonic_ns(Instant::now());
        // A timer's shortest time is a millisecond. An agent needs that time to write what has happened.
        let is_there = self.source.look_at_once() && pause.is_zero();
        loop {
            leave_a_turn().await;
            let next = next_event(self.source);
            let told = if is_there { at_once(next).await } else { timeout(pause, next).await.ok() };
            let Some(event) = told.transpose()? else { return Ok(()) };
            let at = event.monotonic_ns;
            self.followed(event).await?;
            // They may come without end, but nearly in their order.
            if at.is_some_and(|at| at > begun + AFTER) {
                return Ok(());
            }
        }
    }

    async fn command_ended(&mut self, status: Option<i32>) -> Result<(), CliError> {
        let pid = self.started.pid();
        if let Some(pid) = pid {
            self.look_again(pid).await?;
        }
        let leaves_others = self.started.leaves_others();
        let at = clock::monotonic_ns(Instant::now());
        self.each(|restart| restart.command_ended(at, pid, status, leaves_others));
        Ok(())
    }

    /// Looks who holds the sockets of a process that has ended. Events from before its end may not have been read yet.
    async fn look_again(&mut self, pid: u32) -> Result<(), CliError> {
        let is_agents = self.source.is_agents();
        self.read_what_is_there(Duration::from_millis(if is_agents { 20 } else { 1 })).await?;
        if !is_agents {
            self.each(|restart| restart.look_again(pid));
            self.find_holders().await?;
            self.read_what_is_there(Duration::ZERO).await?;
        }
        Ok(())
    }

    async fn find_holders(&mut self) -> Result<(), CliError> {
        for port in self.ports() {
            for event in self.source.holders(port).await? {
                if event.kind != WatchKind::Held {
                    continue;
                }
                let whose = self.judge(&event);
                of_port(self.restarts, port).for_each(|restart| restart.is_held_by(&event, whose));
                if whose != Whose::Unseen
                    && let Some(pid) = event.pid
                {
                    self.started.follow(pid);
                }
            }
        }
        Ok(())
    }

    /// Leaves a command that has not done what it was for: says that it runs on, or ends it.
    async fn leave(&mut self, command: &mut CommandRun) {
        let protocols: HashSet<Protocol> = self.ports().iter().map(|port| port.protocol).collect();
        let listeners: Vec<_> =
            protocols.into_iter().flat_map(|protocol| self.started.listeners(protocol)).collect();
        let running = self.started.running().or(listeners.first().map(|&(pid, _)| pid));
        let Some(running) = running else { return };
        if self.args.kill_on_failure {
            let name = self.started.name(running);
            self.started.end(self.args.clean.term_timeout.unwrap_or(Timeouts::DEFAULT.term)).await;
            self.each(|restart| restart.note(&format!("{name} was ended")));
            return;
        }
        command.running = Some(running);
        command.listeners = listeners.iter().map(|&(_, address)| address).collect();
        let note = match listeners.first() {
            Some(&(pid, _)) => {
                // On the very port, the address is what differs from what was asked for.
                let is_asked =
                    |address: &SocketAddr| self.ports().iter().any(|it| it.number == address.port());
                let place =
                    |it: &SocketAddr| if is_asked(it) { it.to_string() } else { it.port().to_string() };
                let mut places: Vec<String> = command.listeners.iter().map(place).collect();
                places.sort_unstable();
                places.dedup();
                format!("{} still runs, and listens on {}", self.started.name(pid), places.join(", "))
            }
            None => format!("{} still runs", self.started.name(running)),
        };
        self.each(|restart| restart.note(&note));
    }
}

/// What a future gives without a wait.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The restart of a port; none if the port is not asked for.
pub(super) fn of_port(restarts: &mut [(Port, Restart)], port: Port) -> impl Iterator<Item = &mut Restart> {
    restarts.iter_mut().filter(move |(own, _)| *own == port).map(|(_, restart)| restart)
}

/// The next event. Without an agent that breaks off, and that must be asked, nobody may say what happens.
pub(super) async fn next_event(source: &mut Source<'_>) -> Result<WatchEvent, CliError> {
    match source.next().await {
        Ok((event, _)) => Ok(event),
        Err(CliError::Agent(error)) => Err(CliError::Followed(error)),
        Err(error) => Err(error),
    }
}
