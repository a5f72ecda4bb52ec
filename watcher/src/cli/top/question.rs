//! What stands over the screen: a dry run and its question, a clean that goes on, an answer.

use crate::model::{Port, Process};

/// What a dry run has shown, and a person is asked to confirm.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) port: Port,
    /// What the dry run answered.
    pub(super) answer: Vec<String>,
    /// Who would be ended, all of them.
    pub(super) targets: Vec<Process>,
    /// Those among them that match no rule.
    pub(super) chosen: Vec<Process>,
    /// Whether the agent would end them, by its own rules.
    pub(super) by_agent: bool,
}

impl Plan {
    /// Whether both would end the same processes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let mut left: Vec<&Process> = other.targets.iter().collect();
        let all = self.targets.iter().all(|process| {
            let is_it = |it: &&Process| it.pid == process.pid && it.start_time.is_same(process.start_time);
            left.iter().position(is_it).map(|at| left.swap_remove(at)).is_some()
        });
        all && left.is_empty()
    }
}

/// What stands over the screen.
#[derive(Debug)]
pub(super) enum Dialog {
    /// The dry run goes on.
    Looking(Port),
    /// The dry run has shown who would be ended: may they?
    Ask(Plan),
    /// They are being ended.
    Cleaning(Port),
    /// An answer, until a key is pressed.
    Answer {
        title: String,
        lines: Vec<String>,
    },
    Help,
}
