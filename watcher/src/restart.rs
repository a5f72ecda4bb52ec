//! Restart: follows what happens to a port from the old owner's end to the new owner's first listen.
//!
//! [`Restart`] is told what happened, in order, and says when it is over; who tells it, and how the port is cleaned and
//! the command run, is not its concern.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::outcome::Outcome;
use crate::report::CleanReport;
use crate::watch::{Line, What};

/// So often a new process may fail to take or keep the port before the restart counts as a crash loop.
const FAILURES: u32 = 3;

/// A step of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// SIGTERM was sent.
    Sigterm,
    /// SIGKILL was sent.
    Sigkill,
    /// The old process has ended.
    Exited,
    /// The last of the old sockets gave the port back.
    Released,
    /// The command was started.
    CommandStarted,
    /// The command has ended.
    CommandEnded,
    /// A new process took the port.
    Bind,
    /// It listens.
    Listen,
    /// A new process failed to take the port.
    Conflict,
    /// A new process gave the port back.
    Lost,
}

/// A step and its moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct At {
    /// Microseconds since the first signal; since the command's start where nobody was signalled.
    pub at_us: i64,
    /// What happened.
    pub step: Step,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// The command of a restart.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommandReport {
    /// What was run.
    pub argv: Vec<String>,
    /// Its exit status; null while it runs, or when a signal ended it.
    pub status: Option<i32>,
}

/// The object of `restart`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestartReport {
    /// The object of `clean`, with the outcome of the whole.
    #[serde(flatten)]
    pub cleaned: CleanReport,
    /// The command; null where there was none, or it was not run.
    pub command: Option<CommandReport>,
    /// What happened when.
    pub timeline: Vec<At>,
    /// From the old owner's release to the new one's listen.
    pub downtime_us: Option<u64>,
    /// The new owner.
    pub new_owner: Option<NewOwner>,
    /// What happened, where the restart failed.
    pub why: Option<String>,
}

/// The new owner, as its listen told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewOwner {
    /// The pid.
    pub pid: Option<u32>,
    /// The user.
    pub uid: Option<u32>,
    /// Its short name.
    pub comm: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
}

/// A restart under way.
#[derive(Debug, Default)]
pub struct Restart {
    /// The sockets of before: what they do is the old owner's.
    old: HashSet<String>,
    /// The new process's sockets.
    new: HashSet<String>,
    steps: Vec<(u64, Step, Option<u32>)>,
    released: Option<u64>,
    listening: Option<(u64, NewOwner)>,
    command_started: bool,
    failures: u32,
    why: Option<String>,
}

impl Restart {
    /// Notes a socket that held the port before anything was done.
    pub fn held_before(&mut self, line: &Line) {
        self.old.insert(socket(line));
    }

    /// Notes what the cleaning did.
    pub fn cleaned(&mut self, report: &CleanReport) {
        for ended in &report.owners {
            let pid = ended.owner.pid;
            let Some(signalled) = ended.signalled_ns else { continue };
            // Who can't be asked is forced at once.
            if ended.forced_ns != Some(signalled) {
                self.steps.push((signalled, Step::Sigterm, pid));
            }
            self.steps.extend(ended.forced_ns.map(|at| (at, Step::Sigkill, pid)));
            self.steps
                .extend(ended.ended_after_us.map(|after| (signalled + after * 1000, Step::Exited, pid)));
        }
        if self.released.is_none()
            && let Some(first) = self.steps.iter().map(|(at, ..)| *at).min()
        {
            self.released = report.released.as_ref().map(|released| first + released.after_us * 1000);
        }
    }

    /// Notes the command's start. What failed before was not its doing.
    pub fn command_started(&mut self, at: u64, pid: Option<u32>) {
        self.command_started = true;
        self.failures = 0;
        self.why = None;
        self.steps.push((at, Step::CommandStarted, pid));
    }

