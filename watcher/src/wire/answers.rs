//! The objects of `owners`, `clean` and `wait`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::WireError;
use super::values::{cookie, is_tcp, micros, millis, read_address, read_cookie, read_timestamp, timestamp};
use crate::clean::{Cleaned, EndedBefore, LeftOut};
use crate::model::{
    Action, Backend, Descriptor, Exclusion, Fd, Naming, Outcome, Parent, Pod, PodName, Port, Process,
    ProcessState, ProofKind, Protocol, Reason, Socket, SocketState, StartTime, Verdict,
};
use crate::platform::clock;
use crate::steps::elsewhere::GatewayElsewhere;
use crate::steps::end::OwnerOutcome;
use crate::steps::owner::{Holding, Owner, Owners};
use crate::steps::prove::Proof;
use crate::wait::Waited;

/// The object of `owners`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnersReport)]
pub(crate) struct OwnersAnswer {
    /// The port.
    port: u16,
    /// Its protocol.
    #[serde(default)]
    protocol: Protocol,
    /// Who holds it: from the agent, 256 at most.
    owners: Vec<OwnerJson>,
    /// How many there are, where not all of them are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owners_total: Option<usize>,
    /// How it was observed.
    backend: Backend,
    /// Why it can't be bound although nobody owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// How long that lasts, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    free_in_ms: Option<u64>,
    /// Processes that are only connected from the port, where nobody owns it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<OwnerJson>,
}

/// The object of `clean`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CleanReport)]
pub(crate) struct CleanAnswer {
    /// The port.
    port: u16,
    /// Its protocol, where that is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    protocol: Protocol,
    /// How it was at the end.
    outcome: Outcome,
    /// Why, where the outcome alone does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// How long the port stays taken, in milliseconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    free_in_ms: Option<u64>,
    /// How it was observed.
    backend: Backend,
    /// The pids that were signalled and are seen to be gone.
    killed: Vec<u32>,
    /// Every owner that was seen, and what became of it: from the agent, 256 at most.
    owners: Vec<OwnerOutcomeJson>,
    /// How many there were, where not all of them are told. All of them were decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owners_total: Option<usize>,
    /// What was ended on the port a short while before, where the agent remembers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_before: Option<EndedBeforeJson>,
    /// Gateways that listen on other ports, where a gateway's port was found free.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gateways_elsewhere: Vec<GatewayElsewhereJson>,
    /// The proof.
    released: Option<ProofJson>,
    /// From the first look to the answer, in microseconds.
    elapsed_us: u64,
}

/// The object of `wait`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = WaitReport)]
pub(crate) struct WaitAnswer {
    /// The port.
    port: u16,
    /// Its protocol, where that is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    protocol: Protocol,
    /// What was reached.
    outcome: Outcome,
    /// How it was observed.
    backend: Backend,
    /// How long it took, in microseconds.
    elapsed_us: u64,
    /// Why, where the outcome alone does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The process that listens, or the one that still holds the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerJson>,
}

