//! The arguments.

mod ending;
mod observing;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(super) use self::ending::{Confirming, EndingArgs, Matching, Sparing, UntilEnded};
pub(super) use self::observing::{AgentChoice, BackendChoice, Format, Observing};
use self::observing::{config_help, socket_help};
use super::exit;
use super::ports::Ports;
use crate::clean::Overrides;
use crate::model::{EndSignal, Port};
use crate::platform::contract::POLL_INTERVAL;
use crate::steps::end::Timeouts;
use crate::steps::keep::Keeper;
use crate::wait::Until;

/// Gatewatch knows who owns a port, ends its stale owner, and proves that the port is free.
#[derive(Debug, Parser)]
#[command(name = "gatewatch", version, max_term_width = 110, after_help = after_help())]
pub(super) struct Arguments {
    /// Print more on standard error; twice for the kernel program's own diagnostics
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Print only errors on standard error
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) color: colorchoice_clap::Color,
    #[command(subcommand)]
    pub(super) command: Command,
}

pub(super) const EXAMPLES: &str = "Examples:
  gatewatch 3000                           who holds the port, and what would free it
  gatewatch clean 3000                     end its stale owner; asks if that is not a gateway
  gatewatch exec 3000 --any -- npm run dev   free the port, whoever has it, and be its server
  gatewatch clean 18789                    end a stale OpenClaw gateway; answers once the port can be bound
  gatewatch clean 8080 --match-exe /usr/bin/my-server --dry-run
  gatewatch restart 18789 --unit openclaw-gateway
  gatewatch restart 8080 --any --keep-listening -- my-server    a restart in which no connection is refused
  gatewatch top                            every port that is held, as a live screen
  gatewatch watch 80 443                   every bind, listen, release and conflict, as it happens
  gatewatch wait free 8080 --timeout 5s && my-server";

fn after_help() -> String {
    format!("{EXAMPLES}\n\nExit statuses of clean, restart and wait: {}.", exit::describe())
}

/// The flags of a command are put together only where that command is given: those of all take a fifth of a start. A `///`
/// on a struct of flags would take the place of the description that the command has here, so these have plain comments.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum Command {
    /// Print who holds a port now
    Owners(OwnersArgs),
    /// Print every socket that holds a port, with its owner
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// End the stale owners of a port, and return once the port can be bound
    Clean(CleanArgs),
    /// Clean a port, run a command, and wait until a new owner listens
    Restart(RestartArgs),
    /// Clean a port, then become a command: free my port, then be my server
    Exec(ExecArgs),
    /// Print bind, listen, release and conflict events as they happen
    Watch(WatchArgs),
    /// Print what happened to ports in a span of time, as the host agent has recorded it
    History(HistoryArgs),
    /// Wait until a port can be bound, or until a process listens on it
    Wait(WaitArgs),
    /// Show ports, their owners and what happens to them on a live screen; q ends it
    Top(TopArgs),
    /// Run the host agent: it keeps the kernel programs loaded and answers on its Unix socket
    Agent(AgentArgs),
    /// Print which backends work on this host, and how to fix those that don't
    Doctor(DoctorArgs),
    /// Demonstrate all of this on a stale gateway that the demo starts itself
    Demo(DemoArgs),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write a page for each command
    Man {
        /// Write all pages into this folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// The gateway that the demo cleans
    #[command(hide = true)]
    DemoGateway { port: Port },
}

#[derive(Debug, Args)]
pub(super) struct OwnersArgs {
    #[command(flatten)]
    pub(super) ports: Ports,
    #[command(flatten)]
    pub(super) matching: Matching,
    /// End with status 3 if a process holds the port
    #[arg(long)]
    pub(super) exit_code: bool,
    /// Print pids only, one a line
    #[arg(long)]
    pub(super) pids: bool,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// TCP ports; without --udp, only these
    #[arg(long)]
    pub(super) tcp: bool,
    /// UDP ports; without --tcp, only these
    #[arg(long)]
    pub(super) udp: bool,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CleanArgs {
    #[command(flatten)]
    pub(super) ports: Ports,
    #[command(flatten)]
    pub(super) matching: Matching,
    #[command(flatten)]
    pub(super) sparing: Sparing,
    /// Print what would be ended, without signalling any process
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Longest wait after SIGTERM for a clean exit
    #[arg(long, value_name = "DURATION", value_parser = duration, help = term_help())]
    pub(super) term_timeout: Option<Duration>,
    /// Longest wait after SIGKILL
    #[arg(long, value_name = "DURATION", value_parser = duration, help = kill_help())]
    pub(super) kill_timeout: Option<Duration>,
    /// Longest wait for the port to become free once its owners are gone
    #[arg(long, value_name = "DURATION", value_parser = duration, help = free_help())]
    pub(super) free_timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) ending: EndingArgs,
    #[command(flatten)]
    pub(super) confirming: Confirming,
    #[command(flatten)]
    pub(super) observing: Observing,
    /// Where the listening sockets of those that are ended are kept.
    #[arg(skip)]
    pub(super) keeper: Option<Keeper>,
}

