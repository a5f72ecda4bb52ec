//! JSON that only the host agent sends or receives: its ports, its status, the body of a clean.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};

use super::values::is_tcp;
use crate::clean::Overrides;
use crate::model::{Backend, Port, Protocol};
use crate::steps::end::Timeouts;

/// The watched ports.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PortsReport)]
pub(crate) struct PortsAnswer {
    /// The ports.
    pub(crate) ports: Vec<WatchedPortJson>,
}

/// A watched port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WatchedReport)]
pub(crate) struct WatchedPortJson {
    /// The port.
    pub(crate) port: u16,
    /// The protocol, if it is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    #[schema(value_type = String)]
    pub(crate) protocol: Protocol,
    /// The rule set that says what may be ended on it.
    pub(crate) identity: String,
    /// Whether any process holds it, in any network namespace.
    pub(crate) held: bool,
    /// Whether the configuration names it, so that it can be cleaned.
    pub(crate) configured: bool,
}

impl WatchedPortJson {
    /// The port with its protocol.
    pub(crate) fn port(&self) -> Port {
        Port { protocol: self.protocol, number: self.port }
    }
}

/// The export of what happens. Why it does not work is among what is `degraded`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ExportReport)]
pub(crate) struct ExportJson {
    /// The servers.
    pub(crate) url: Vec<String>,
    /// What the events are filed under.
    pub(crate) subject: String,
    /// Whether it works: whether the last attempt did not fail.
    pub(crate) works: bool,
    /// How many events the server has confirmed since the agent's start, repeats among them.
    pub(crate) sent: u64,
    /// How many of them it had already.
    pub(crate) repeats: u64,
    /// How many events were not sent, because too many waited or the server refused them.
    pub(crate) dropped: u64,
    /// How many events wait.
    pub(crate) waiting: i64,
}

/// The history on disk. Why it can't be written is among what is `degraded`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = HistoryReport)]
pub(crate) struct HistoryJson {
    /// Its file.
    pub(crate) path: String,
    /// How long a record is kept, in seconds.
    pub(crate) keep_s: u64,
    /// How large the file becomes before older records go, in bytes.
    pub(crate) max_size: u64,
    /// Whether it works: whether the last attempt to write did not fail.
    pub(crate) works: bool,
    /// The number of its newest record that is on disk; 0 until one is written.
    pub(crate) newest: u64,
}

/// The guard of a port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = GuardReport)]
pub(crate) struct GuardJson {
    /// The port.
    pub(crate) port: u16,
    /// The protocol, if it is not TCP.
    #[serde(default, skip_serializing_if = "is_tcp")]
    #[schema(value_type = String)]
    pub(crate) protocol: Protocol,
    /// Who may bind it. Nobody yet, if it is not known: then everybody may.
    pub(crate) admitted: Vec<AdmittedJson>,
}

/// Who may bind a port that is guarded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AdmittedReport)]
pub(crate) struct AdmittedJson {
    /// By which program; null for any.
    pub(crate) program: Option<String>,
    /// The real user id; null for anybody.
    pub(crate) uid: Option<u32>,
}

impl fmt::Display for AdmittedJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.program, self.uid) {
            (Some(program), Some(uid)) => write!(f, "{program} by user {uid}"),
            (Some(program), None) => f.write_str(program),
            (None, uid) => write!(f, "user {}", uid.unwrap_or_default()),
        }
    }
}

/// That a process may bind guarded ports.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = OverrideReport)]
pub(crate) struct OverrideAnswer {
    /// The process that asked.
    pub(crate) pid: u32,
}

/// The agent's status.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StatusReport)]
pub(crate) struct StatusAnswer {
    /// The program's version.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Its socket.
    pub(crate) socket: String,
    /// What it was told.
    pub(crate) configuration: ConfigurationJson,
    /// How long it has been running, in seconds.
    pub(crate) uptime_s: u64,
    /// How ports are observed.
    pub(crate) backend: Backend,
    /// What the backend can't do here, and why.
    pub(crate) degraded: Vec<String>,
    /// The TCP ports that the configuration names.
    pub(crate) ports: Vec<u16>,
    /// And the UDP ports, if it names any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) udp_ports: Vec<u16>,
    /// Whether every port is followed, and not those alone.
    pub(crate) follows_all: bool,
    /// How many events have been dropped so far.
    pub(crate) lost: u64,
    /// How many clients read the event stream.
    pub(crate) subscribers: i64,
    /// The history on disk; absent if none is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<HistoryJson>,
    /// The export of what happens to a server elsewhere; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) export: Option<ExportJson>,
    /// The ports that are guarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) guards: Vec<GuardJson>,
    /// The capabilities that the agent has.
    pub(crate) capabilities: Vec<CapabilityJson>,
    /// Whether `no_new_privs` is set, so that no program that the agent runs can gain privileges.
    pub(crate) no_new_privileges: bool,
}

