//! Who is ended, and how: arguments of the commands that end owners.

use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::duration;
use crate::model::{EndSignal, Process};
use crate::owner_record::OwnerRecord;
use crate::steps::end;
use crate::steps::identify::Criteria;

// Which owners may be ended. All criteria that are given must match.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Matching {
    /// A rule set by name: openclaw-gateway (the default without a --match), one of the configuration's, or any
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) identity: Option<String>,
    /// Short for --identity any
    #[arg(long, conflicts_with = "identity")]
    pub(in crate::cli) any: bool,
    #[command(flatten)]
    pub(in crate::cli) criteria: Criteria,
    /// Processes that a person has chosen besides.
    #[arg(skip)]
    pub(in crate::cli) chosen: Vec<Process>,
    /// Where it is given, nobody else is ended: these are the processes that a person was shown.
    #[arg(skip)]
    pub(in crate::cli) only: Option<Vec<Process>>,
}

impl Matching {
    /// Whether any of these is given.
    pub(in crate::cli) fn is_given(&self) -> bool {
        let Self { identity, any, criteria, chosen, only } = self;
        *any || identity.is_some() || !chosen.is_empty() || only.is_some() || !criteria.is_empty()
    }
}

// Which processes are never ended, besides the caller and its ancestors.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Sparing {
    /// Never end this process or its ancestors; repeatable
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub(in crate::cli) protect: Vec<u32>,
    /// Never end the main process of this systemd unit, nor what that has started in the unit; without a command, `restart`
    /// restarts the unit
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(in crate::cli) unit: Option<String>,
    /// Allow PID 1 to be ended if it matches; but never that of gatewatch's own pid namespace, because gatewatch would end
    /// with it: end that one from outside
    #[arg(long)]
    pub(in crate::cli) include_init: bool,
    /// Spare an owner that began less than this ago
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(in crate::cli) min_age: Option<Duration>,
    /// Also end those that hold the very socket of a match, whatever they are: also a process manager, but no systemd
    #[arg(long)]
    pub(in crate::cli) inherited: bool,
    /// Spare the live gateway that OpenClaw's own record names (Linux): the record of this state folder or user, or a
    /// database by its path
    #[arg(long, value_name = "auto|PATH", value_parser = owner_record())]
    pub(in crate::cli) owner_record: Option<OwnerRecord>,
}

// Whether to ask a person before a process that matches no rule is ended.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Confirming {
    /// Where a process that matches no rule holds the port, end it without asking. On a terminal, and without this flag, you
    /// are asked
    #[arg(long, conflicts_with = "no_input")]
    pub(in crate::cli) yes: bool,
    /// Never ask
    #[arg(long)]
    pub(in crate::cli) no_input: bool,
}

// How owners are ended, where that is not the rule set's to say.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct EndingArgs {
    /// What owners are asked to end with [default: TERM, or the rule set's]
    #[arg(long, value_name = "NAME", value_enum, ignore_case = true)]
    pub(in crate::cli) signal: Option<SignalName>,
    /// Never force: an owner that outlives --term-timeout has survived
    #[arg(long)]
    pub(in crate::cli) no_kill: bool,
    /// Wait for the exit of the ended processes, or for the port alone
    #[arg(long, value_enum, default_value_t = UntilEnded::Exited)]
    pub(in crate::cli) until: UntilEnded,
    /// Where only connections in TIME_WAIT keep the port, take them away (Linux; needs CAP_NET_ADMIN)
    #[arg(long)]
    pub(in crate::cli) drop_time_wait: bool,
}

/// The names of signals on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(in crate::cli) enum SignalName {
    #[value(alias = "SIGTERM")]
    Term,
    #[value(alias = "SIGINT")]
    Int,
    #[value(alias = "SIGQUIT")]
    Quit,
    #[value(alias = "SIGHUP")]
    Hup,
    #[value(alias = "SIGUSR1")]
    Usr1,
    #[value(alias = "SIGUSR2")]
    Usr2,
}

impl From<SignalName> for EndSignal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::Term => Self::Term,
            SignalName::Int => Self::Int,
            SignalName::Quit => Self::Quit,
            SignalName::Hup => Self::Hup,
            SignalName::Usr1 => Self::Usr1,
            SignalName::Usr2 => Self::Usr2,
        }
    }
}

/// What the answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum UntilEnded {
    Released,
    Exited,
}

impl From<UntilEnded> for end::Until {
    fn from(until: UntilEnded) -> Self {
        match until {
            UntilEnded::Released => Self::Released,
            UntilEnded::Exited => Self::Exited,
        }
    }
}

fn owner_record() -> impl TypedValueParser<Value = OwnerRecord> {
    PathBufValueParser::new().map(OwnerRecord::from)
}
