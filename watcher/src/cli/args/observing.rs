//! How ports are observed, and how that is told: arguments of all commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{duration, written};
use crate::agent::SOCKET_VARIABLE;
use crate::platform::Host;
use crate::platform::contract::{self, POLL_INTERVAL, Platform};

// How to observe: shared by all commands.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Observing {
    /// How to observe the port; auto falls back to polling and says so
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(in crate::cli) backend: BackendChoice,
    /// Poll interval of the polling backend
    #[arg(long, value_name = "DURATION", default_value = written(POLL_INTERVAL), value_parser = duration)]
    pub(in crate::cli) poll_interval: Duration,
    /// The network namespace to look in: /run/netns/NAME or /proc/PID/ns/net [default: the caller's]
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) netns: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = config_help())]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Write text for people or JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) asking: Asking,
}

// Whether to ask the host agent.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Asking {
    /// Whether to ask the host agent: if it answers, always (status 6 if it doesn't), or never
    #[arg(long, value_enum, default_value_t = AgentChoice::Auto)]
    pub(in crate::cli) agent: AgentChoice,
    #[arg(long, value_name = "PATH", help = socket_help())]
    pub(in crate::cli) socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AgentChoice {
    Auto,
    Only,
    Never,
}

/// How to observe, as given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum BackendChoice {
    Auto,
    Ebpf,
    Poll,
}

impl From<BackendChoice> for contract::BackendChoice {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => Self::Auto,
            BackendChoice::Ebpf => Self::Ebpf,
            BackendChoice::Poll => Self::Poll,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    Text,
    Json,
}

pub(super) fn config_help() -> String {
    format!("The configuration [default: {}, if it exists]", Host::CONFIG)
}

pub(super) fn socket_help() -> String {
    format!(
        "The agent's socket [default: {SOCKET_VARIABLE}, then the configuration, then {}]",
        Host::AGENT_SOCKET
    )
}
