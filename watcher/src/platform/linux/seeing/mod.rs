//! Observes ports by kernel events, together with netlink's socket tables.

mod address;
mod attach;
mod btf;
mod bucket;
mod callbacks;
mod diag;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod guard;
mod holders;
mod hooks;
mod kept;
mod kernel_layout;
mod kernel_version;
mod load;
mod log;
mod look;
mod netns;
mod offsets;
mod other_ports;
mod pins;
mod ports;
mod proc_net;
mod refused;
mod reuse;
mod socket_table;
mod stream;
mod sys;
mod tracefs;
mod udp_release;
mod unheld;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use self::attach::Hooks;
use self::diag::States;
use self::guard::KernelGuard;
use self::holders::{Holders, Reach};
use self::hooks::Part;
pub(super) use self::hooks::Wanted;
use self::kept::{Kept, KeptProgram};
use self::kernel_layout::KernelLayout;
use self::load::{Globals, LoadError, Loader};
use self::log::KernelLog;
pub(super) use self::netns::Netns;
use self::pins::{Maps, Pins};
use self::ports::Ports;
pub(super) use self::reuse::reuses_address;
pub(super) use self::socket_table::LinuxTable;
use self::stream::Stream;
use self::udp_release::Going;
use super::processes::proc;
use crate::model::{Backend, EventKind, LostIn, Observation, Port, Protocol, Socket, SocketState};
use crate::platform::contract::{
    AgentObserver, Guard, Hook, Interest, ObserveError, Observer, Relieved, TimeWaits,
};
use crate::platform::poll::SocketTable as _;

/// How often to look whether the hooks are still attached.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Which network namespaces an observer sees.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// This one.
    One(Netns),
    /// All of them, from this one. Sockets that no descriptor leads to are seen only in this one.
    All(Netns),
}

impl Scope {
    fn home(&self) -> &Netns {
        match self {
            Self::One(netns) | Self::All(netns) => netns,
        }
    }

    /// The namespace's inode number; `None` for all.
    fn only(&self) -> Option<u32> {
        match self {
            Self::One(netns) => Some(netns.inode()),
            Self::All(_) => None,
        }
    }
}

/// Observes ports through the kernel program.
pub(crate) struct EbpfObserver {
    scope: Scope,
    ports: Ports,
    /// `None` if the kernel program was kept from an earlier command: then it finds holders, and there is no more of it.
    loader: Option<Loader>,
    layout: Option<KernelLayout>,
    hooks: Hooks,
    /// Whether the kernel's table of taken ports can be asked: tried when it is first wanted.
    knows_buckets: Option<bool>,
    /// `None` if the kernel has no iterator for it.
    holders: Option<Holders>,
    /// Where its program is kept, for this command to use alone. It comes after the ports, which are given up first.
    kept: Option<Kept>,
    /// `None` if the interest is in snapshots alone.
    stream: Option<Stream>,
    /// What the stream is read from, to be pinned; only where all network namespaces are seen.
    maps: Option<Maps>,
    /// Where it is pinned.
    pins: Option<Pins>,
    /// A UDP socket that is about to give its port back. What comes after it waits for it.
    going: Option<Going>,
    /// When to look whether the hooks are still attached; `None` if none can be detached by others.
    checks: Option<Interval>,
    log: Option<KernelLog>,
}

impl EbpfObserver {
    /// Loads what is wanted, and watches the ports.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] if not even snapshots and releases are available.
    pub(crate) fn new(ports: &[Port], scope: Scope, wanted: Wanted) -> Result<Self, ObserveError> {
        // What is asked for later must not be refused then: who waits for a release would wait for ever.
        let wanted = if kernel_version::may_lack_events() { wanted.with_releases() } else { wanted };
        let mut observer = Self::load(ports, scope.clone(), wanted).map_err(|error| unavailable(&error))?;
        if observer.holders.is_none() && observer.stream.is_none() {
            // Without the iterator, events are all that this backend has. A kernel that refuses them too is not to be told as
            // one that lacks the iterator alone.
            observer =
                Self::load(ports, scope, wanted.with_releases()).map_err(|error| unavailable(&error))?;
        }
        observer.hooks.check(wanted).map_err(|error| unavailable(&error))?;
        Ok(observer)
    }

