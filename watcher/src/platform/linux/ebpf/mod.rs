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

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use aya::maps::{Array, Map, MapData};

use self::facts::Facts;
pub(crate) use self::hooks::Hook;
use self::hooks::Hooks;
use self::load::{Globals, LoadError, Loader};
use self::log::KernelLog;
use self::stream::Stream;
use super::netns::Netns;
use super::{diag, proc};
use crate::observe::{Backend, EventKind, Interest, Observation, ObserveError, Observer, Socket};

/// Sees ports through the kernel program.
pub(crate) struct EbpfObserver {
    netns: Netns,
    hooks: Hooks,
    /// None where snapshots are all that is wanted.
    stream: Option<Stream>,
    log: Option<KernelLog>,
}

impl EbpfObserver {
    /// Loads what the interest needs, and watches the ports in one network namespace.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] when not even snapshots and releases can be had.
    pub(crate) fn new(ports: &[u16], netns: &Netns, interest: Interest) -> Result<Self, ObserveError> {
        Self::load(ports, netns, interest).map_err(|error| unavailable(&error))
    }

    fn load(ports: &[u16], netns: &Netns, interest: Interest) -> Result<Self, LoadError> {
        let facts = if hooks::disabled("btf") { None } else { Facts::find()? };
        let wants_log = log::is_wanted();
        let globals = Globals {
            offsets: facts.map(|facts| facts.offsets),
            plain: if facts.is_some() { None } else { hooks::plain_offsets() },
            netns: netns.inode(),
            pidns: proc::own_pid_namespace().unwrap_or(0),
            log: wants_log,
        };
        let mut loader = Loader::new(&globals, interest)?;
        // Programs are loaded with the numbers of their maps' descriptors, which must be open by then.
        let _open_until_loaded = watch_ports(loader.take_map("PORTS")?, ports)?;
        let stream = if interest < Interest::Releases {
            None
        } else {
            let stream = Stream::new(loader.take_map("EVENTS")?, loader.take_map("LOST")?);
            Some(stream.map_err(|error| LoadError::Object(error.to_string()))?)
        };
        let hooks = Hooks::attach(&loader, facts.as_ref(), interest)?;
        let log = if wants_log { hooks.any_program().and_then(KernelLog::new) } else { None };
        Ok(Self { netns: netns.clone(), hooks, stream, log })
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
        let listed = match diag::sockets(&self.netns, port, self.hooks.iterator().is_none()) {
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
        let here = self.netns.inode();
        Ok(holders::join(
            records.into_iter().filter(|holder| holder.port == port && holder.netns == here),
            listed,
        ))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        if let Some(log) = &mut self.log {
            log.poll(cx);
        }
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        stream.poll_next(cx).map_ok(|seen| self.with_cookie(seen)).map_err(ObserveError::Stream)
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
            let listed = diag::sockets(&self.netns, event.address.port(), false).unwrap_or_default();
            event.cookie =
                listed.iter().find(|socket| socket.address == event.address).and_then(|socket| socket.cookie);
        }
        seen
    }
}

fn watch_ports(map: MapData, ports: &[u16]) -> Result<Array<MapData, u64>, LoadError> {
    let refused = |error: aya::maps::MapError| LoadError::Map {
        name: "PORTS".to_owned(),
        error: error.to_string(),
        denied: false,
    };
    let mut words: Array<_, u64> = Map::Array(map).try_into().map_err(refused)?;
    for port in ports {
        let word = u32::from(port >> 6);
        let now = words.get(&word, 0).map_err(refused)?;
        words.set(word, now | 1 << (port & 63), 0).map_err(refused)?;
    }
    Ok(words)
}

fn unavailable(error: &LoadError) -> ObserveError {
    let mend = if error.is_denied() {
        "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_PTRACE".to_owned()
    } else {
        "`gatewatch doctor` says more; `--backend poll` works everywhere".to_owned()
    };
    ObserveError::Unavailable { what: "the eBPF backend".to_owned(), why: error.to_string(), mend }
}
