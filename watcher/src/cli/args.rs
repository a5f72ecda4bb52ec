//! The arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use regex::Regex;

use crate::port;

/// Gatewatch knows who owns a port, ends its stale owner, and proves that the port is free.
#[derive(Debug, Parser)]
#[command(name = "gatewatch", version, max_term_width = 110, after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Say more on standard error; twice for the kernel program's own diagnostics
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Only errors on standard error
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "Examples:
  gatewatch owners -p 18789                who holds the port
  gatewatch clean -p 18789                 end its stale gateway; answers once the port can be bound
  gatewatch clean -p 8080 --match-exe /usr/bin/my-server --dry-run
  gatewatch restart -p 18789 -- systemctl restart openclaw-gateway
  gatewatch watch -p 18789                 every bind, listen, release and conflict, as it happens
  gatewatch wait free -p 18789 --timeout 5s && my-server

Exit statuses of clean, restart and wait: 0 the port can be bound (or what was waited for came), 1 gatewatch or the
restart's command failed, 2 bad command line or configuration, 3 held by another process, 4 held by the caller or a protected process, 5 held
by an owner that can't be seen, 6 not permitted, 7 timed out, 8 taken by a new process.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say who holds a port now
    Owners(OwnersArgs),
    /// End the stale owners of a port, and answer once the port can be bound
    Clean(CleanArgs),
    /// Clean a port, run a command, and wait until a new owner listens
    Restart(RestartArgs),
    /// Print bind, listen, release and conflict events as they happen
    Watch(WatchArgs),
    /// Wait until a port can be bound, or until somebody listens on it
    Wait(WaitArgs),
    /// Run the host agent: holds the kernel programs, answers on its Unix socket
    Agent(AgentArgs),
    /// Say which backends work on this host, and what mends those that don't
    Doctor(DoctorArgs),
    /// Show it all on a stale gateway of its own
    Demo(DemoArgs),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// The gateway that the demo cleans
    #[command(hide = true)]
    DemoGateway {
        #[arg(value_parser = port::parse)]
        port: u16,
    },
}

/// How to observe: shared by all commands.
#[derive(Debug, Clone, Args)]
pub(super) struct Observing {
    /// How the port is observed; auto falls back to polling and says so
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(super) backend: BackendChoice,
    /// How often the polling backend looks
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub(super) poll_interval: Duration,
    /// The network namespace to look in: /run/netns/NAME or /proc/PID/ns/net [default: the caller's]
    #[arg(long, value_name = "PATH")]
    pub(super) netns: Option<PathBuf>,
    /// The configuration [default: /etc/gatewatch/config.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Write for people or for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) asking: Asking,
}