/// One owner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnerReport)]
struct OwnerJson {
    /// The pid; null for an owner that can't be seen.
    pid: Option<u32>,
    /// When it began, RFC 3339 in UTC.
    start_time: Option<String>,
    /// The user.
    uid: Option<u32>,
    /// The process's short name.
    comm: Option<String>,
    /// Its arguments.
    argv: Option<Vec<String>>,
    /// Whether the arguments are only the beginning: of a command line of more than 64 KiB no more is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    argv_cut: bool,
    /// Its executable. Bytes that are not UTF-8 are replaced.
    exe: Option<String>,
    /// The systemd unit that it belongs to.
    unit: Option<String>,
    /// The container that it runs in, by its id.
    container: Option<String>,
    /// The container's name; null where it has none, or it can't be read.
    #[serde(default)]
    container_name: Option<String>,
    /// The container's runtime, as it is known with the name: containerd, cri-o, docker or podman.
    #[serde(default)]
    container_runtime: Option<String>,
    /// Why the names of the container and its pod can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container_unnamed: Option<String>,
    /// The pod of Kubernetes that it belongs to.
    #[serde(default)]
    pod: Option<PodJson>,
    /// The addresses that it listens on.
    listeners: Vec<String>,
    /// The verdict.
    identity: Verdict,
    /// Why it is never ended.
    relation: Option<Exclusion>,
    /// Why that verdict.
    why: String,
    /// All of its sockets on the port.
    sockets: Vec<SocketJson>,
    /// Its working directory. Bytes that are not UTF-8 are replaced.
    #[serde(default)]
    cwd: Option<String>,
    /// The user's name.
    #[serde(default)]
    user: Option<String>,
    /// The process that started it, or that took it over since.
    #[serde(default)]
    parent: Option<ParentJson>,
    /// How long it has run, in milliseconds.
    #[serde(default)]
    age_ms: Option<u64>,
    /// Whether it is suspended, or its control group is frozen; false too for an owner that can't be seen.
    #[serde(default)]
    stopped: bool,
    /// The other ports that it listens on in its network namespace, the lowest 16 in order; null where that can't be told.
    #[serde(default)]
    other_ports: Option<Vec<u16>>,
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = PodReport)]
struct PodJson {
    /// Its name; null where it can't be read.
    name: Option<String>,
    /// The Kubernetes namespace that it is in; null where it can't be read.
    namespace: Option<String>,
    /// Its uid; null where neither its control group nor the runtime tells it.
    uid: Option<String>,
}

/// An owner's parent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ParentReport)]
struct ParentJson {
    pid: u32,
    /// Its short name; null where it can't be read.
    comm: Option<String>,
}

/// One socket of an owner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = SocketReport)]
struct SocketJson {
    /// Address and port.
    address: String,
    /// Its protocol, where that is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    protocol: Protocol,
    /// What it does.
    state: SocketState,
    /// The cookie, in hexadecimal, as in `watch`.
    socket: Option<String>,
    /// The network namespace's inode number.
    netns: Option<u32>,
    /// The number of a descriptor by which the owner holds it; null where it is not known.
    #[serde(default)]
    fd: Option<u32>,
}

/// One owner and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EndedReport)]
struct OwnerOutcomeJson {
    /// The owner.
    #[serde(flatten)]
    owner: OwnerJson,
    /// What was done.
    action: Action,
    /// The signal that it was asked to end with, or `close`; null if it was not asked.
    #[serde(default)]
    asked_by: Option<String>,
    /// The signal that ended it.
    ended_by: Option<String>,
    /// From its first signal until it was gone, in microseconds.
    ended_after_us: Option<u64>,
    /// When it was first signalled, on the monotonic clock of the events' timestamps.
    signalled_ns: Option<u64>,
    /// When it was forced, on the same clock.
    forced_ns: Option<u64>,
    /// The living children that it left behind, by pid.
    #[serde(default)]
    left: Vec<u32>,
}

/// A gateway that listens on other ports than the one that was asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = GatewayElsewhereReport)]
struct GatewayElsewhereJson {
    pid: u32,
    /// Its ports.
    ports: Vec<u16>,
}

/// Earlier cleans of the port through the agent that ended somebody.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EndedBeforeReport)]
struct EndedBeforeJson {
    /// How many there were.
    count: usize,
    /// How long ago the first of them was, in milliseconds.
    within_ms: u64,
    /// By how many callers, this one included.
    callers: usize,
}

/// The proof.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ReleasedReport)]
struct ProofJson {
    /// How the release is known.
    proof: ProofKind,
    /// From the first signal until the port was back, in microseconds.
    after_us: u64,
    /// Whether a server without `SO_REUSEADDR` could bind as well; null if that could not be tried.
    plain_bind: Option<bool>,
}

/// How many owners the agent tells of at most. One user's process can have thousands of children that hold its listener, and
/// each of them a command line of 64 KiB.
pub(crate) const MOST_OWNERS: usize = 256;

