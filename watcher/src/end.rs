//! End: ask a process to go, then force it, and know when it has gone.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, info};
use utoipa::ToSchema;

use crate::identify::Rules;
use crate::owner::Owner;
use crate::process::Identity;
use crate::stale::Stale;
use crate::system::{Asked, Handle, ProcessError, SignalError, System};

/// The longest waits. The program goes on the moment that the last process is gone.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// After the request to end.
    pub term: Duration,
    /// After the forced end.
    pub kill: Duration,
    /// For the port.
    pub free: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            term: Duration::from_millis(600),
            kill: Duration::from_millis(400),
            free: Duration::from_secs(2),
        }
    }
}

/// What was done with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was signalled, and is seen to be gone.
    Killed,
    /// It was left alone.
    Spared,
    /// It ended, or let go of the port, before it was signalled.
    Gone,
    /// It matches, and this user may not signal it.
    NotPermitted,
    /// It was signalled, and lives on.
    Survived,
    /// It would be ended, if this were no dry run.
    WouldKill,
}

/// An owner and what became of it.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The owner, as it was when it was looked at.
    pub owner: Owner,
    /// What was done.
    pub action: Action,
    /// The means that it went by.
    pub ended_by: Option<&'static str>,
    /// From its first signal until it was seen to be gone.
    pub ended_after: Option<Duration>,
    /// When it was first signalled.
    pub signalled_at: Option<Instant>,
    /// When it was forced.
    pub forced_at: Option<Instant>,
}

impl Ended {
    /// An owner with which nothing was done beyond `action`.
    #[must_use]
    pub fn untouched(owner: Owner, action: Action) -> Self {
        Self { owner, action, ended_by: None, ended_after: None, signalled_at: None, forced_at: None }
    }
}

/// Ends the targets: asks all, waits at most `timeouts.term` for all to go, then forces those that are left and
/// still hold one of the `stale` sockets. Those that can't be asked are forced at once.
pub async fn end(
    system: &dyn System,
    rules: &Rules,
    stale: &Stale,
    targets: Vec<Owner>,
    timeouts: &Timeouts,
) -> Vec<Ended> {
    let mut ended = Vec::with_capacity(targets.len());
    let mut running = Vec::new();
    for target in targets {
        match ask(system, rules, stale, target) {
            Ok(asked) => running.push(asked),
            Err(untouched) => ended.push(*untouched),
        }
    }
    // For an answer to a request that could not be made, nobody waits.
    for target in running.iter_mut().filter(|target| target.means.is_none()) {
        force(system, rules, stale, target);
    }
    wait_for_exits(&mut running, timeouts.term).await;
    let left = |target: &&mut Running| target.gone_at.is_none() && target.forced_at.is_none();
    for target in running.iter_mut().filter(left) {
        force(system, rules, stale, target);
    }
    wait_for_exits(&mut running, timeouts.kill).await;
    ended.extend(running.into_iter().map(Running::finish));
    ended
}

/// A process that was signalled.
struct Running {
    owner: Owner,
    handle: Box<dyn Handle>,
    /// The last means that was used; none yet where it can't be asked.
    means: Option<&'static str>,
    signalled_at: Instant,
    forced_at: Option<Instant>,
    gone_at: Option<Instant>,
    /// What was done with it, for as long as no means was used.
    untouched: Action,
}

impl Running {
    fn finish(self) -> Ended {
        if self.means.is_none() {
            return Ended::untouched(self.owner, self.untouched);
        }
        let gone = self.gone_at.is_some();
        Ended {
            action: if gone { Action::Killed } else { Action::Survived },
            ended_by: self.means.filter(|_| gone),
            ended_after: self.gone_at.map(|at| at - self.signalled_at),
            signalled_at: Some(self.signalled_at),
            forced_at: self.forced_at,
            owner: self.owner,
        }
    }
}