    /// Tries all hooks, and detaches them again: for each, whether it could be attached, or why not.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(crate) fn try_hooks(scope: Scope) -> Result<Vec<Hook>, ObserveError> {
        let mut observer = Self::load(&[], scope, Wanted::ALL).map_err(|error| unavailable(&error))?;
        if let Some(loader) = &observer.loader {
            observer.hooks.attach_guard(loader, observer.layout.as_ref());
        }
        Ok(observer.hooks.into_states())
    }

    fn load(ports: &[Port], scope: Scope, wanted: Wanted) -> Result<Self, LoadError> {
        let interest = wanted.interest();
        let wants_log = log::is_wanted();
        let mut kept = if interest < Interest::Releases && !wants_log { Self::kept(&scope) } else { None };
        if let Some(program) = kept.as_mut().and_then(Kept::take) {
            match Self::of_kept(ports, scope.clone(), wanted, program) {
                Ok(observer) => return Ok(Self { kept, ..observer }),
                Err(error) => tracing::debug!(%error, "what was kept is of no use"),
            }
        }
        let layout = if Part::Btf.is_switched_off() { None } else { KernelLayout::find()? };
        let globals = Globals {
            offsets: layout.as_ref().map(|layout| layout.offsets),
            plain: if layout.is_some() || interest < Interest::Releases {
                None
            } else {
                Some(offsets::find_plain().map_err(LoadError::Tracepoints)?)
            },
            log: wants_log,
            ..Self::globals(&scope)
        };
        let mut loader = Loader::new(&globals, wanted)?;
        let kept_maps = kept.as_ref().and_then(|_| loader.copy_of(kept::MAPS));
        let mut watched = Ports::new(loader.take_map("PORTS")?)?;
        watched.set(ports)?;
        let (mut stream, mut maps) = (None, None);
        if interest >= Interest::Releases {
            let refused = |error: std::io::Error| LoadError::Object(error.to_string());
            let (events, lost) = (loader.take_map("EVENTS")?, loader.take_map("LOST")?);
            if scope.only().is_none() {
                maps = Some(Maps::of(&events, &lost).map_err(refused)?);
            }
            stream = Some(Stream::new(events, lost).map_err(refused)?);
        }
        let mut hooks = Hooks::attach(&loader, layout.as_ref(), wanted)?;
        let iterator = hooks.take_iterator();
        if let (Some(kept), Some(maps), Some(iterator), Some(_)) = (&mut kept, &kept_maps, &iterator, &layout)
        {
            kept.keep(iterator.program.as_fd(), maps);
            watched.is_kept = true;
        }
        let holders = match iterator {
            Some(iterator) => {
                let (found, progress) = (loader.take_map("HELD")?, loader.take_map("PROGRESS")?);
                Some(Holders::new(iterator, found, progress, scope.home())?)
            }
            None => None,
        };
        let checks = hooks.can_be_detached().then(checks);
        let log = if wants_log { hooks.any_program().and_then(KernelLog::new) } else { None };
        Ok(Self {
            loader: Some(loader),
            layout,
            kept,
            stream,
            maps,
            checks,
            log,
            ..Self::of_snapshots(scope, watched, hooks, holders)
        })
    }

    /// Where the program that finds holders is kept; `None` if it is not, or another command uses it.
    fn kept(scope: &Scope) -> Option<Kept> {
        Kept::open(&Self::globals(scope).settings())
    }

    /// By the program as it was kept, for snapshots alone.
    fn of_kept(
        ports: &[Port],
        scope: Scope,
        wanted: Wanted,
        KeptProgram { iterator, ports: watched, found, progress, is_tried }: KeptProgram,
    ) -> Result<Self, LoadError> {
        let mut watched = Ports::new(watched)?;
        watched.is_kept = true;
        watched.set(ports)?;
        let holders = Holders::new(iterator, found, progress, scope.home())?;
        Ok(Self {
            knows_buckets: (is_tried && !Part::Bucket.is_switched_off()).then_some(true),
            ..Self::of_snapshots(scope, watched, Hooks::only_iterator(wanted), Some(holders))
        })
    }

    /// One that has nothing but what snapshots take.
    fn of_snapshots(scope: Scope, ports: Ports, hooks: Hooks, holders: Option<Holders>) -> Self {
        Self {
            scope,
            ports,
            loader: None,
            layout: None,
            hooks,
            knows_buckets: None,
            holders,
            kept: None,
            stream: None,
            maps: None,
            pins: None,
            going: None,
            checks: None,
            log: None,
        }
    }

    /// What the kernel program is told of these namespaces.
    fn globals(scope: &Scope) -> Globals {
        Globals {
            scope: scope.only().unwrap_or(0),
            home: scope.home().inode(),
            pidns: proc::own_pid_namespace().unwrap_or(0),
            ..Globals::default()
        }
    }

    /// For each hook, whether it is attached, or why not.
    pub(crate) fn hooks(&self) -> &[Hook] {
        self.hooks.states()
    }
}

