//! What the agent's history on disk holds.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use strum::{EnumString, IntoStaticStr, VariantNames};

use super::event::WatchEvent;
use super::outcome::{Action, Outcome, Reason};
use super::port::Port;

/// A numbered line of the history. The numbers say what came first, also where the wall clock was set back in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its number.
    pub(crate) number: u64,
    /// What happened.
    pub(crate) told: Told,
    /// More of the process that the event names, or that asked for the clean.
    pub(crate) process: Described,
    /// It was not seen when it happened, only found afterwards: an agent was not there, or events were lost.
    pub(crate) found: bool,
}

/// What a record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Something happened to a port.
    Event(WatchEvent),
    /// The agent was asked to clean a port, and did what it could.
    Clean(Box<CleanTold>),
    /// Nothing, or not all, is known of a span of time.
    Gap(Gap),
}

impl Told {
    /// The name of a clean's line.
    pub(crate) const CLEAN: &str = "clean";
    /// The name of a gap's line.
    pub(crate) const GAP: &str = "gap";

    /// The name of its line, in JSON and in subjects.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Event(event) => event.kind.name(),
            Self::Clean(_) => Self::CLEAN,
            Self::Gap(_) => Self::GAP,
        }
    }

    /// Its port; a gap has none, nor have events that were lost.
    pub(crate) fn port(&self) -> Option<Port> {
        match self {
            Self::Event(event) => Some(event.port).filter(|&port| port != Port::EVERY),
            Self::Clean(clean) => Some(clean.port),
            Self::Gap(_) => None,
        }
    }

    /// Its moment on the wall clock; of a gap, the end.
    pub(crate) fn time(&self) -> SystemTime {
        match self {
            Self::Event(event) => event.time,
            Self::Clean(clean) => clean.time,
            Self::Gap(gap) => gap.until,
        }
    }
}

/// A clean that the agent was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CleanTold {
    /// When it had ended.
    pub(crate) time: SystemTime,
    /// The port.
    pub(crate) port: Port,
    /// The network namespace in which it was cleaned.
    pub(crate) netns: Option<u32>,
    /// Who asked.
    pub(crate) pid: Option<u32>,
    /// Its user.
    pub(crate) uid: Option<u32>,
    /// Its short name.
    pub(crate) comm: Option<String>,
    /// Whether nobody was to be signalled.
    pub(crate) dry_run: bool,
    /// What became of the port.
    pub(crate) outcome: Outcome,
    /// Why, where the outcome does not say.
    pub(crate) reason: Option<Reason>,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// The owners; of many, the first few.
    pub(crate) owners: Vec<OwnerTold>,
}

/// What became of an owner in a clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerTold {
    /// Its pid, where it could be seen.
    pub(crate) pid: Option<u32>,
    /// Its user.
    pub(crate) uid: Option<u32>,
    /// Its short name.
    pub(crate) comm: Option<String>,
    /// An address that it held.
    pub(crate) address: Option<SocketAddr>,
    /// What was done.
    pub(crate) action: Action,
    /// By which signal it ended.
    pub(crate) ended_by: Option<String>,
    /// From its first signal until it was gone.
    pub(crate) ended_after: Option<Duration>,
    /// Why it was judged so.
    pub(crate) why: String,
    /// More of it.
    pub(crate) process: Described,
}

/// A span of time of which not all is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Its beginning; `None` where the history has none.
    pub(crate) from: Option<SystemTime>,
    /// Its end.
    pub(crate) until: SystemTime,
    /// Why.
    pub(crate) why: GapReason,
}

/// Why a span of time is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum GapReason {
    /// No agent ran: the last one had been told to end.
    Stopped,
    /// No agent ran: the last one ended without being told to. Of its last second, not all may be known.
    Killed,
    /// The host was started anew meanwhile.
    Rebooted,
    /// It is before the history's beginning, or was deleted because of its age or size.
    NotKept,
    /// It could not be written, for example because the disk was full.
    NotWritten,
}

impl GapReason {
    /// The name in JSON and on disk.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// What is known of a process besides what an event names. What could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Described {
    /// When it began.
    pub(crate) start_time: Option<SystemTime>,
    /// Its user's name.
    pub(crate) user: Option<String>,
    /// Its arguments, cut at [`LONGEST_ARGV`].
    pub(crate) argv: Option<Vec<String>>,
    /// Whether they were longer.
    pub(crate) argv_cut: bool,
    /// Its executable.
    pub(crate) exe: Option<String>,
    /// Its systemd unit.
    pub(crate) unit: Option<String>,
    /// Its container.
    pub(crate) container: Option<String>,
}

/// So many bytes of a command line are kept.
pub(crate) const LONGEST_ARGV: usize = 1024;

/// By what a socket is known again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SocketKey {
    /// Its port.
    pub(crate) port: Port,
    /// Its network namespace.
    pub(crate) netns: Option<u32>,
    /// Its cookie, which no other socket gets until the next boot.
    pub(crate) cookie: Option<u64>,
    /// Without a cookie, its address.
    pub(crate) address: Option<SocketAddr>,
}

impl SocketKey {
    /// The address counts only where there is no cookie.
    pub(crate) fn new(
        port: Port,
        netns: Option<u32>,
        cookie: Option<u64>,
        address: Option<SocketAddr>,
    ) -> Self {
        Self { port, netns, cookie, address: address.filter(|_| cookie.is_none()) }
    }
}

/// A socket of which the history has the beginning, and not yet the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenSocket {
    /// By what it is known again.
    pub(crate) key: SocketKey,
    /// The number of the record of its beginning.
    pub(crate) began: u64,
    /// Its address.
    pub(crate) address: Option<SocketAddr>,
    /// Its first process.
    pub(crate) pid: Option<u32>,
    /// That process's user.
    pub(crate) uid: Option<u32>,
    /// That process's short name.
    pub(crate) comm: Option<String>,
    /// More of that process.
    pub(crate) process: Described,
    /// Whether it listened.
    pub(crate) listens: bool,
}

/// What is asked of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// The ports; none means all.
    pub(crate) ports: Vec<Port>,
    /// The network namespace; `None` for all.
    pub(crate) netns: Option<u32>,
    /// From when.
    pub(crate) since: SystemTime,
    /// Until when.
    pub(crate) until: SystemTime,
}