impl CleanAnswer {
    /// Leaves out what is more than the agent tells: first those that were left alone. What was ended is in `killed` all the
    /// same.
    pub(crate) fn bounded(mut self) -> Self {
        if self.owners.len() > MOST_OWNERS {
            self.owners_total = Some(self.owners_total.unwrap_or(self.owners.len()));
            self.owners.sort_by_key(|dealt| dealt.action == Action::Spared);
            self.owners.truncate(MOST_OWNERS);
            self.owners.sort_by_key(|dealt| dealt.owner.pid.unwrap_or(u32::MAX));
        }
        self
    }
}

fn total(told: usize, left_out: usize) -> Option<usize> {
    (left_out > 0).then_some(told + left_out)
}

fn left_out(told: usize, total: Option<usize>) -> usize {
    total.map_or(0, |total| total.saturating_sub(told))
}

impl From<&Owners> for OwnersAnswer {
    fn from(owners: &Owners) -> Self {
        Self {
            port: owners.port.number,
            protocol: owners.port.protocol,
            owners: owners.owners.iter().map(OwnerJson::from).collect(),
            owners_total: total(owners.owners.len(), owners.left_out),
            backend: owners.backend,
            reason: owners.reason,
            free_in_ms: owners.free_in.map(millis),
            clients: owners.clients.iter().map(OwnerJson::from).collect(),
        }
    }
}

impl TryFrom<OwnersAnswer> for Owners {
    type Error = WireError;

    fn try_from(answer: OwnersAnswer) -> Result<Self, WireError> {
        Ok(Self {
            left_out: left_out(answer.owners.len(), answer.owners_total),
            port: Port { protocol: answer.protocol, number: answer.port },
            owners: answer.owners.into_iter().map(Owner::try_from).collect::<Result<_, _>>()?,
            clients: answer.clients.into_iter().map(Owner::try_from).collect::<Result<_, _>>()?,
            reason: answer.reason,
            free_in: answer.free_in_ms.map(Duration::from_millis),
            backend: answer.backend,
        })
    }
}

impl From<&Cleaned> for CleanAnswer {
    fn from(cleaned: &Cleaned) -> Self {
        let killed = cleaned.owners.iter().filter(|dealt| dealt.action == Action::Killed);
        let killed =
            killed.filter_map(|dealt| dealt.owner.pid).chain(cleaned.left_out.killed.iter().copied());
        Self {
            port: cleaned.port.number,
            protocol: cleaned.port.protocol,
            outcome: cleaned.outcome,
            reason: cleaned.reason,
            free_in_ms: cleaned.free_in.map(millis),
            backend: cleaned.backend,
            killed: killed.collect(),
            owners: cleaned.owners.iter().map(OwnerOutcomeJson::from).collect(),
            owners_total: total(cleaned.owners.len(), cleaned.left_out.count),
            ended_before: cleaned.ended_before.map(|before| EndedBeforeJson {
                count: before.count,
                within_ms: millis(before.within),
                callers: before.callers,
            }),
            gateways_elsewhere: cleaned
                .gateways_elsewhere
                .iter()
                .map(|gateway| GatewayElsewhereJson { pid: gateway.pid, ports: gateway.ports.clone() })
                .collect(),
            released: cleaned.proof.map(|proof| ProofJson {
                proof: proof.kind,
                after_us: micros(proof.after),
                plain_bind: proof.plain_bind,
            }),
            elapsed_us: micros(cleaned.elapsed),
        }
    }
}

impl TryFrom<CleanAnswer> for Cleaned {
    type Error = WireError;

    fn try_from(answer: CleanAnswer) -> Result<Self, WireError> {
        let count = left_out(answer.owners.len(), answer.owners_total);
        let mut killed = answer.killed;
        if count == 0 {
            killed.clear();
        }
        killed.retain(|&pid| answer.owners.iter().all(|dealt| dealt.owner.pid != Some(pid)));
        Ok(Self {
            left_out: LeftOut { count, killed },
            port: Port { protocol: answer.protocol, number: answer.port },
            outcome: answer.outcome,
            reason: answer.reason,
            free_in: answer.free_in_ms.map(Duration::from_millis),
            backend: answer.backend,
            owners: answer.owners.into_iter().map(OwnerOutcome::try_from).collect::<Result<_, _>>()?,
            ended_before: answer.ended_before.map(|before| EndedBefore {
                count: before.count,
                within: Duration::from_millis(before.within_ms),
                callers: before.callers,
            }),
            gateways_elsewhere: answer
                .gateways_elsewhere
                .into_iter()
                .map(|gateway| GatewayElsewhere { pid: gateway.pid, ports: gateway.ports })
                .collect(),
            proof: answer.released.map(|released| Proof {
                kind: released.proof,
                after: Duration::from_micros(released.after_us),
                plain_bind: released.plain_bind,
            }),
            elapsed: Duration::from_micros(answer.elapsed_us),
        })
    }
}

