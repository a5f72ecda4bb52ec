//! Doctor: which backends work on this host, whether the host agent answers, which configuration there is, and how to fix
//! what doesn't work.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use strum::IntoStaticStr;

use crate::model::{Backend, Port};
use crate::platform::Host;
use crate::platform::contract::{Hook, ObserveError, Platform};

/// How often the cost of a poll is measured.
const POLLS: u32 = 5;

/// What works on this host.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// The backends, in the order in which commands prefer them.
    pub(crate) backends: Vec<BackendHealth>,
    /// The system's name and version.
    pub(crate) version: String,
}

impl Diagnosis {
    /// The backend that commands use by default; `None` if none works.
    pub(crate) fn chosen(&self) -> Option<Backend> {
        let works = |health: &&BackendHealth| health.state != BackendState::Unavailable;
        self.backends.iter().find(works).map(|health| health.backend)
    }
}

/// Whether a part works that a command asks, or reads.
#[derive(Debug)]
pub(crate) struct Health {
    /// The agent's socket, or the configuration's file.
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    pub(crate) why: Option<String>,
    /// How to fix it.
    pub(crate) mend: Option<String>,
}

/// The state of such a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum State {
    Ok,
    /// It is not there, and need not be.
    Absent,
    /// The agent answers, and not this user.
    Refuses,
    /// It is there, and is of no use.
    Broken,
}

impl State {
    /// The name in JSON and for people.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// The state of a backend.
#[derive(Debug)]
pub(crate) struct BackendHealth {
    pub(crate) backend: Backend,
    pub(crate) state: BackendState,
    /// Why it is unavailable.
    pub(crate) why: Option<String>,
    /// How to fix it.
    pub(crate) mend: Option<String>,
    pub(crate) hooks: Vec<Hook>,
    /// How long it took to load and attach everything, or how long one poll takes.
    pub(crate) cost: Option<Duration>,
}

/// Whether a backend works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum BackendState {
    Ok,
    /// Hooks are missing.
    Degraded,
    Unavailable,
}

impl BackendState {
    /// The name in JSON and for people.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// Tries each backend. Must run inside the runtime, because the stream of events registers with its reactor.
pub(crate) fn examine(host: &Host) -> Diagnosis {
    Diagnosis { backends: vec![by_events(host), by_polling(host)], version: Host::version() }
}

fn by_events(host: &Host) -> BackendHealth {
    let begun = Instant::now();
    match host.try_hooks() {
        Ok(hooks) => {
            let cost = Some(begun.elapsed());
            let whole = hooks.iter().all(|hook| hook.failure.is_none());
            let state = if whole { BackendState::Ok } else { BackendState::Degraded };
            BackendHealth { backend: Backend::Ebpf, state, why: None, mend: None, hooks, cost }
        }
        Err(error) => unavailable(Backend::Ebpf, error),
    }
}

fn by_polling(host: &Host) -> BackendHealth {
    let mut observer = host.by_polling(&[], Duration::from_secs(1));
    let begun = Instant::now();
    for _ in 0..POLLS {
        if let Err(error) = observer.snapshot(Port::GATEWAY) {
            return unavailable(Backend::Poll, error);
        }
    }
    BackendHealth {
        backend: Backend::Poll,
        state: BackendState::Ok,
        why: None,
        mend: None,
        hooks: Vec::new(),
        cost: Some(begun.elapsed() / POLLS),
    }
}

fn unavailable(backend: Backend, error: ObserveError) -> BackendHealth {
    let (why, mend) = match error {
        ObserveError::Unavailable { why, mend, .. } => (why, Some(mend)),
        other => (other.to_string(), None),
    };
    let state = BackendState::Unavailable;
    BackendHealth { backend, state, why: Some(why), mend, hooks: Vec::new(), cost: None }
}
