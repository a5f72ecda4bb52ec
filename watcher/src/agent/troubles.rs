//! What the agent can't do at this moment, and why: by a word for the metrics, and in sentences for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

/// A part of the agent that may fail while the others work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Part {
    /// Kernel events, or a part of them.
    KernelEvents,
    /// The look at the kernel's sockets.
    Look,
    /// The history on disk.
    History,
    /// The configuration, which is an older one than that in the file.
    Configuration,
    /// The metrics over TCP.
    Metrics,
    /// The export of what happened to a server elsewhere.
    Export,
    /// The guard of ports.
    Guard,
}

impl Part {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

/// What is wrong, by part.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<BTreeMap<Part, String>>);

impl Troubles {
    /// Notes what is wrong with a part, or that it works, and tells the log when that changes.
    pub(super) fn note(&self, part: Part, wrong: Option<String>) {
        let mut troubles = self.troubles();
        match (wrong, troubles.get(&part)) {
            (Some(why), before) if before != Some(&why) => {
                warn!("{why}");
                troubles.insert(part, why);
            }
            (None, Some(_)) => {
                info!("no longer so: {}", troubles.remove(&part).unwrap_or_default());
            }
            _ => {}
        }
    }

    /// What is wrong with a part.
    pub(super) fn of(&self, part: Part) -> Option<String> {
        self.troubles().get(&part).cloned()
    }

    /// All that is wrong.
    pub(super) fn all(&self) -> Vec<String> {
        self.troubles().values().cloned().collect()
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