impl CleanArgs {
    /// What is said of how to end owners.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            signal: self.ending.signal.map(EndSignal::from),
            term: self.term_timeout,
            kill: self.kill_timeout,
            free: self.free_timeout,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    pub(super) clean: CleanArgs,
    /// Longest wait for a new owner to listen, once the port is clean
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(super) listen_timeout: Duration,
    /// How long the new owner must keep listening before it counts: many servers try their port before they take it
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub(super) settle: Duration,
    /// End the command, with its process group, if the restart does not succeed
    #[arg(long)]
    pub(super) kill_on_failure: bool,
    /// Run this by the shell before anything else; if it fails, no process is signalled
    #[arg(long, value_name = "CMD")]
    pub(super) check: Option<String>,
    /// Draw the phases of the restart into this file, as a picture in SVG
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Accept a process that a supervisor started by itself as the new owner
    #[arg(long)]
    pub(super) adopt: bool,
    /// Never stop listening (Linux 5.6): take the old owner's listening sockets over before it is asked to end, and hand
    /// them to the command as descriptors 3 and up (LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, as systemd does), or to
    /// the unit through systemd's store (FileDescriptorStoreMax=). What connects meanwhile waits. A command that does not
    /// use them is ended, and started again without them
    #[arg(long, conflicts_with = "adopt")]
    pub(super) keep_listening: bool,
    /// The command that starts the new owner; without it, a supervisor must start it
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub(super) clean: CleanArgs,
    /// Run this by the shell before anything else; if it fails, no process is signalled
    #[arg(long, value_name = "CMD")]
    pub(super) check: Option<String>,
    /// Let the command bind ports that the agent guards, with what it starts, until it ends: for root
    #[arg(long = "override")]
    pub(super) overrides_guards: bool,
    /// The command to become
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) ports: Ports,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// Print times in UTC; without it they are local
    #[arg(long)]
    pub(super) utc: bool,
    /// Watch every port
    #[arg(long, conflicts_with_all = ["words", "flags"])]
    pub(super) all: bool,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(super) lasting: Option<Duration>,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Ports: 3000, :3000, 3000,3001, 3000-3005, 127.0.0.1:3000, [::1]:3000, localhost:3000
    /// [default: every port that is held; with --agent only, the agent's]
    #[command(flatten)]
    pub(super) ports: Ports,
    #[command(flatten)]
    pub(super) matching: Matching,
    #[command(flatten)]
    pub(super) sparing: Sparing,
    /// Print times in UTC; without it they are local
    #[arg(long)]
    pub(super) utc: bool,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    pub(super) ports: Ports,
    /// From when on: a time (RFC 3339), or a duration back from now
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) since: String,
    /// Until when [default: now]
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Draw who held which port into this file, as a picture in SVG, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Print times in UTC; without it they are local
    #[arg(long)]
    pub(super) utc: bool,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// What to wait for
    #[arg(value_enum)]
    pub(super) state: Awaited,
    #[command(flatten)]
    pub(super) ports: Ports,
    /// Longest wait [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    /// `free`: until a server that does not set SO_REUSEADDR can bind as well
    #[arg(long)]
    pub(super) plain: bool,
    /// `listening`: until a process that matches listens
    #[command(flatten)]
    pub(super) matching: Matching,
    /// `listening`: until this process listens
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub(super) pid: Option<u32>,
    /// `listening`: until it has listened for this long
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    pub(super) settle: Duration,
    #[command(flatten)]
    pub(super) observing: Observing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Awaited {
    /// The port can be bound
    Free,
    /// A process listens on the port; of UDP, it is bound to it
    #[value(alias = "bound")]
    Listening,
}

impl From<Awaited> for Until {
    fn from(awaited: Awaited) -> Self {
        match awaited {
            Awaited::Free => Self::Free,
            Awaited::Listening => Self::Listening,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[arg(long, value_name = "FILE", help = config_help())]
    pub(super) config: Option<PathBuf>,
    #[arg(long, value_name = "PATH", help = socket_help())]
    pub(super) socket: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub(super) check_config: bool,
    /// Poll interval when kernel events are unavailable
    #[arg(long, value_name = "DURATION", default_value = written(POLL_INTERVAL), value_parser = duration)]
    pub(super) poll_interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Write text for people or JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Fail, with status 6, unless this backend works completely
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(super) backend: BackendChoice,
    #[arg(long, value_name = "FILE", help = config_help())]
    pub(super) config: Option<PathBuf>,
    #[arg(long, value_name = "PATH", help = socket_help())]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How to observe the port
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(super) backend: BackendChoice,
}

/// A duration with its unit: `600ms`, `2s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    crate::duration::parse(text)
        .ok_or_else(|| "a duration is written with its unit: 600ms, 2s, 1m".to_owned())
}

/// A duration in the form that [`duration`] parses.
fn written(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds.is_multiple_of(1000) {
        format!("{}s", milliseconds / 1000)
    } else {
        format!("{milliseconds}ms")
    }
}

fn term_help() -> String {
    let default = written(Timeouts::DEFAULT.term);
    format!(
        "Longest wait after SIGTERM: the grace for a clean exit [default: {default} for openclaw-gateway, 5s for others, \
         or the rule set's]"
    )
}

fn kill_help() -> String {
    format!("Longest wait after SIGKILL [default: {}]", written(Timeouts::DEFAULT.kill))
}

fn free_help() -> String {
    let default = written(Timeouts::DEFAULT.free);
    format!("Longest wait for the port, once its owners are gone [default: {default}]")
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

    proptest! {
        #[test]
        fn a_written_duration_is_parsed_as_the_same(milliseconds in 0u32..) {
            let time = Duration::from_millis(milliseconds.into());
            prop_assert_eq!(duration(&written(time)), Ok(time));
        }
    }
}
