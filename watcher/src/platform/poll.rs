//! Observes ports by polling: the system's socket table, read repeatedly. It works everywhere and without privileges,
//! but it is slower and sees less: no conflicts, no binds except by chance, and of other users' listeners only that they
//! exist. Sockets that are bound but do not listen are seen where the system lists them (Linux 6.8).

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::clock;
use super::contract::{AgentObserver, ObserveError, Observer, TimeWaits, cannot_drop_time_wait};
use crate::model::{Backend, Event, EventKind, Observation, Port, Protocol, Socket, SocketState};

/// How long after a change further changes are expected.
const EXPECTING: Duration = Duration::from_secs(1);
/// How many times more often to poll then.
const FASTER: u32 = 10;
/// The shortest interval then.
const FASTEST: Duration = Duration::from_millis(2);

/// Reads the system's socket table.
pub(crate) trait SocketTable: Send {
    /// The listeners on the ports and all UDP sockets, without their holders if that is cheaper; with `bound` also the
    /// sockets that are bound but do not listen, if the system lists them.
    fn owners(&self, ports: &[Port], bound: bool) -> Result<Vec<Socket>, ObserveError>;

    /// The sockets that take one of the ports, bound ones included, with their holders.
    fn with_holders(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError>;

    /// The same, and the connections that keep other sockets from the ports, as far as they can be told.
    fn snapshot(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError>;

    /// As [`Observer::may_hide_bound`].
    fn may_hide_bound(&self, port: Port) -> Result<bool, ObserveError>;

    /// The short name of a process.
    fn name_of(&self, pid: u32) -> Option<String>;

    /// As [`Observer::time_wait`].
    fn time_wait(&self, port: Port) -> Result<TimeWaits, ObserveError> {
        let _ = port;
        Ok(TimeWaits::new())
    }

    /// As [`Observer::drop_time_wait`]; `None` where the system can't.
    fn drop_time_wait(&self, port: Port) -> Option<Result<usize, ObserveError>> {
        let _ = port;
        None
    }

    /// As [`Observer::other_ports`].
    fn other_ports(&self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>>;
}

/// A table that could not be read.
pub(crate) fn failed(ports: &[Port], why: String) -> ObserveError {
    ObserveError::Snapshot { port: ports.first().copied().unwrap_or(Port::GATEWAY), why }
}

/// Observes ports by polling.
pub(crate) struct PollObserver<T> {
    table: T,
    ports: Vec<Port>,
    pace: Duration,
    ticks: Option<Interval>,
    /// Whether the next look waits for no tick.
    is_due: bool,
    /// Until when further changes are expected, after a recent one.
    fast_until: Option<Instant>,
    known: Vec<Socket>,
    /// The names of their holders, remembered because a process has mostly ended when its release is seen.
    names: HashMap<u32, String>,
    pending: VecDeque<Event>,
}

impl<T: SocketTable> PollObserver<T> {
    /// Polls the ports every `pace`, all of them in one reading of the table; more often just after a change.
    pub(crate) fn new(table: T, ports: &[Port], pace: Duration) -> Self {
        Self {
            table,
            ports: ports.to_vec(),
            pace,
            ticks: None,
            is_due: false,
            fast_until: None,
            known: Vec::new(),
            names: HashMap::new(),
            pending: VecDeque::new(),
        }
    }

    fn compare(&mut self) -> Result<(), ObserveError> {
        // Sockets that do not listen are expensive to list, so they are looked for only as long as one is known.
        let bound = self.known.iter().any(|socket| socket.state == SocketState::Bound && !socket.serves());
        // What stands for sockets of which there are too many is none, and comes and goes without an event.
        let told = |mut sockets: Vec<Socket>| {
            sockets.retain(|socket| !socket.is_left_out());
            sockets
        };
        if is_same(&told(self.table.owners(&self.ports, bound)?), &self.known) {
            return Ok(());
        }
        // Finding the holders takes a walk over all processes, so it is done only if something has changed. What has
        // stopped listening may still be bound.
        let now = told(self.table.with_holders(&self.ports)?);
        if is_same(&now, &self.known) {
            return Ok(());
        }
        self.remember_names(&now);
        let before = std::mem::take(&mut self.known);
        self.tell(&before, &now);
        self.known = now;
        self.fast_until = Instant::now().checked_add(EXPECTING);
        Ok(())
    }

    /// Turns the differences between two looks into events.
    fn tell(&mut self, before: &[Socket], now: &[Socket]) {
        for gone in before.iter().filter(|socket| find(now, socket).is_none()) {
            self.pending.push_back(self.event(EventKind::Release, gone));
        }
        for socket in now {
            let was = find(before, socket).map(|socket| socket.state);
            let kind = match (was, socket.state) {
                (None | Some(SocketState::Connected), SocketState::Bound) => EventKind::Bind,
                (None | Some(SocketState::Bound), SocketState::Listen) => EventKind::Listen,
                (Some(SocketState::Listen), SocketState::Bound) => EventKind::Unlisten,
                _ => continue,
            };
            self.pending.push_back(self.event(kind, socket));
        }
    }

    fn remember_names(&mut self, now: &[Socket]) {
        let pids = |sockets: &[Socket]| -> HashSet<u32> {
            sockets.iter().flat_map(|socket| &socket.descriptors).map(|descriptor| descriptor.pid).collect()
        };
        let (now, before) = (pids(now), pids(&self.known));
        self.names.retain(|pid, _| now.contains(pid) || before.contains(pid));
        for pid in now {
            if let Some(name) = self.table.name_of(pid) {
                self.names.insert(pid, name);
            }
        }
    }

    /// The time until the next look: a change seldom comes alone, so the looks are more frequent for a while after one.
    fn pace_now(&self) -> Duration {
        let expecting = self.fast_until.is_some_and(|until| Instant::now() < until);
        if expecting { (self.pace / FASTER).max(FASTEST.min(self.pace)) } else { self.pace }
    }

    fn event(&self, kind: EventKind, socket: &Socket) -> Event {
        let pid = socket.descriptors.first().map(|first| first.pid);
        let at = Instant::now();
        Event {
            kind,
            protocol: socket.protocol,
            address: socket.address,
            monotonic_ns: clock::monotonic_ns(at),
            at,
            time: SystemTime::now(),
            delay: None,
            pid,
            uid: socket.uid,
            comm: pid.and_then(|pid| self.names.get(&pid).cloned()).unwrap_or_default(),
            by_kernel_thread: false,
            cookie: socket.cookie,
            netns: socket.netns,
        }
    }
}

impl<T: SocketTable> Observer for PollObserver<T> {
    fn backend(&self) -> Backend {
        Backend::Poll
    }

    fn look(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let sockets = self.table.snapshot(ports)?;
        let owning: Vec<Socket> = sockets.iter().filter(|socket| socket.takes_port()).cloned().collect();
        self.remember_names(&owning);
        // Changes since the last look are still reported.
        let (before, others) = self.known.drain(..).partition(|socket| ports.contains(&socket.port()));
        self.known = others;
        self.tell(&before, &owning);
        self.known.extend(owning);
        Ok(sockets)
    }

    fn owning(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.table.with_holders(ports)?;
        sockets.retain(Socket::owns_port);
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
            if !std::mem::take(&mut self.is_due) {
                ready!(ticks.poll_tick(cx));
            }
            self.compare()?;
            let pace = self.pace_now();
            if let Some(ticks) = &mut self.ticks {
                ticks.reset_after(pace);
            }
        }
    }

    fn resolution(&self) -> Option<Duration> {
        Some(self.pace)
    }

    fn look_at_once(&mut self) {
        self.is_due = true;
    }

    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError> {
        self.table.may_hide_bound(port)
    }

    fn time_wait(&mut self, port: Port) -> Result<TimeWaits, ObserveError> {
        self.table.time_wait(port)
    }

    fn drop_time_wait(&mut self, port: Port) -> Result<usize, ObserveError> {
        self.table.drop_time_wait(port).unwrap_or_else(|| Err(cannot_drop_time_wait()))
    }

    fn other_ports(&mut self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        self.table.other_ports(port, pids)
    }
}

impl<T: SocketTable> AgentObserver for PollObserver<T> {
    fn set_ports(&mut self, ports: &[Port]) -> Result<(), ObserveError> {
        ports.clone_into(&mut self.ports);
        self.known.retain(|socket| ports.contains(&socket.port()));
        Ok(())
    }
}

/// Why kernel events are unavailable on a system that reports none.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has them"))]
pub(crate) fn no_events() -> ObserveError {
    ObserveError::Unavailable {
        what: "the eBPF backend".to_owned(),
        why: "it needs Linux".to_owned(),
        mend: "leave --backend out: ports are polled here".to_owned(),
    }
}

/// Whether both looks found the same sockets, in the same states.
fn is_same(a: &[Socket], b: &[Socket]) -> bool {
    let same = |socket: &Socket| find(b, socket).is_some_and(|other| other.state == socket.state);
    a.len() == b.len() && a.iter().all(same)
}

fn find<'a>(sockets: &'a [Socket], wanted: &Socket) -> Option<&'a Socket> {
    sockets.iter().find(|socket| {
        // A UDP socket that was bound to all addresses has one of its own once it connects.
        let may_move = socket.protocol == Protocol::Udp;
        socket.id() == wanted.id() && (may_move || socket.address == wanted.address)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Waker;

    use super::*;

    /// A listener, until it has gone.
    struct UntilGone(Arc<AtomicBool>);

    impl SocketTable for UntilGone {
        fn owners(&self, ports: &[Port], _bound: bool) -> Result<Vec<Socket>, ObserveError> {
            self.with_holders(ports)
        }

        fn with_holders(&self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            let listener = Socket::new(Protocol::Tcp, ([127, 0, 0, 1], 80).into(), SocketState::Listen);
            Ok(if self.0.load(Ordering::Relaxed) { Vec::new() } else { vec![listener] })
        }

        fn snapshot(&self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            self.with_holders(ports)
        }

        fn may_hide_bound(&self, _port: Port) -> Result<bool, ObserveError> {
            Ok(false)
        }

        fn name_of(&self, _pid: u32) -> Option<String> {
            None
        }

        fn other_ports(&self, _port: Port, _pids: &[u32]) -> HashMap<u32, Vec<u16>> {
            HashMap::new()
        }
    }

    #[tokio::test]
    async fn a_look_that_is_asked_for_waits_for_no_timer() {
        let is_gone = Arc::new(AtomicBool::new(false));
        let ports = [Port::tcp(80)];
        let mut observer = PollObserver::new(UntilGone(is_gone.clone()), &ports, Duration::from_hours(1));
        observer.look(&ports).unwrap();
        let next = |observer: &mut PollObserver<_>| {
            let next = observer.poll_next(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(Ok(Observation::Event(event))) = next { Some(event.kind) } else { None }
        };
        assert_eq!(next(&mut observer), Some(EventKind::Listen));
        is_gone.store(true, Ordering::Relaxed);
        observer.look_at_once();
        assert_eq!(next(&mut observer), Some(EventKind::Release));
        // and the look after it does again
        assert_eq!(next(&mut observer), None);
    }
}
