//! Observing by polling: the socket table through netstat2, read again and again. It works everywhere and without
//! privileges, but it is slower and sees less: no binds, no conflicts, no socket that is bound and does not listen,
//! and of other users' listeners only that they are there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use netstat2::{AddressFamilyFlags, ProtocolFlags, ProtocolSocketInfo, SocketInfo, TcpState};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::clock;
use crate::observe::{
    Backend, Event, EventKind, Holder, Observation, ObserveError, Observer, Socket, SocketState,
};

/// For how long after a change others are expected.
const EXPECTING: Duration = Duration::from_secs(1);
/// How many times as often is looked then.
const FASTER: u32 = 10;
/// But not more often than this.
const FASTEST: Duration = Duration::from_millis(2);

/// Reads the system's socket table.
pub(crate) trait SocketTable: Send {
    /// The listeners, without their holders where leaving them out is cheaper.
    fn listeners(&self) -> Result<Vec<Socket>, String>;

    /// The listeners with their holders.
    fn owned_listeners(&self) -> Result<Vec<Socket>, String>;

    /// Whether connections, living or lingering, have the port as their local one.
    fn has_connections(&self, port: u16) -> Result<bool, String>;

    /// The short name of a process.
    fn name_of(&self, pid: u32) -> Option<String>;
}

/// Sees ports by polling.
pub(crate) struct PollObserver<T> {
    table: T,
    ports: Vec<u16>,
    pace: Duration,
    ticks: Option<Interval>,
    /// Until when changes are expected, one having just been seen.
    fast_until: Option<Instant>,
    known: Vec<Socket>,
    /// The names of their holders: when a release is seen, its process has mostly ended.
    names: HashMap<u32, String>,
    pending: VecDeque<Event>,
}

impl<T: SocketTable> PollObserver<T> {
    /// Looks at the ports every `pace`, all of them in one reading of the table; more often just after a change.
    pub(crate) fn new(table: T, ports: &[u16], pace: Duration) -> Self {
        Self {
            table,
            ports: ports.to_vec(),
            pace,
            ticks: None,
            fast_until: None,
            known: Vec::new(),
            names: HashMap::new(),
            pending: VecDeque::new(),
        }
    }

    fn look(&mut self) -> Result<(), ObserveError> {
        let failed = |why| ObserveError::Snapshot { port: self.ports.first().copied().unwrap_or(0), why };
        let watched = |socket: &Socket| self.ports.contains(&socket.address.port());
        let mut now: Vec<Socket> =
            self.table.listeners().map_err(failed)?.into_iter().filter(watched).collect();
        if same_ids(&now, &self.known) {
            return Ok(());
        }
        // Holders cost a walk over all processes, so they are asked for only when something has changed.
        now = self.table.owned_listeners().map_err(failed)?.into_iter().filter(watched).collect();
        self.remember_names(&now);
        let before = std::mem::take(&mut self.known);
        self.tell(&before, &now);
        self.known = now;
        self.fast_until = Instant::now().checked_add(EXPECTING);
        Ok(())
    }

    /// Makes events of what is in one look and not in the other.
    fn tell(&mut self, before: &[Socket], now: &[Socket]) {
        for gone in before.iter().filter(|socket| !contains(now, socket)) {
            self.pending.push_back(self.event(EventKind::Release, gone));
        }
        for new in now.iter().filter(|socket| !contains(before, socket)) {
            self.pending.push_back(self.event(EventKind::Listen, new));
        }
    }

    fn remember_names(&mut self, now: &[Socket]) {
        let pids = |sockets: &[Socket]| -> HashSet<u32> {
            sockets.iter().flat_map(|socket| &socket.holders).map(|holder| holder.pid).collect()
        };
        let (now, before) = (pids(now), pids(&self.known));
        self.names.retain(|pid, _| now.contains(pid) || before.contains(pid));
        for pid in now {
            if let Some(name) = self.table.name_of(pid) {
                self.names.insert(pid, name);
            }
        }
    }

    /// The time to the next look: a change seldom comes alone, so after one the looks are closer together for a while.
    fn pace_now(&self) -> Duration {
        let expecting = self.fast_until.is_some_and(|until| Instant::now() < until);
        if expecting { (self.pace / FASTER).max(FASTEST.min(self.pace)) } else { self.pace }
    }

    fn event(&self, kind: EventKind, socket: &Socket) -> Event {
        let pid = socket.holders.first().map(|holder| holder.pid);
        let at = Instant::now();
        Event {
            kind,
            address: socket.address,
            monotonic_ns: clock::monotonic_ns(at),
            at,
            time: SystemTime::now(),
            delay: None,
            pid,
            uid: socket.uid,
            comm: pid.and_then(|pid| self.names.get(&pid).cloned()).unwrap_or_default(),
            cookie: None,
            netns: socket.netns,
        }
    }
}

