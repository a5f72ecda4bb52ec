//! Exit statuses, and the message on standard error when a command fails.

use std::io;
use std::path::PathBuf;

use crate::agent::AgentError;
use crate::agent::client::ClientError;
use crate::config::ConfigError;
use crate::model::Outcome;
use crate::owner_record::RecordError;
use crate::platform::contract::{NetnsError, ObserveError};

/// The exit statuses. Scripts rely on them, so a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    HeldByOther,
    HeldByProtected,
    Unknown,
    NotPermitted,
    TimedOut,
    Respawned,
    /// Any other: that of a command that was run in this program's place.
    Command(u8),
}

/// Each status, its number, and its meaning.
const MEANINGS: [(Exit, u8, &str); 9] = [
    (Exit::Done, 0, "the port can be bound (or what was waited for happened)"),
    (Exit::Failed, 1, "gatewatch or the restart's command failed"),
    (Exit::Usage, 2, "bad command line or configuration"),
    (Exit::HeldByOther, 3, "held by another process"),
    (Exit::HeldByProtected, 4, "held by the caller or a protected process"),
    (Exit::Unknown, 5, "held by an owner that can't be seen"),
    (Exit::NotPermitted, 6, "not permitted"),
    (Exit::TimedOut, 7, "timed out"),
    (Exit::Respawned, 8, "taken by a new process"),
];

impl Exit {
    /// The number that the process exits with.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Command(status) => status,
            _ => MEANINGS.iter().find(|(exit, ..)| *exit == self).map_or(1, |(_, status, _)| *status),
        }
    }
}

/// Which of several statuses is told: failures first, then in the order in which the outcomes of several holders of one
/// port are told.
const WORST_FIRST: [Exit; 8] = [
    Exit::Failed,
    Exit::Usage,
    Exit::NotPermitted,
    Exit::TimedOut,
    Exit::HeldByProtected,
    Exit::Respawned,
    Exit::HeldByOther,
    Exit::Unknown,
];

impl Exit {
    /// The status of a command that several ports were given to: that of the worst.
    pub(crate) fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        let exits: Vec<Self> = exits.into_iter().collect();
        WORST_FIRST.into_iter().find(|worst| exits.contains(worst)).unwrap_or(Self::Done)
    }
}

/// The statuses and their meanings.
pub(crate) fn meanings() -> [(u8, &'static str); 9] {
    MEANINGS.map(|(_, status, meaning)| (status, meaning))
}

/// As [`meanings`], for the help text.
pub(crate) fn describe() -> String {
    MEANINGS.map(|(_, status, meaning)| format!("{status} {meaning}")).join(", ")
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Free
            | Outcome::Cleaned
            | Outcome::WouldClean
            | Outcome::Listening
            | Outcome::Restarted => Self::Done,
            Outcome::CommandFailed | Outcome::Crashed => Self::Failed,
            Outcome::HeldByOther => Self::HeldByOther,
            Outcome::HeldByProtected => Self::HeldByProtected,
            Outcome::Unknown => Self::Unknown,
            Outcome::NotPermitted => Self::NotPermitted,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Respawned => Self::Respawned,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Invalid usage; the text says how to fix it.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// The agent broke off while it told what happened, and nobody else may tell it.
    #[error("{0}; nothing is known of what followed")]
    Followed(#[source] ClientError),
    /// The history on disk, which no agent told, is not this user's to read.
    #[error("no agent tells this user its history, and the file {path} is root's to read: ask as root, or start the agent and join its group", path = path.display())]
    NotReadersHistory { path: PathBuf },
    #[error("the history {path} can't be read: {why}", path = path.display())]
    History { path: PathBuf, why: String },
    #[error(transparent)]
    Serving(#[from] AgentError),
    #[error("the answer can't be written: {0}")]
    Output(#[source] io::Error),
    #[error("{program} can't be run: {error}")]
    Command { program: String, error: io::Error },
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
}

impl From<&CliError> for Exit {
    fn from(error: &CliError) -> Self {
        match error {
            CliError::Usage(_)
            | CliError::Config(_)
            | CliError::Record(_)
            | CliError::Serving(AgentError::Config(_))
            | CliError::Netns(NetnsError::Open { .. } | NetnsError::Other(_) | NetnsError::Unsupported) => {
                Self::Usage
            }
            CliError::Observe(ObserveError::Unavailable { .. })
            | CliError::Followed(_)
            | CliError::NotReadersHistory { .. }
            | CliError::Netns(NetnsError::Enter { .. })
            | CliError::Agent(
                ClientError::Absent { .. }
                | ClientError::Silent { .. }
                | ClientError::Late { .. }
                | ClientError::Refused(_)
                | ClientError::Untold(_),
            ) => Self::NotPermitted,
            CliError::Agent(_)
            | CliError::Serving(_)
            | CliError::Observe(_)
            | CliError::Output(_)
            | CliError::History { .. }
            | CliError::Io { .. }
            | CliError::Command { .. } => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statuses_are_counted_from_0() {
        assert!(
            MEANINGS
                .iter()
                .enumerate()
                .all(|(at, (exit, status, _))| { usize::from(*status) == at && exit.status() == *status })
        );
    }
}