impl Observer for EbpfObserver {
    fn backend(&self) -> Backend {
        Backend::Ebpf
    }

    fn home(&self) -> Option<u32> {
        Some(self.scope.home().inode())
    }

    fn look(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        self.look_at(ports, None)
    }

    fn look_in(&mut self, ports: &[Port], netns: u32) -> Result<Vec<Socket>, ObserveError> {
        self.look_at(ports, Some(netns))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        if let Some(log) = &mut self.log {
            log.poll(cx);
        }
        if let Some(checks) = &mut self.checks
            && checks.poll_tick(cx).is_ready()
        {
            // Wakes the task at the next tick.
            let _ = checks.poll_tick(cx);
            if self.hooks.attach_again() {
                return Poll::Ready(Ok(Observation::Lost(None, LostIn::Anywhere)));
            }
        }
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        loop {
            if let Some(going) = &mut self.going {
                ready!(going.poll_gone(self.scope.home(), cx));
            }
            if let Some(gone) = self.going.take() {
                return Poll::Ready(Ok(gone.into_observation()));
            }
            match ready!(stream.poll_next(cx)).map_err(ObserveError::Stream)? {
                Observation::Event(event) if Going::is_needed(&event) => self.going = Some(Going::new(event)),
                other => return Poll::Ready(Ok(self.with_cookie(other))),
            }
        }
    }

    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError> {
        // The iterator shows sockets that are bound but do not listen, except for those that no descriptor leads to. What
        // no socket at all has is not hidden, only gone since.
        Ok(LinuxTable(self.scope.home().clone()).may_hide_bound(port)? && !self.nobody_has(port))
    }

    fn nobody_has(&mut self, port: Port) -> bool {
        if port.protocol != Protocol::Tcp || !self.knows_buckets() {
            return false;
        }
        let Some(holders) = &mut self.holders else { return false };
        holders.is_anybodys(port.number).is_ok_and(|has| has == Some(false))
    }

    fn follow(&mut self) {
        if self.stream.is_some() {
            return;
        }
        let ports = self.ports.watched.clone();
        match Self::load(&ports, self.scope.clone(), Wanted::of_ports(&ports, Interest::Releases)) {
            Ok(following) => *self = following,
            Err(error) => tracing::debug!(%error, "no release events"),
        }
    }

    fn losses(&self) -> Vec<String> {
        self.hooks.losses()
    }

    fn time_wait(&mut self, port: Port) -> Result<TimeWaits, ObserveError> {
        // A connection that lingers has its port as well. To list them the kernel walks the table of all connections.
        if self.nobody_has(port) {
            return Ok(TimeWaits::new());
        }
        socket_table::time_wait(self.scope.home(), port)
    }

    fn drop_time_wait(&mut self, port: Port) -> Result<usize, ObserveError> {
        socket_table::drop_time_wait(self.scope.home(), port)
    }

    fn other_ports(&mut self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        let Self { holders, scope, .. } = self;
        let only = scope.only();
        other_ports::of(scope.home(), port, pids, |pid, netns, left| {
            // Whoever reads /proc/PID/fd holds each descriptor for a moment.
            let holders = holders.as_mut().filter(|_| only.is_none_or(|only| netns == only))?;
            holders.ports_of(pid, port.protocol, netns, left).ok()
        })
    }

    fn listening_elsewhere(&mut self, port: Port) -> Option<Vec<u32>> {
        let listed = diag::listeners(self.scope.home(), port.protocol).ok()?;
        let mut ports: Vec<Port> = listed.iter().map(Socket::port).filter(|&other| other != port).collect();
        ports.sort_unstable();
        ports.dedup();
        let watched = self.ports.watched.clone();
        self.ports.set(&ports).ok()?;
        let mut pids = BTreeSet::new();
        let read = self
            .holders
            .as_mut()
            .map(|holders| holders.read(Reach::All, |record| _ = pids.insert(record.pid)));
        self.ports.set(&watched).ok()?;
        read?.ok()?;
        Some(pids.into_iter().collect())
    }
}

