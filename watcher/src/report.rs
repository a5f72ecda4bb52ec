//! The machine-readable answers: the JSON that other programs rely on. Keys may be added, never changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clean::Cleaned;
use crate::clock;
use crate::end::{Action, Ended};
use crate::exclude::Relation;
use crate::observe::{Backend, SocketState};
use crate::outcome::Outcome;
use crate::owner::Owner;
use crate::process::Identity;
use crate::prove::Means;

/// The object of `owners`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnersReport {
    /// The port.
    pub port: u16,
    /// Who holds it.
    pub owners: Vec<OwnerReport>,
    /// How it was observed.
    pub backend: Backend,
}

/// The object of `clean`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CleanReport {
    /// The port.
    pub port: u16,
    /// How it was at the end.
    pub outcome: Outcome,
    /// How it was observed.
    pub backend: Backend,
    /// The pids that were signalled and are seen to be gone.
    pub killed: Vec<u32>,
    /// Every owner that was seen, and what became of it.
    pub owners: Vec<EndedReport>,
    /// The proof.
    pub released: Option<ReleasedReport>,
    /// From the first look to the answer, in microseconds.
    pub elapsed_us: u64,
}

/// The object of `wait`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WaitReport {
    /// The port.
    pub port: u16,
    /// What came.
    pub outcome: Outcome,
    /// How it was observed.
    pub backend: Backend,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
}

/// One owner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnerReport {
    /// The pid; null for an owner that can't be seen.
    pub pid: Option<u32>,
    /// When it began, RFC 3339 in UTC.
    pub start_time: Option<String>,
    /// The user.
    pub uid: Option<u32>,
    /// The process's short name.
    pub comm: Option<String>,
    /// Its arguments.
    pub argv: Option<Vec<String>>,
    /// Its executable.
    #[schema(value_type = Option<String>)]
    pub exe: Option<PathBuf>,
    /// The systemd unit that it belongs to.
    pub unit: Option<String>,
    /// The container that it runs in, by its id.
    pub container: Option<String>,
    /// The addresses that it listens on.
    pub listeners: Vec<String>,
    /// The verdict.
    pub identity: Identity,
    /// Why it is never ended.
    pub relation: Option<Relation>,
    /// Why that verdict.
    pub why: String,
    /// All of its sockets on the port.
    pub sockets: Vec<SocketReport>,
}

/// One socket of an owner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SocketReport {
    /// Address and port.
    pub address: String,
    /// What it does.
    pub state: SocketState,
    /// The cookie, in hexadecimal, as in `watch`.
    pub socket: Option<String>,
    /// The network namespace's inode number.
    pub netns: Option<u32>,
}

/// One owner and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EndedReport {
    /// The owner.
    #[serde(flatten)]
    pub owner: OwnerReport,
    /// What was done.
    pub action: Action,
    /// The means by which it went.
    pub ended_by: Option<String>,
    /// From its first signal until it was gone, in microseconds.
    pub ended_after_us: Option<u64>,
    /// When it was first signalled, on the monotonic clock that events are stamped with.
    pub signalled_ns: Option<u64>,
    /// When it was forced, on the same clock.
    pub forced_ns: Option<u64>,
}

/// The proof.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleasedReport {
    /// How the release is known.
    pub proof: Means,
    /// From the first signal until the port was back, in microseconds.
    pub after_us: u64,
    /// Whether a server without `SO_REUSEADDR` could bind as well; null where that could not be tried.
    pub plain_bind: Option<bool>,
}

impl From<&Owner> for OwnerReport {
    fn from(owner: &Owner) -> Self {
        let process = owner.process.as_ref();
        Self {
            pid: owner.pid,
            start_time: process.map(|process| timestamp(process.start_time.wall, 3)),
            uid: process.and_then(|process| process.uid).or(owner.uid),
            comm: process.map(|process| process.comm.clone()),
            argv: process.and_then(|process| process.argv.clone()),
            exe: process.and_then(|process| process.exe.clone()),
            unit: process.and_then(|process| process.unit.clone()),
            container: process.and_then(|process| process.container.clone()),
            listeners: owner.listeners().iter().map(SocketAddr::to_string).collect(),
            identity: owner.identity,
            relation: owner.relation,
            why: owner.why.clone(),
            sockets: owner
                .held
                .iter()
                .map(|held| SocketReport {
                    address: held.socket.address.to_string(),
                    state: held.socket.state,
                    socket: held.socket.cookie.map(cookie),
                    netns: held.socket.netns,
                })
                .collect(),
        }
    }
}

impl From<&Ended> for EndedReport {
    fn from(ended: &Ended) -> Self {
        Self {
            owner: OwnerReport::from(&ended.owner),
            action: ended.action,
            ended_by: ended.ended_by.map(str::to_owned),
            ended_after_us: ended.ended_after.map(micros),
            signalled_ns: ended.signalled_at.map(clock::monotonic_ns),
            forced_ns: ended.forced_at.map(clock::monotonic_ns),
        }
    }
}

impl From<&Cleaned> for CleanReport {
    fn from(cleaned: &Cleaned) -> Self {
        let killed = cleaned.owners.iter().filter(|ended| ended.action == Action::Killed);
        Self {
            port: cleaned.port,
            outcome: cleaned.outcome,
            backend: cleaned.backend,
            killed: killed.filter_map(|ended| ended.owner.pid).collect(),
            owners: cleaned.owners.iter().map(EndedReport::from).collect(),
            released: cleaned.released.map(|released| ReleasedReport {
                proof: released.means,
                after_us: micros(released.after),
                plain_bind: released.plain_bind,
            }),
            elapsed_us: micros(cleaned.elapsed),
        }
    }
}

/// A socket's cookie as it is written everywhere.
#[must_use]
pub fn cookie(cookie: u64) -> String {
    format!("{cookie:#x}")
}

impl OwnerReport {
    /// Whether it holds the port for itself rather than being connected from it.
    #[must_use]
    pub fn owns_port(&self) -> bool {
        self.sockets.iter().any(|socket| socket.state != SocketState::Connected)
    }
}

/// A duration in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A moment, RFC 3339 in UTC with `digits` of a second's fraction.
#[must_use]
pub fn timestamp(time: SystemTime, digits: usize) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.digits$}"))
}
