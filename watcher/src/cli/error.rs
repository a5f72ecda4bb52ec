//! What the command line says when it can't.

use std::io;

use crate::agent::AgentError;
use crate::agent::client::ClientError;
use crate::config::ConfigError;
use crate::observe::ObserveError;
use crate::platform::NetnsError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line is wrong: a sentence with the mend.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error(transparent)]
    Serving(#[from] AgentError),
    #[error("the answer can't be written: {0}")]
    Output(#[source] io::Error),
    #[error("{program} can't be run: {error}")]
    Command { program: String, error: io::Error },
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
}

impl CliError {
    /// The command line or the configuration is wrong.
    pub(crate) const USAGE: u8 = 2;
    const FAILED: u8 = 1;
    const NOT_PERMITTED: u8 = 6;

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Config(_)
            | Self::Netns(NetnsError::Open { .. } | NetnsError::Other(_) | NetnsError::Unsupported) => {
                Self::USAGE
            }
            Self::Observe(ObserveError::Unavailable { .. }) | Self::Netns(NetnsError::Enter { .. }) => {
                Self::NOT_PERMITTED
            }
            Self::Agent(ClientError::Absent { .. } | ClientError::Refused(_)) => Self::NOT_PERMITTED,
            Self::Serving(AgentError::Config(_)) => Self::USAGE,
            Self::Agent(_)
            | Self::Serving(_)
            | Self::Observe(_)
            | Self::Output(_)
            | Self::Io { .. }
            | Self::Command { .. } => Self::FAILED,
        }
    }
}