/// Whether to ask the host agent.
#[derive(Debug, Clone, Args)]
pub(super) struct Asking {
    /// Ask the host agent: where it answers, only (status 6 where it doesn't), or never
    #[arg(long, value_enum, default_value_t = AgentChoice::Auto)]
    pub(super) agent: AgentChoice,
    /// The agent's socket [default: GATEWATCH_SOCKET, then the configuration, then /run/gatewatch/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AgentChoice {
    Auto,
    Only,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BackendChoice {
    Auto,
    Ebpf,
    Poll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct OnePort {
    /// The TCP port [default: OPENCLAW_GATEWAY_PORT, then the configuration, then 18789]
    #[arg(short, long, value_name = "PORT", value_parser = port::parse)]
    pub(super) port: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct ManyPorts {
    /// A TCP port; repeatable [default: OPENCLAW_GATEWAY_PORT, then the configuration, then 18789]
    #[arg(short, long = "port", value_name = "PORT", value_parser = port::parse)]
    pub(super) ports: Vec<u16>,
}

#[derive(Debug, Args)]
pub(super) struct OwnersArgs {
    #[command(flatten)]
    pub(super) ports: ManyPorts,
    #[command(flatten)]
    pub(super) matching: Matching,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    #[command(flatten)]
    pub(super) port: OnePort,
    #[command(flatten)]
    pub(super) matching: Matching,
    #[command(flatten)]
    pub(super) sparing: Sparing,
    /// Say what would be ended, signal nobody
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The longest wait after SIGTERM: the grace for a clean exit
    #[arg(long, value_name = "DURATION", default_value = "600ms", value_parser = duration)]
    pub(super) term_timeout: Duration,
    /// The longest wait after SIGKILL
    #[arg(long, value_name = "DURATION", default_value = "400ms", value_parser = duration)]
    pub(super) kill_timeout: Duration,
    /// The longest wait for the port, once its owners are gone
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(super) free_timeout: Duration,
    #[command(flatten)]
    pub(super) observing: Observing,
}

impl Matching {
    /// Whether anything is given.
    pub(super) fn is_given(&self) -> bool {
        let Self { identity, match_comm, match_argv, match_exe } = self;
        identity.is_some() || match_comm.is_some() || match_argv.is_some() || match_exe.is_some()
    }
}

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    pub(super) clean: CleanArgs,
    /// The longest wait for a new owner to listen, once the port is clean
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(super) listen_timeout: Duration,
    /// How long the new owner has to stay before it counts
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    pub(super) settle: Duration,
    /// Take a process that a supervisor started by itself for the new owner
    #[arg(long)]
    pub(super) adopt: bool,
    /// What starts the new owner; without it, somebody else has to
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

/// Which owners may be ended. All that is given must match.
#[derive(Debug, Args)]
pub(super) struct Matching {
    /// A rule set by name: openclaw-gateway (the default without a --match), one of the configuration's, or any
    #[arg(long, value_name = "NAME")]
    pub(super) identity: Option<String>,
    /// The process's name contains TEXT, whatever its case
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) match_comm: Option<String>,
    /// The command line, joined by spaces, matches REGEX
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    pub(super) match_argv: Option<Regex>,
    /// The executable is PATH
    #[arg(long, value_name = "PATH")]
    pub(super) match_exe: Option<PathBuf>,
}

/// Who is never ended, besides the caller and its ancestors.
#[derive(Debug, Args)]
pub(super) struct Sparing {
    /// Never this process, nor its ancestors; repeatable
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub(super) protect: Vec<u32>,
    /// Never the main process of this systemd unit; `restart` restarts it where no command is given
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) unit: Option<String>,
    /// Let PID 1 be ended, where it matches: a container's own gateway
    #[arg(long)]
    pub(super) include_init: bool,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) ports: ManyPorts,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(super) lasting: Option<Duration>,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// What to wait for
    #[arg(value_enum)]
    pub(super) state: Awaited,
    #[command(flatten)]
    pub(super) port: OnePort,
    /// The longest wait [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Awaited {
    /// The port can be bound
    Free,
    /// Somebody listens on the port
    Listening,
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// The configuration [default: /etc/gatewatch/config.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where to answer [default: GATEWATCH_SOCKET, then the configuration, then /run/gatewatch/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Only say whether the configuration is right
    #[arg(long)]
    pub(super) check_config: bool,
    /// How often to look where kernel events can't be had
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub(super) poll_interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Write for people or for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Fail, with status 6, unless this backend works whole
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(super) backend: BackendChoice,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How the port is observed
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(super) backend: BackendChoice,
}

/// A duration with its unit: `600ms`, `2s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is written with its unit: 600ms, 2s, 1m".to_owned();
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong());
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let message = error.to_string();
        format!("it is no regular expression: {}", crate::config::last_line(&message))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("600ms"), Ok(Duration::from_millis(600)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for text in ["", "5", "-1s", "s", "1 parsec", "PT5S", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_milliseconds_and_seconds_are_exact(number in 0u32..) {
            prop_assert_eq!(duration(&format!("{number}ms")), Ok(Duration::from_millis(number.into())));
            prop_assert_eq!(duration(&format!("{number}s")), Ok(Duration::from_secs(number.into())));
        }

        #[test]
        fn any_text_is_a_duration_or_refused(text in ".{0,20}") {
            let _ = duration(&text);
        }
    }
}
