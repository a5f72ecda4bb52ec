//! Observing by kernel events.

mod btf;
mod facts;
mod holders;
mod hooks;
mod load;
mod log;
mod offsets;
mod stream;
mod sys;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use aya::maps::{Array, Map, MapData};

use self::facts::Facts;
use self::hooks::Hooks;
use self::load::{Globals, LoadError, Loader};
use self::log::KernelLog;
use self::stream::Stream;
use super::netns::Netns;
use super::{diag, proc};
use crate::observe::{Backend, EventKind, Interest, Observation, ObserveError, Observer, Socket};
use crate::platform::Hook;

/// How far an observer sees.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// One network namespace.
    One(Netns),
    /// All of them, from this one. Sockets that no descriptor leads to are seen in this one alone.
    All(Netns),
}

impl Reach {
    fn home(&self) -> &Netns {
        match self {
            Self::One(netns) | Self::All(netns) => netns,
        }
    }

    /// The namespace's inode number, where there is but one.
    fn only(&self) -> Option<u32> {
        match self {
            Self::One(netns) => Some(netns.inode()),
            Self::All(_) => None,
        }
    }
}

/// Sees ports through the kernel program.
pub(crate) struct EbpfObserver {
    reach: Reach,
    ports: Ports,
    hooks: Hooks,
    /// None where snapshots are all that is wanted.
    stream: Option<Stream>,
    log: Option<KernelLog>,
}

impl EbpfObserver {
    /// Loads what the interest needs, and watches the ports.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] when not even snapshots and releases can be had.
    pub(crate) fn new(ports: &[u16], reach: Reach, interest: Interest) -> Result<Self, ObserveError> {
        Self::load(ports, reach, interest).map_err(|error| unavailable(&error))
    }

    fn load(ports: &[u16], reach: Reach, interest: Interest) -> Result<Self, LoadError> {
        let facts = if hooks::disabled("btf") { None } else { Facts::find()? };
        let wants_log = log::is_wanted();
        let globals = Globals {
            offsets: facts.map(|facts| facts.offsets),
            plain: if facts.is_some() { None } else { hooks::plain_offsets() },
            netns: reach.only().unwrap_or(0),
            pidns: proc::own_pid_namespace().unwrap_or(0),
            log: wants_log,
        };
        let mut loader = Loader::new(&globals, interest)?;
        let mut watched = Ports::new(loader.take_map("PORTS")?)?;
        watched.set(ports)?;
        let stream = if interest < Interest::Releases {
            None
        } else {
            let stream = Stream::new(loader.take_map("EVENTS")?, loader.take_map("LOST")?);
            Some(stream.map_err(|error| LoadError::Object(error.to_string()))?)
        };
        let hooks = Hooks::attach(&loader, facts.as_ref(), interest)?;
        let log = if wants_log { hooks.any_program().and_then(KernelLog::new) } else { None };
        Ok(Self { reach, ports: watched, hooks, stream, log })
    }

    /// What became of each hook.
    pub(crate) fn hooks(&self) -> &[Hook] {
        self.hooks.states()
    }

    /// Detaches all, and gives what became of each hook.
    pub(crate) fn into_hooks(self) -> Vec<Hook> {
        self.hooks.into_states()
    }
}

impl Observer for EbpfObserver {
    fn backend(&self) -> Backend {
        Backend::Ebpf
    }

    fn snapshot(&mut self, port: u16) -> Result<Vec<Socket>, ObserveError> {
        let failed = |error: io::Error| ObserveError::Snapshot { port, why: error.to_string() };
        let listed = match diag::sockets(self.reach.home(), port, self.hooks.iterator().is_none()) {
            Ok(listed) => listed,
            // Without holders from the iterator there would be nothing left to go by.
            Err(error) if self.hooks.iterator().is_none() => return Err(failed(error)),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not list sockets (sock_diag)");
                Vec::new()
            }
        };
        let Some(iterator) = self.hooks.iterator() else {
            let mut sockets = listed;
            proc::add_holders(&mut sockets).map_err(failed)?;
            return Ok(sockets);
        };
        let records = holders::read(iterator.as_fd()).map_err(failed)?;
        let only = self.reach.only();
        let wanted = |holder: &watcher_common::Holder| {
            holder.port == port && only.is_none_or(|netns| netns == holder.netns)
        };
        Ok(holders::join(records.into_iter().filter(wanted), listed))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        if let Some(log) = &mut self.log {
            log.poll(cx);
        }
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        stream.poll_next(cx).map_ok(|seen| self.with_cookie(seen)).map_err(ObserveError::Stream)
    }

    fn set_ports(&mut self, ports: &[u16]) -> Result<(), ObserveError> {
        self.ports.set(ports).map_err(|error| unavailable(&error))
    }

    fn may_hide_bound(&mut self, _port: u16) -> Result<bool, ObserveError> {
        // The iterator shows sockets that are bound and do not listen; the list does so since Linux 6.8.
        Ok(self.hooks.iterator().is_none() && !diag::lists_bound())
    }
}

impl EbpfObserver {
    /// The plain tracepoint of a listen gives no cookie. Without one, a connection that goes down with its listener
    /// could be taken for the listener itself, so the kernel is asked for it.
    fn with_cookie(&self, mut seen: Observation) -> Observation {
        if let Observation::Event(event) = &mut seen
            && event.kind == EventKind::Listen
            && event.cookie.is_none()
        {
            let listed = diag::sockets(self.reach.home(), event.address.port(), false).unwrap_or_default();
            event.cookie =
                listed.iter().find(|socket| socket.address == event.address).and_then(|socket| socket.cookie);
        }
        seen
    }
}

/// The map of watched ports, which the kernel program looks each port up in.
struct Ports {
    words: Array<MapData, u64>,
    now: Vec<u16>,
}

impl Ports {
    fn new(map: MapData) -> Result<Self, LoadError> {
        Ok(Self {
            words: Map::Array(map).try_into().map_err(|error| Self::refused(&error))?,
            now: Vec::new(),
        })
    }

    fn set(&mut self, ports: &[u16]) -> Result<(), LoadError> {
        let changed: BTreeSet<u16> = self.now.iter().chain(ports).map(|port| port >> 6).collect();
        for word in changed {
            let bits =
                ports.iter().filter(|&port| port >> 6 == word).fold(0, |bits, port| bits | 1 << (port & 63));
            self.words.set(u32::from(word), bits, 0).map_err(|error| Self::refused(&error))?;
        }
        ports.clone_into(&mut self.now);
        Ok(())
    }

    fn refused(error: &aya::maps::MapError) -> LoadError {
        LoadError::Map { name: "PORTS".to_owned(), error: error.to_string(), denied: false }
    }
}

fn unavailable(error: &LoadError) -> ObserveError {
    let mend = if error.is_denied() {
        "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_PTRACE".to_owned()
    } else {
        "`gatewatch doctor` says more; `--backend poll` works everywhere".to_owned()
    };
    ObserveError::Unavailable { what: "the eBPF backend".to_owned(), why: error.to_string(), mend }
}