    /// Notes the command's end.
    pub fn command_ended(&mut self, at: u64, status: Option<i32>) {
        self.steps.push((at, Step::CommandEnded, None));
        if status != Some(0) {
            self.why = Some(match status {
                Some(status) => format!("the command ended with status {status}"),
                None => "a signal ended the command".to_owned(),
            });
        }
    }

    /// Whether somebody new took the port before the command was started: a supervisor's work.
    #[must_use]
    pub fn is_respawned(&self) -> bool {
        !self.command_started && !self.new.is_empty()
    }

    /// Whether a new owner listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// Takes in what happened to the port; the outcome, once it is decided.
    pub fn take_in(&mut self, line: &Line) -> Option<Outcome> {
        let at = line.monotonic_ns.unwrap_or_default();
        let is_new = !self.old.contains(&socket(line));
        match line.event {
            What::Bind | What::Listen if is_new => {
                self.new.insert(socket(line));
                let step = if line.event == What::Bind { Step::Bind } else { Step::Listen };
                self.steps.push((at, step, line.pid));
                if line.event == What::Listen && self.listening.is_none() {
                    let Line { pid, uid, comm, address, .. } = line.clone();
                    self.listening = Some((at, NewOwner { pid, uid, comm, address }));
                    return Some(Outcome::Restarted);
                }
            }
            What::Held if is_new => {
                self.new.insert(socket(line));
            }
            What::Release if !is_new => {
                self.old.remove(&socket(line));
                self.released = self.released.max(Some(at));
            }
            What::Release => {
                self.steps.push((at, Step::Lost, line.pid));
                self.new.remove(&socket(line));
                if self.listening.is_some() && self.new.is_empty() {
                    self.listening = None;
                    self.why = Some("the new owner ended again".to_owned());
                    return Some(Outcome::Crashed);
                }
                return self.failed("a new process took the port and ended before it listened");
            }
            What::Conflict if self.command_started => {
                self.steps.push((at, Step::Conflict, line.pid));
                return self.failed("a new process could not take the port");
            }
            _ => {}
        }
        None
    }

    fn failed(&mut self, why: &str) -> Option<Outcome> {
        self.failures += 1;
        let times = if self.failures == 1 { "once".to_owned() } else { format!("{} times", self.failures) };
        self.why = Some(format!("{why}, {times}"));
        (self.failures >= FAILURES).then_some(Outcome::Crashed)
    }

    /// The report, with the outcome of the whole.
    #[must_use]
    pub fn report(
        mut self,
        cleaned: CleanReport,
        outcome: Outcome,
        command: Option<CommandReport>,
    ) -> RestartReport {
        let signalled =
            |(_, step, _): &&(u64, Step, Option<u32>)| matches!(step, Step::Sigterm | Step::Sigkill);
        let base = self.steps.iter().filter(signalled).map(|(at, ..)| *at).min();
        let base = base.or_else(|| self.steps.iter().map(|(at, ..)| *at).min()).unwrap_or_default();
        self.steps.extend(self.released.map(|at| (at, Step::Released, None)));
        self.steps.sort_by_key(|(at, ..)| *at);
        let since = |at: u64| {
            (i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(base).unwrap_or(0)).div_euclid(1000)
        };
        let timeline = self.steps.iter().map(|&(at, step, pid)| At { at_us: since(at), step, pid }).collect();
        // What the timeline's numbers give, to the last digit.
        let downtime = self
            .released
            .zip(self.listening.as_ref())
            .map(|(from, (to, _))| u64::try_from(since(*to) - since(from)).unwrap_or(0));
        RestartReport {
            cleaned: CleanReport { outcome, ..cleaned },
            command,
            timeline,
            downtime_us: downtime,
            new_owner: self.listening.map(|(_, owner)| owner),
            why: if outcome == Outcome::Restarted { None } else { self.why },
        }
    }
}

