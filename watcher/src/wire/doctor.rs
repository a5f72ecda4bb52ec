//! The object of `doctor`.

use serde::Serialize;

use super::agent::StatusAnswer;
use super::values::micros;
use crate::doctor::{BackendHealth, Diagnosis, Health};
use crate::model::Backend;
use crate::platform::contract::Hook;

/// The object of `doctor`.
#[derive(Debug, Serialize)]
pub(crate) struct DoctorAnswer<'a> {
    /// The backend that `--backend auto` chooses, or `none`.
    backend: &'static str,
    backends: Vec<BackendJson<'a>>,
    kernel: &'a str,
    agent: AgentJson<'a>,
    configuration: PartJson<'a>,
}

#[derive(Debug, Serialize)]
struct AgentJson<'a> {
    #[serde(flatten)]
    health: PartJson<'a>,
    /// What it says of itself.
    status: Option<&'a StatusAnswer>,
}

#[derive(Debug, Serialize)]
struct PartJson<'a> {
    path: String,
    /// `ok`, `absent`, `refuses` or `broken`.
    state: &'static str,
    why: Option<&'a str>,
    mend: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct BackendJson<'a> {
    name: Backend,
    /// `ok`, `degraded`, or `unavailable`.
    state: &'static str,
    why: Option<&'a str>,
    mend: Option<&'a str>,
    hooks: Vec<HookJson<'a>>,
    /// How long it took to load and attach everything, or how long one poll takes.
    cost_us: Option<u64>,
}

#[derive(Debug, Serialize)]
struct HookJson<'a> {
    name: &'static str,
    gives: &'static str,
    state: &'static str,
    why: Option<&'a str>,
}

impl<'a> DoctorAnswer<'a> {
    pub(crate) fn new(
        diagnosis: &'a Diagnosis,
        agent: &'a Health,
        status: Option<&'a StatusAnswer>,
        configuration: &'a Health,
    ) -> Self {
        Self {
            backend: diagnosis.chosen().map_or("none", Backend::name),
            backends: diagnosis.backends.iter().map(BackendJson::from).collect(),
            kernel: &diagnosis.version,
            agent: AgentJson { health: agent.into(), status },
            configuration: configuration.into(),
        }
    }
}

impl<'a> From<&'a Health> for PartJson<'a> {
    fn from(health: &'a Health) -> Self {
        Self {
            path: health.path.display().to_string(),
            state: health.state.name(),
            why: health.why.as_deref(),
            mend: health.mend.as_deref(),
        }
    }
}

impl<'a> From<&'a BackendHealth> for BackendJson<'a> {
    fn from(health: &'a BackendHealth) -> Self {
        Self {
            name: health.backend,
            state: health.state.name(),
            why: health.why.as_deref(),
            mend: health.mend.as_deref(),
            hooks: health.hooks.iter().map(HookJson::from).collect(),
            cost_us: health.cost.map(micros),
        }
    }
}

impl<'a> From<&'a Hook> for HookJson<'a> {
    fn from(hook: &'a Hook) -> Self {
        let state = if hook.failure.is_none() { "active" } else { "missing" };
        Self { name: hook.name, gives: hook.gives, state, why: hook.failure.as_deref() }
    }
}