impl<T: SocketTable> Observer for PollObserver<T> {
    fn backend(&self) -> Backend {
        Backend::Poll
    }

    fn snapshot(&mut self, port: u16) -> Result<Vec<Socket>, ObserveError> {
        let all = self.table.owned_listeners().map_err(|why| ObserveError::Snapshot { port, why })?;
        let sockets: Vec<Socket> = all.into_iter().filter(|socket| socket.address.port() == port).collect();
        self.remember_names(&sockets);
        // What has changed since the last look is told all the same.
        let (before, others) = self.known.drain(..).partition(|socket| socket.address.port() == port);
        self.known = others;
        self.tell(&before, &sockets);
        self.known.extend(sockets.iter().cloned());
        Ok(sockets)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Ok(Observation::Event(event)));
            }
            let pace = self.pace;
            let ticks = self.ticks.get_or_insert_with(|| {
                let mut ticks = interval(pace);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            });
            ready!(ticks.poll_tick(cx));
            self.look()?;
            let pace = self.pace_now();
            if let Some(ticks) = &mut self.ticks {
                ticks.reset_after(pace);
            }
        }
    }

    fn resolution(&self) -> Option<Duration> {
        Some(self.pace)
    }

    fn set_ports(&mut self, ports: &[u16]) -> Result<(), ObserveError> {
        ports.clone_into(&mut self.ports);
        self.known.retain(|socket| ports.contains(&socket.address.port()));
        Ok(())
    }

    fn may_hide_bound(&mut self, port: u16) -> Result<bool, ObserveError> {
        let explained =
            self.table.has_connections(port).map_err(|why| ObserveError::Snapshot { port, why })?;
        Ok(!explained)
    }
}

/// Why kernel events can't be had on a system that has none for us.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has them"))]
pub(crate) fn no_events() -> ObserveError {
    ObserveError::Unavailable {
        what: "the eBPF backend".to_owned(),
        why: "it is Linux's".to_owned(),
        mend: "leave --backend out: ports are polled here".to_owned(),
    }
}

/// netstat2's table of the whole system, for systems with one network.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has one for each namespace"))]
pub(crate) struct SystemTable {
    /// Finds the short name of a process.
    pub(crate) name_of: fn(u32) -> Option<String>,
}

impl SocketTable for SystemTable {
    fn listeners(&self) -> Result<Vec<Socket>, String> {
        self.owned_listeners()
    }

    fn owned_listeners(&self) -> Result<Vec<Socket>, String> {
        Ok(tcp_sockets()?.iter().filter_map(listener).collect())
    }

    fn has_connections(&self, port: u16) -> Result<bool, String> {
        Ok(tcp_sockets()?.iter().any(|info| is_connection(info, port)))
    }

    fn name_of(&self, pid: u32) -> Option<String> {
        (self.name_of)(pid)
    }
}

fn same_ids(a: &[Socket], b: &[Socket]) -> bool {
    a.len() == b.len() && a.iter().all(|socket| contains(b, socket))
}

fn contains(sockets: &[Socket], wanted: &Socket) -> bool {
    sockets.iter().any(|socket| socket.id() == wanted.id() && socket.address == wanted.address)
}

/// netstat2's table of TCP sockets.
pub(crate) fn tcp_sockets() -> Result<Vec<SocketInfo>, String> {
    netstat2::get_sockets_info(AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6, ProtocolFlags::TCP)
        .map_err(|error| error.to_string())
}

/// A listener in netstat2's words as one of ours; `None` for any other socket.
pub(crate) fn listener(info: &SocketInfo) -> Option<Socket> {
    let ProtocolSocketInfo::Tcp(tcp) = &info.protocol_socket_info else { return None };
    let holders = info.associated_pids.iter().filter(|&&pid| pid != 0);
    (tcp.state == TcpState::Listen).then(|| Socket {
        address: (tcp.local_addr, tcp.local_port).into(),
        state: SocketState::Listen,
        cookie: None,
        inode: None,
        netns: None,
        v6_only: None,
        uid: None,
        multipath: false,
        holders: holders.map(|&pid| Holder { pid, tid: pid, fd: None }).collect(),
    })
}

/// Whether it is a connection from the port, or what is left of one.
pub(crate) fn is_connection(info: &SocketInfo, port: u16) -> bool {
    match &info.protocol_socket_info {
        ProtocolSocketInfo::Tcp(tcp) => {
            tcp.local_port == port && tcp.state != TcpState::Listen && tcp.remote_port != 0
        }
        ProtocolSocketInfo::Udp(_) => false,
    }
}
