//! The answer of a restart.

use std::net::SocketAddr;
use std::time::Duration;

use strum::IntoStaticStr;

use super::{Progress, Restart};
use crate::clean::Cleaned;
use crate::model::{Outcome, Reason, Step};
use crate::steps::keep::Handover;

/// A step and its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimelineStep {
    /// Microseconds since the first signal; since the command's start if no process was signalled.
    pub(crate) at_us: i64,
    /// What happened.
    pub(crate) step: Step,
    /// The process that it happened to.
    pub(crate) pid: Option<u32>,
    /// What the process was asked to end with, where that is not SIGTERM.
    pub(crate) signal: Option<String>,
}

/// The command of a restart.
#[derive(Debug, Clone)]
pub(crate) struct CommandRun {
    /// What was run.
    pub(crate) argv: Vec<String>,
    /// Its exit status; `None` while it runs, or when a signal ended it.
    pub(crate) status: Option<i32>,
    /// Its pid while it runs.
    pub(crate) running: Option<u32>,
    /// Where its processes listen, if the restart failed and they run on.
    pub(crate) listeners: Vec<SocketAddr>,
}

/// The answer.
#[derive(Debug)]
pub(crate) struct Restarted {
    /// What the cleaning did, with the outcome of the whole.
    pub(crate) cleaned: Cleaned,
    /// The command; `None` if there was none, or it was not run.
    pub(crate) command: Option<CommandRun>,
    /// What happened, and when.
    pub(crate) timeline: Vec<TimelineStep>,
    /// From the old owner's release to the new one's listen.
    pub(crate) downtime: Option<Duration>,
    /// The new owner.
    pub(crate) new_owner: Option<NewOwner>,
    /// Why the restart failed, if it did.
    pub(crate) why: Option<String>,
    /// What became of the old owner's sockets, where they were to be kept.
    pub(crate) handover: Option<Handover>,
}

/// The new owner, as the event of its listen describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewOwner {
    /// The pid.
    pub(crate) pid: Option<u32>,
    /// The user.
    pub(crate) uid: Option<u32>,
    /// Its short name.
    pub(crate) comm: Option<String>,
    /// Where it listens.
    pub(crate) address: Option<SocketAddr>,
    /// What makes it the asked-for one; `None` if nothing does.
    pub(crate) by: Option<By>,
}

impl NewOwner {
    /// The process, as a sentence names it.
    pub(crate) fn name(&self) -> String {
        let comm = self.comm.as_deref().unwrap_or("an unseen process");
        self.pid.map_or_else(|| comm.to_owned(), |pid| format!("{comm} (pid {pid})"))
    }
}

/// What makes a new owner the asked-for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum By {
    /// It is one of the command's processes.
    Command,
    /// It belongs to the systemd unit that was named.
    Unit,
    /// It matches the rules.
    Rules,
}

impl By {
    /// The name in JSON.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

impl Restart {
    /// The answer, with the outcome of the whole.
    #[must_use]
    pub(crate) fn finish(
        mut self,
        cleaned: Cleaned,
        outcome: Outcome,
        command: Option<CommandRun>,
        handover: Option<Handover>,
    ) -> Restarted {
        let signalled =
            |(_, step, _): &&(u64, Step, Option<u32>)| matches!(step, Step::Sigterm | Step::Sigkill);
        let base = self.steps.iter().filter(signalled).map(|(at, ..)| *at).min();
        let base = base.or_else(|| self.steps.iter().map(|(at, ..)| *at).min()).unwrap_or_default();
        self.steps.extend(self.released.map(|at| (at, Step::Released, None)));
        self.steps.sort_by_key(|(at, ..)| *at);
        let since = |at: u64| {
            (i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(base).unwrap_or(0)).div_euclid(1000)
        };
        let asked_by = |pid| {
            let dealt = cleaned.owners.iter().find(|dealt| dealt.owner.pid == pid)?;
            dealt.asked_by.as_deref().filter(|&signal| signal != "SIGTERM").map(str::to_owned)
        };
        let step = |&(at, step, pid): &(u64, Step, Option<u32>)| {
            let signal = if step == Step::Sigterm { asked_by(pid) } else { None };
            TimelineStep { at_us: since(at), step, pid, signal }
        };
        let timeline = self.steps.iter().map(step).collect();
        let listens =
            self.new_owner().map(|(listener, by)| (listener.at, NewOwner { by, ..listener.owner.clone() }));
        // Exactly the difference of the timeline's numbers.
        let downtime = self.released.zip(listens.as_ref()).map(|(from, (to, _))| {
            Duration::from_micros(u64::try_from(since(*to) - since(from)).unwrap_or(0))
        });
        let never_refused = handover.as_ref().is_some_and(|handover| handover.refused == Some(0));
        let downtime = if never_refused { Some(Duration::ZERO) } else { downtime };
        let stranger = self.stranger().filter(|_| matches!(outcome, Outcome::Respawned | Outcome::Unknown));
        let new_owner = listens.map(|(_, owner)| owner).or_else(|| Some(stranger?.owner.clone()));
        // What kept the port from being cleaned counts only where that is how it ended.
        let unchanged = cleaned.reason.filter(|_| outcome == cleaned.outcome);
        let reason = (outcome == Outcome::Respawned && new_owner.is_some()).then_some(Reason::Stranger);
        if let Some(owner) = new_owner.as_ref().filter(|_| reason.is_some()) {
            let taken = match self.command {
                Progress::NotStarted => "took the port",
                Progress::Running | Progress::Done | Progress::Failed => {
                    "took the port, and is not the one that was asked for"
                }
            };
            let taken = format!("{} {taken}", owner.name());
            self.why = Some(self.why.map_or_else(|| taken.clone(), |why| format!("{taken}; {why}")));
        }
        Restarted {
            cleaned: Cleaned { outcome, reason: reason.or(unchanged), ..cleaned },
            command,
            timeline,
            downtime,
            new_owner,
            handover,
            why: if outcome == Outcome::Restarted { None } else { self.why },
        }
    }
}