impl From<&Waited> for WaitAnswer {
    fn from(waited: &Waited) -> Self {
        let Waited { port, outcome, reason, backend, elapsed, owner } = waited;
        Self {
            port: port.number,
            protocol: port.protocol,
            outcome: *outcome,
            backend: *backend,
            elapsed_us: micros(*elapsed),
            reason: *reason,
            owner: owner.as_ref().map(OwnerJson::from),
        }
    }
}

impl TryFrom<WaitAnswer> for Waited {
    type Error = WireError;

    fn try_from(answer: WaitAnswer) -> Result<Self, WireError> {
        let WaitAnswer { port, protocol, outcome, backend, elapsed_us, reason, owner } = answer;
        Ok(Self {
            port: Port { protocol, number: port },
            outcome,
            reason,
            backend,
            elapsed: Duration::from_micros(elapsed_us),
            owner: owner.map(Owner::try_from).transpose()?,
        })
    }
}

impl From<&Owner> for OwnerJson {
    fn from(owner: &Owner) -> Self {
        let process = owner.process.as_ref();
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let (container_runtime, container_name, container_unnamed) =
            match process.and_then(|process| process.naming.clone()) {
                Some(Naming::Known { runtime, name }) => (Some(runtime), name, None),
                Some(Naming::Unknown(why)) => (None, None, Some(why)),
                None => (None, None, None),
            };
        Self {
            pid: owner.pid,
            start_time: process.map(|process| timestamp(process.start_time.wall, 3)),
            uid: process.and_then(|process| process.uid).or(owner.uid),
            comm: process.map(|process| process.comm.clone()),
            argv: process.and_then(|process| process.argv.clone()),
            argv_cut: process.is_some_and(|process| process.argv_cut),
            exe: process.and_then(|process| process.exe.as_deref()).map(lossy),
            unit: process.and_then(|process| process.unit.clone()),
            container: process.and_then(|process| process.container.clone()),
            container_name,
            container_runtime,
            container_unnamed,
            pod: process.and_then(|process| process.pod.as_ref()).map(PodJson::from),
            listeners: owner.listeners().iter().map(SocketAddr::to_string).collect(),
            identity: owner.verdict,
            relation: owner.exclusion,
            why: owner.why.clone(),
            sockets: owner.holdings.iter().map(SocketJson::from).collect(),
            cwd: process.and_then(|process| process.cwd.as_deref()).map(lossy),
            user: process.and_then(|process| process.user.clone()),
            parent: process
                .and_then(|process| process.parent.as_ref())
                .map(|parent| ParentJson { pid: parent.pid, comm: parent.comm.clone() }),
            age_ms: owner.age.map(millis),
            stopped: process.is_some_and(|process| match process.state {
                ProcessState::Stopped | ProcessState::Frozen => true,
                ProcessState::Running | ProcessState::Uninterruptible | ProcessState::Leaving => false,
            }),
            other_ports: owner.other_ports.clone(),
        }
    }
}

impl TryFrom<OwnerJson> for Owner {
    type Error = WireError;