impl AgentObserver for EbpfObserver {
    fn has_lost(&mut self) -> Result<bool, ObserveError> {
        self.stream.as_mut().map_or(Ok(false), |stream| Ok(stream.has_lost()?))
    }

    fn set_ports(&mut self, ports: &[Port]) -> Result<(), ObserveError> {
        self.ports.set(ports).map_err(|error| unavailable(&error))
    }

    fn begin_guard(&mut self) -> Result<Box<dyn Guard>, String> {
        let loader = self.loader.as_mut().ok_or("only snapshots were wanted of the kernel program")?;
        self.hooks.attach_guard(loader, self.layout.as_ref());
        if let Some(why) = self.hooks.no_guard() {
            return Err(why);
        }
        self.checks.get_or_insert_with(checks);
        Ok(Box::new(KernelGuard::new(loader).map_err(|error| error.to_string())?))
    }

    fn relieve(&mut self, folder: &Path, until_ns: u64) -> std::io::Result<Relieved> {
        let Some(maps) = &self.maps else {
            return Err(std::io::Error::other("there are no kernel events to be kept"));
        };
        let pins = Pins::open(folder)?;
        let left = pins.left(until_ns);
        let ring = pins.replace(self.hooks.links(), maps)?;
        self.pins = Some(pins);
        Ok(Relieved {
            ring,
            left: left
                .inspect_err(|error| tracing::warn!(%error, "what was left can't be read"))
                .ok()
                .flatten(),
        })
    }
}

impl EbpfObserver {
    /// Adds the cookie of a listen, which the plain tracepoint does not give. Without one, a connection that ends with
    /// its listener could be taken for the listener itself.
    fn with_cookie(&self, mut observation: Observation) -> Observation {
        if let Observation::Event(event) = &mut observation
            && event.kind == EventKind::Listen
            && event.cookie.is_none()
        {
            let listed =
                diag::sockets(self.scope.home(), &[event.port()], States::LISTENING).unwrap_or_default();
            event.cookie =
                listed.iter().find(|socket| socket.address == event.address).and_then(|socket| socket.cookie);
        }
        observation
    }
}

/// The ticks at which to look whether the hooks are still attached.
fn checks() -> Interval {
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// As [`System::bound`](crate::platform::contract::System::bound).
pub(super) fn bound(netns: &Netns, port: Port) -> Option<Vec<Socket>> {
    if port.protocol == Protocol::Tcp && !kernel_version::lists_bound() {
        return None;
    }
    let mut sockets = diag::sockets(netns, &[port], States::OWNING).ok()?;
    sockets.retain(|socket| socket.state == SocketState::Bound);
    Some(sockets)
}

/// As [`System::has_listeners`](crate::platform::contract::System::has_listeners).
pub(super) fn has_listeners(netns: &Netns) -> bool {
    diag::listeners(netns, Protocol::Tcp).map_or(true, |listeners| !listeners.is_empty())
}

/// As [`ServiceSystem::user_at`](crate::platform::contract::ServiceSystem::user_at).
pub(super) fn user_at(here: SocketAddr, there: SocketAddr) -> Option<u32> {
    diag::user_at(here, there).ok().flatten()
}

fn unavailable(error: &LoadError) -> ObserveError {
    let (reason, mend) = refused::explain(error);
    let why = reason.map_or_else(|| error.reason(), |reason| format!("{error}: {reason}"));
    ObserveError::Unavailable { what: "the eBPF backend".to_owned(), why, mend }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn a_look_by_the_iterator_knows_the_creator_and_the_options() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = Port::tcp(listener.local_addr().unwrap().port());
        let scope = Scope::One(Netns::current().unwrap());
        // An ordinary user may not load programs.
        let Ok(mut observer) =
            EbpfObserver::new(&[port], scope, Wanted::of_ports(&[port], Interest::Snapshots))
        else {
            return;
        };
        let mut records = Vec::new();
        observer.holders.as_mut().unwrap().read(Reach::All, |record| records.push(*record)).unwrap();
        assert!(records.iter().all(|record| record.uid == geteuid().as_raw()), "{records:?}");
        let sockets = observer.snapshot(port).unwrap();
        assert_eq!(sockets.len(), 1, "{sockets:?}");
        assert_eq!(sockets[0].uid, Some(geteuid().as_raw()));
        assert_eq!((sockets[0].v6_only, sockets[0].after_look), (Some(false), false));
        assert!(!sockets[0].descriptors.is_empty());
    }
}