/// The configuration that is in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ConfigurationReport)]
pub(crate) struct ConfigurationJson {
    /// Its file.
    pub(crate) path: String,
    /// Whether there is such a file; the defaults are in force if not.
    pub(crate) exists: bool,
    /// The group that may read, besides root.
    pub(crate) group: Option<String>,
    /// Where metrics are served over TCP.
    pub(crate) metrics: Option<String>,
    /// Why the last reload failed, if it did: then an earlier configuration is in force.
    pub(crate) reload_failed: Option<String>,
}

/// A capability, and what it is needed for.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapabilityReport)]
pub(crate) struct CapabilityJson {
    /// Its name, as in capabilities(7).
    pub(crate) name: String,
    /// What it is needed for.
    pub(crate) needed: String,
}

/// The longest wait that a request may ask for; longer ones are cut.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How many pids a clean may protect.
pub(crate) const MOST_PROTECTED: usize = 64;

/// The options of a clean; all are optional. The caller may not choose what is ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CleanRequest {
    /// The longest wait after SIGTERM; of a user other than root, at most 60 s are taken, and so for the two below.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 18446744073709551615_u64)]
    term_timeout_ms: Option<u64>,
    /// The longest wait after SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 18446744073709551615_u64)]
    kill_timeout_ms: Option<u64>,
    /// The longest wait for the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 18446744073709551615_u64)]
    free_timeout_ms: Option<u64>,
    /// Pids of processes that are never ended, nor are their ancestors.
    #[serde(default)]
    #[schema(schema_with = pids)]
    pub(crate) protect: Vec<u32>,
    /// Report what would be ended, without signalling any process.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// End nobody unless that frees the addresses that the owners hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all_or_nothing: bool,
    /// Spare an owner that began less than this ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 18446744073709551615_u64)]
    min_age_ms: Option<u64>,
}

/// As described: any number that a pid can have, where the derived schema would end at half of them.
fn pids() -> Array {
    let pid = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX));
    ArrayBuilder::new()
        .items(pid)
        .max_items(Some(MOST_PROTECTED))
        .description(Some("Pids of processes that are never ended, nor are their ancestors"))
        .build()
}

impl CleanRequest {
    /// A request that leaves to the agent what the caller has not said.
    pub(crate) fn new(
        said: &Overrides,
        protect: &[u32],
        min_age: Option<Duration>,
        dry_run: bool,
        all_or_nothing: bool,
    ) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).ok();
        Self {
            term_timeout_ms: said.term.and_then(milliseconds),
            kill_timeout_ms: said.kill.and_then(milliseconds),
            free_timeout_ms: said.free.and_then(milliseconds),
            protect: protect.to_vec(),
            dry_run,
            all_or_nothing,
            min_age_ms: min_age.and_then(milliseconds),
        }
    }

    /// How long an owner must have run to be ended, where that is asked for.
    pub(crate) fn min_age(&self) -> Option<Duration> {
        self.min_age_ms.map(Duration::from_millis)
    }

    /// How long an agent may take over it: the waits that are asked for, and once more the first for a process that has let
    /// go of the port and is about to exit. Of one that is not, the agent's own rules may make as long as it allows.
    pub(crate) fn longest(&self) -> Duration {
        let said = self.overrides(LONGEST_WAIT);
        let term = said.term.unwrap_or(LONGEST_WAIT).saturating_mul(2);
        let Timeouts { kill, free, .. } = Timeouts::DEFAULT;
        term.saturating_add(said.kill.unwrap_or(kill)).saturating_add(said.free.unwrap_or(free))
    }

    /// The waits that are asked for, each at most `longest`.
    pub(crate) fn overrides(&self, longest: Duration) -> Overrides {
        let limit = |milliseconds: u64| Duration::from_millis(milliseconds).min(longest);
        Overrides {
            signal: None,
            term: self.term_timeout_ms.map(limit),
            kill: self.kill_timeout_ms.map(limit),
            free: self.free_timeout_ms.map(limit),
        }
    }
}