/// Opens the process, makes sure that it is still the one that was looked at, and asks it to end. In that order: a
/// handle that is open keeps meaning this process, so what is compared after it is true of what is signalled.
fn ask(system: &dyn System, rules: &Rules, stale: &Stale, mut target: Owner) -> Result<Running, Box<Ended>> {
    let untouched = |owner, action| Err(Box::new(Ended::untouched(owner, action)));
    let Some(pid) = target.pid else { return untouched(target, Action::Spared) };
    let handle = match system.open(pid) {
        Ok(handle) => handle,
        Err(error) => return untouched(target, refused(&error)),
    };
    match look_again(system, rules, stale, &target) {
        Still::Stale => {}
        Still::Gone => return untouched(target, Action::Gone),
        Still::Other(why) => {
            target.identity = Identity::Other;
            target.why = why;
            return untouched(target, Action::Spared);
        }
    }
    let signalled_at = Instant::now();
    match handle.ask() {
        Ok(asked) => {
            let means = match asked {
                Asked::By(means) => Some(means),
                Asked::Unreachable => None,
            };
            info!(pid, means, "asked to end");
            Ok(Running {
                owner: target,
                handle,
                means,
                signalled_at,
                forced_at: None,
                gone_at: None,
                untouched: Action::Gone,
            })
        }
        Err(error) => untouched(target, refused(&error)),
    }
}

fn force(system: &dyn System, rules: &Rules, stale: &Stale, target: &mut Running) {
    let pid = target.owner.pid;
    target.untouched = match look_again(system, rules, stale, &target.owner) {
        Still::Stale => {
            let at = Instant::now();
            match target.handle.force() {
                Ok(means) => {
                    info!(pid, means, "ended by force");
                    if target.means.replace(means).is_none() {
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
        // Gone from the port, or by itself in this very moment: it may finish its work.
        Still::Gone => {
            debug!(pid, "let go of the port: not forced");
            Action::Gone
        }
        Still::Other(why) => {
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

/// What a second look finds.
enum Still {
    /// The same process, still matching, still holding a stale socket.
    Stale,
    /// It ended, or let go of the port.
    Gone,
    /// It is another process now, or could not be looked at.
    Other(String),
}

fn look_again(system: &dyn System, rules: &Rules, stale: &Stale, target: &Owner) -> Still {
    let Some(before) = &target.process else { return Still::Other("it was never seen".to_owned()) };
    let tid =
        target.held.iter().find_map(|held| held.holder.as_ref()).map_or(before.pid, |holder| holder.tid);
    let now = match system.process(before.pid, tid) {
        Ok(now) => now,
        Err(ProcessError::Gone) => return Still::Gone,
        Err(error) => return Still::Other(error.to_string()),
    };
    if now.start_time != before.start_time {
        return Still::Gone;
    }
    let judgement = rules.judge(&now);
    if judgement.identity != Identity::Match {
        return Still::Other(judgement.why);
    }
    let mut doubt = None;
    for held in target.held.iter().filter(|held| stale.is_held(held, before)) {
        let Some(holder) = &held.holder else { continue };
        match system.holds(holder, &held.socket) {
            Ok(true) => return Still::Stale,
            Ok(false) => {}
            Err(error) => doubt = Some(format!("whether it still holds the port can't be told: {error}")),
        }
    }
    doubt.map_or(Still::Gone, Still::Other)
}

/// Waits until all have ended, or `limit` is over.
async fn wait_for_exits(running: &mut [Running], limit: Duration) {
    let all_gone = poll_fn(|cx| {
        let mut left = false;
        for target in running.iter_mut().filter(|target| target.gone_at.is_none()) {
            match target.handle.poll_exit(cx) {
                Poll::Ready(Ok(())) => target.gone_at = Some(Instant::now()),
                // A handle that can't be waited on says nothing about the process: it counts as alive.
                Poll::Ready(Err(error)) => {
                    debug!(pid = target.owner.pid, %error, "its end can't be waited for");
                    left = true;
                }
                Poll::Pending => left = true,
            }
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    });
    // A limit, not a sleep: the future is ready as soon as the last one is gone.
    let _ = tokio::time::timeout(limit, all_gone).await;
}
