//! The object of `restart`.

use std::net::SocketAddr;

use serde::Serialize;

use super::answers::CleanAnswer;
use super::values::{is_tcp, micros};
use crate::model::{Protocol, Reason, Step};
use crate::restart::{By, CommandRun, NewOwner, Restarted, TimelineStep};
use crate::steps::keep::Handover;

/// The object of `restart`: that of `clean`, with the outcome of the whole restart, and what followed.
#[derive(Debug, Serialize)]
pub(crate) struct RestartAnswer {
    #[serde(flatten)]
    cleaned: CleanAnswer,
    /// The command; null if there was none, or it was not run.
    command: Option<CommandJson>,
    /// What happened, and when.
    timeline: Vec<StepJson>,
    /// From the old owner's release to the new one's listen.
    downtime_us: Option<u64>,
    /// The new owner.
    new_owner: Option<NewOwnerJson>,
    /// Why the restart failed, if it did.
    why: Option<String>,
    /// With `--keep-listening` alone.
    #[serde(flatten)]
    handover: Option<HandoverJson>,
}

#[derive(Debug, Serialize)]
struct HandoverJson {
    /// The old owner's sockets, as the command gets them.
    kept: Vec<KeptJson>,
    /// How many connections were refused; null where that can't be told.
    refused: Option<u32>,
    /// How many were seen to wait until the new owner accepted; null where nobody took the sockets over.
    served_late: Option<u32>,
    /// Why there was an ordinary restart all the same.
    fallback: Option<String>,
}

#[derive(Debug, Serialize)]
struct KeptJson {
    address: String,
    /// Its number, which is null where systemd gives it, and its name in `LISTEN_FDNAMES`.
    fd: Option<usize>,
    name: String,
}

/// The object of a `restart` or an `exec` that has signalled nobody, because its command can't be run or its check failed.
#[derive(Debug, Serialize)]
pub(crate) struct NotRun<'a> {
    /// The port.
    pub(crate) port: u16,
    /// Its protocol, where that is not TCP.
    #[serde(skip_serializing_if = "is_tcp")]
    pub(crate) protocol: Protocol,
    /// `no_such_command` or `check_failed`.
    pub(crate) reason: Reason,
    /// The same as a sentence.
    pub(crate) why: String,
    /// The command, which was not run.
    pub(crate) command: NotRunCommand<'a>,
}

#[derive(Debug, Serialize)]
pub(crate) struct NotRunCommand<'a> {
    pub(crate) argv: &'a [String],
}

#[derive(Debug, Serialize)]
struct CommandJson {
    argv: Vec<String>,
    /// Its exit status; null while it runs, or when a signal ended it.
    status: Option<i32>,
    /// Its pid while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<u32>,
    /// Where its processes listen, if the restart failed and they run on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StepJson {
    /// Microseconds since the first signal; since the command's start if no process was signalled.
    at_us: i64,
    step: Step,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// What the process was asked to end with, where the step is `sigterm` and that is another signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
}

#[derive(Debug, Serialize)]
struct NewOwnerJson {
    pid: Option<u32>,
    uid: Option<u32>,
    comm: Option<String>,
    address: Option<String>,
    /// What makes it the asked-for one: `command`, `unit` or `rules`; null if nothing does.
    by: Option<&'static str>,
}

impl From<&Restarted> for RestartAnswer {
    fn from(restarted: &Restarted) -> Self {
        let command = |CommandRun { argv, status, running, listeners }: &CommandRun| CommandJson {
            argv: argv.clone(),
            status: *status,
            running: *running,
            listeners: listeners.iter().map(SocketAddr::to_string).collect(),
        };
        let step = |TimelineStep { at_us, step, pid, signal }: &TimelineStep| StepJson {
            at_us: *at_us,
            step: *step,
            pid: *pid,
            signal: signal.clone(),
        };
        let owner = |NewOwner { pid, uid, comm, address, by }: &NewOwner| NewOwnerJson {
            pid: *pid,
            uid: *uid,
            comm: comm.clone(),
            address: address.map(|address| address.to_string()),
            by: by.map(By::name),
        };
        let kept = |(address, fd, name): &(SocketAddr, Option<usize>, String)| KeptJson {
            address: address.to_string(),
            fd: *fd,
            name: name.clone(),
        };
        let handover = |Handover { sockets, refused, served_late, fallback }: &Handover| HandoverJson {
            kept: sockets.iter().map(kept).collect(),
            refused: *refused,
            served_late: *served_late,
            fallback: fallback.clone(),
        };
        Self {
            handover: restarted.handover.as_ref().map(handover),
            cleaned: CleanAnswer::from(&restarted.cleaned),
            command: restarted.command.as_ref().map(command),
            timeline: restarted.timeline.iter().map(step).collect(),
            downtime_us: restarted.downtime.map(micros),
            new_owner: restarted.new_owner.as_ref().map(owner),
            why: restarted.why.clone(),
        }
    }
}