    /// What the JSON does not contain stays unknown: the session, the root, in which thread's table a descriptor is.
    fn try_from(json: OwnerJson) -> Result<Self, WireError> {
        let started = json.start_time.map(|time| read_timestamp("start_time", &time)).transpose()?;
        let process = started.zip(json.pid).map(|(wall, pid)| Process {
            pid,
            start_time: StartTime { raw: 0, wall },
            parent: json.parent.map(|parent| Parent { pid: parent.pid, comm: parent.comm }),
            session: None,
            uid: json.uid,
            effective_uid: None,
            user: json.user,
            state: if json.stopped { ProcessState::Stopped } else { ProcessState::Running },
            comm: json.comm.unwrap_or_default(),
            argv: json.argv,
            argv_cut: json.argv_cut,
            exe: json.exe.map(PathBuf::from),
            exe_owner: None,
            cwd: json.cwd.map(PathBuf::from),
            root: None,
            unit: json.unit,
            container: json.container,
            pod: json.pod.map(Pod::from),
            naming: match (json.container_runtime, json.container_unnamed) {
                (Some(runtime), _) => Some(Naming::Known { runtime, name: json.container_name }),
                (None, Some(why)) => Some(Naming::Unknown(why)),
                (None, None) => None,
            },
        });
        let holding = |socket: SocketJson| {
            let fd = |pid| socket.fd.map(|number| Fd { thread: pid, number });
            let descriptor = json.pid.map(|pid| Descriptor { pid, fd: fd(pid) });
            Ok(Holding { socket: Socket::try_from(socket)?, descriptor })
        };
        Ok(Self {
            process,
            age: json.age_ms.map(Duration::from_millis),
            pid: json.pid,
            uid: json.uid,
            holdings: json.sockets.into_iter().map(holding).collect::<Result<_, _>>()?,
            other_ports: json.other_ports,
            verdict: json.identity,
            why: json.why,
            exclusion: json.relation,
            spared_for: None,
            inherits: false,
        })
    }
}

impl From<&Pod> for PodJson {
    fn from(pod: &Pod) -> Self {
        let (name, namespace) = pod.name.clone().map(|pod| (pod.name, pod.namespace)).unzip();
        Self { name, namespace, uid: pod.uid.clone() }
    }
}

impl From<PodJson> for Pod {
    fn from(json: PodJson) -> Self {
        let name = json.name.zip(json.namespace).map(|(name, namespace)| PodName { namespace, name });
        Self { uid: json.uid, name }
    }
}

impl From<&Holding> for SocketJson {
    fn from(Holding { socket, descriptor }: &Holding) -> Self {
        Self {
            address: socket.address.to_string(),
            protocol: socket.protocol,
            state: socket.state,
            socket: socket.cookie.map(cookie),
            netns: socket.netns,
            fd: descriptor.as_ref().and_then(|descriptor| descriptor.fd).map(|fd| fd.number),
        }
    }
}

impl TryFrom<SocketJson> for Socket {
    type Error = WireError;

    fn try_from(json: SocketJson) -> Result<Self, WireError> {
        Ok(Self {
            cookie: json.socket.map(|text| read_cookie("socket", &text)).transpose()?,
            netns: json.netns,
            ..Self::new(json.protocol, read_address("address", &json.address)?, json.state)
        })
    }
}

impl From<&OwnerOutcome> for OwnerOutcomeJson {
    fn from(dealt: &OwnerOutcome) -> Self {
        Self {
            owner: OwnerJson::from(&dealt.owner),
            action: dealt.action,
            asked_by: dealt.asked_by.as_deref().map(str::to_owned),
            ended_by: dealt.ended_by.as_deref().map(str::to_owned),
            ended_after_us: dealt.ended_after.map(micros),
            signalled_ns: dealt.signalled_at.map(clock::monotonic_ns),
            forced_ns: dealt.forced_at.map(clock::monotonic_ns),
            left: dealt.left.clone(),
        }
    }
}

impl TryFrom<OwnerOutcomeJson> for OwnerOutcome {
    type Error = WireError;

    fn try_from(json: OwnerOutcomeJson) -> Result<Self, WireError> {
        Ok(Self {
            owner: json.owner.try_into()?,
            action: json.action,
            asked_by: json.asked_by.map(Into::into),
            ended_by: json.ended_by.map(Into::into),
            ended_after: json.ended_after_us.map(Duration::from_micros),
            signalled_at: json.signalled_ns.and_then(clock::at),
            forced_at: json.forced_ns.and_then(clock::at),
            left: json.left,
            starter: None,
        })
    }
}