/// What tells a line's socket from others: its cookie, or, where ports are polled, its address and its holder.
fn socket(line: &Line) -> String {
    line.socket.clone().unwrap_or_else(|| {
        let holder = line.pid.map(|pid| pid.to_string()).unwrap_or_default();
        format!("{} {holder}", line.address.as_deref().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Backend;

    fn line(event: What, socket: &str, at: u64) -> Line {
        Line {
            monotonic_ns: Some(at),
            socket: Some(socket.to_owned()),
            pid: Some(7),
            ..Line::blank(event, 80, Backend::Ebpf)
        }
    }

    #[test]
    fn only_a_new_sockets_listen_is_a_restart() {
        let mut restart = Restart::default();
        restart.held_before(&line(What::Held, "0x1", 0));
        assert_eq!(restart.take_in(&line(What::Release, "0x1", 5_000)), None);
        restart.command_started(6_000, None);
        assert_eq!(restart.take_in(&line(What::Bind, "0x2", 8_000)), None);
        assert!(!restart.is_respawned());
        assert_eq!(restart.take_in(&line(What::Listen, "0x2", 9_000)), Some(Outcome::Restarted));
        assert_eq!(restart.take_in(&line(What::Release, "0x2", 10_000)), Some(Outcome::Crashed));
    }

    #[test]
    fn the_downtime_is_what_the_timelines_numbers_give() {
        // given moments whose parts of a microsecond would round apart
        let mut restart = Restart::default();
        restart.held_before(&line(What::Held, "0x1", 0));
        restart.command_started(100, None);
        restart.take_in(&line(What::Release, "0x1", 1_900));
        restart.take_in(&line(What::Listen, "0x2", 3_100));
        let cleaned = CleanReport {
            port: 80,
            outcome: Outcome::Cleaned,
            backend: Backend::Ebpf,
            killed: Vec::new(),
            owners: Vec::new(),
            released: None,
            elapsed_us: 0,
        };
        let report = restart.report(cleaned, Outcome::Restarted, None);
        let at = |step| report.timeline.iter().find(|at| at.step == step).unwrap().at_us;
        let difference = at(Step::Listen) - at(Step::Released);
        assert_eq!(report.downtime_us, u64::try_from(difference).ok());
    }

    #[test]
    fn who_takes_the_port_before_the_command_is_a_supervisors() {
        let mut restart = Restart::default();
        restart.take_in(&line(What::Bind, "0x2", 1));
        assert!(restart.is_respawned());
    }

    #[test]
    fn what_fails_before_the_command_is_not_counted_against_it() {
        let mut restart = Restart::default();
        for socket in ["0x1", "0x2"] {
            restart.take_in(&line(What::Bind, socket, 1));
            restart.take_in(&line(What::Release, socket, 2));
        }
        restart.command_started(3, None);
        restart.take_in(&line(What::Bind, "0x3", 4));
        assert_eq!(restart.take_in(&line(What::Release, "0x3", 5)), None);
        assert_eq!(
            restart.why.as_deref(),
            Some("a new process took the port and ended before it listened, once")
        );
    }

    #[test]
    fn where_ports_are_polled_an_old_owner_is_known_by_address_and_pid() {
        let polled = |event, pid, at| Line {
            socket: None,
            address: Some("127.0.0.1:80".to_owned()),
            pid: Some(pid),
            ..line(event, "", at)
        };
        let mut restart = Restart::default();
        restart.held_before(&polled(What::Held, 7, 0));
        // The old one's release is no new process's failure.
        assert_eq!(restart.take_in(&polled(What::Release, 7, 1)), None);
        assert_eq!(restart.failures, 0);
        restart.command_started(2, None);
        assert_eq!(restart.take_in(&polled(What::Listen, 8, 3)), Some(Outcome::Restarted));
    }

    #[test]
    fn failures_in_a_row_are_a_crash_loop() {
        let mut restart = Restart::default();
        restart.command_started(1, None);
        let conflict = Line { socket: None, ..line(What::Conflict, "", 2) };
        let outcomes = [0; 3].map(|_| restart.take_in(&conflict));
        assert_eq!(outcomes, [None, None, Some(Outcome::Crashed)]);
    }
}
