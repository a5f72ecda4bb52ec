//! Cleans that were asked for: each takes its turn, and is finished once it has signalled a process.

use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::api::{ending, unobserved};
use super::limits::Place;
use super::off_loop::failed;
use super::past::Line;
use super::state::Agent;
use super::store::described;
use super::told::{self, NAMED};
use super::view::NamespaceObserver;
use crate::clean::{Cleaned, GivenUp, Request, clean};
use crate::model::{Action, Backend, CleanTold, Described, Outcome, OwnerTold, Process};
use crate::platform::Host;
use crate::platform::contract::Platform as _;
use crate::steps::end::OwnerOutcome;
use crate::wire::answers::CleanAnswer;
use crate::wire::problem::Problem;

/// A clean, and who asked for it.
pub(super) struct Asked {
    pub(super) agent: Arc<Agent>,
    /// The system as the caller sees it.
    pub(super) host: Host,
    pub(super) request: Request,
    /// The caller's pid and user.
    pub(super) caller: (u32, u32),
    /// The caller itself, for the history.
    pub(super) asker: Option<Process>,
    /// The caller's ancestors, by which it is known again.
    pub(super) line: Line,
}

/// Lives as long as the client waits for its answer.
struct Client {
    given_up: GivenUp,
    gone: Arc<Notify>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.given_up.give_up();
        self.gone.notify_one();
    }
}

/// Runs the clean. It is a task of its own, so that it is finished even if the client goes away; only one that has
/// signalled nobody ends with its client.
pub(super) async fn run(asked: Asked, place: Place) -> Result<CleanAnswer, Problem> {
    let gone = Arc::new(Notify::new());
    let _client = Client { given_up: asked.request.given_up.clone(), gone: Arc::clone(&gone) };
    let task = tokio::spawn(async move {
        let _place = place;
        asked.take_turn(&gone).await
    });
    task.await.map_err(failed)?
}

impl Asked {
    /// Waits for the turn, for as long as the whole clean may take.
    async fn take_turn(mut self, gone: &Notify) -> Result<CleanAnswer, Problem> {
        let since = Instant::now();
        let (netns, port) = (self.host.netns(), self.request.port);
        let lock = self.agent.clean_lock(netns, port);
        let turn = tokio::select! {
            turn = timeout(self.request.ending.timeouts.all(), lock.lock()) => turn,
            () = gone.notified() => return Err(ending()),
            () = self.agent.has_to_end() => return Err(ending()),
        };
        self.request.waited = since.elapsed();
        let mut cleaned = match turn {
            Ok(_turn) => {
                let cleaned;
                (self, cleaned) = self.clean().await?;
                cleaned?
            }
            Err(_) => Cleaned::too_late(port, Backend::Agent, since.elapsed()),
        };
        self.remember(&mut cleaned);
        self.tell(&cleaned);
        if let Some(store) = self.agent.store() {
            let asker = self.asker.as_ref().map_or_else(Described::default, described);
            store.clean(self.record(&cleaned), asker);
        }
        Ok(CleanAnswer::from(&cleaned).bounded())
    }

    /// Cleans on a thread of its own, because it looks at other users' processes all the time. Once the agent has to end, one
    /// that has signalled nobody does so too.
    async fn clean(self) -> Result<(Self, Result<Cleaned, Problem>), Problem> {
        let (agent, given_up) = (Arc::clone(&self.agent), self.request.given_up.clone());
        let mut cleaning = spawn_blocking(move || {
            let agent = Arc::clone(&self.agent);
            let _lent = agent.reserve.lend_if_needed();
            let mut observer = NamespaceObserver::new(Arc::clone(&agent), self.host.netns());
            let cleaned = Handle::current().block_on(clean(&self.host, &mut observer, &self.request));
            (self, cleaned.map_err(unobserved))
        });
        let (asked, cleaned) = tokio::select! {
            cleaned = &mut cleaning => cleaned.map_err(failed)?,
            () = agent.has_to_end() => {
                given_up.give_up();
                let (asked, cleaned) = cleaning.await.map_err(failed)?;
                let is_given_up = |cleaned: &Cleaned| {
                    cleaned.outcome == Outcome::TimedOut
                        && cleaned.owners.iter().all(|dealt| dealt.signalled_at.is_none())
                };
                if cleaned.as_ref().is_ok_and(is_given_up) {
                    return Err(ending());
                }
                (asked, cleaned)
            }
        };
        Ok((asked, cleaned))
    }

    /// Adds what was ended there before: supervisors that end each other's servers can go on for ever.
    fn remember(&mut self, cleaned: &mut Cleaned) {
        let place = (self.host.netns(), cleaned.port);
        let killed = killed(cleaned) > 0;
        let line = mem::take(&mut self.line);
        cleaned.ended_before = self.agent.past.before(place, line, killed, Instant::now());
        if let Some(before) = cleaned.ended_before.filter(|before| before.callers > 1 && killed) {
            let protocol: &str = cleaned.port.protocol.into();
            warn!(port = cleaned.port.number, protocol, "before this, {before}");
        }
    }

    /// What the history says of it.
    fn record(&self, cleaned: &Cleaned) -> CleanTold {
        let owner = |dealt: &OwnerOutcome| {
            let (owner, process) = (&dealt.owner, dealt.owner.process.as_ref());
            OwnerTold {
                pid: owner.pid,
                uid: owner.uid,
                comm: process.map(|process| process.comm.clone()),
                address: owner.holdings.first().map(|holding| holding.socket.address),
                action: dealt.action,
                ended_by: dealt.ended_by.as_deref().map(str::to_owned),
                ended_after: dealt.ended_after,
                why: owner.why.to_string(),
                process: process.map_or_else(Described::default, described),
            }
        };
        let (pid, uid) = self.caller;
        CleanTold {
            time: SystemTime::now(),
            port: cleaned.port,
            netns: Some(self.host.netns()),
            pid: Some(pid).filter(|&pid| pid != 0),
            uid: Some(uid),
            comm: self.asker.as_ref().map(|asker| asker.comm.clone()),
            dry_run: self.request.dry_run,
            outcome: cleaned.outcome,
            reason: cleaned.reason,
            elapsed: cleaned.elapsed,
            owners: cleaned.owners.iter().take(NAMED).map(owner).collect(),
        }
    }

    fn tell(&self, cleaned: &Cleaned) {
        let dry_run = self.request.dry_run;
        self.agent.metrics.cleaned(cleaned, killed(cleaned), dry_run);
        told::tell(cleaned, self.caller, dry_run);
    }
}

fn killed(cleaned: &Cleaned) -> usize {
    cleaned.owners.iter().filter(|dealt| dealt.action == Action::Killed).count()
}
