//! Watch: reports what happens to ports, as it happens.

mod losses;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

pub(crate) use self::losses::LOOKS_SHARE;
use self::losses::Losses;
use crate::model::{
    Event, EventKind, LostIn, NamedProcess, Observation, Port, Protocol, Socket, WatchEvent, WatchKind,
};
use crate::platform::clock;
use crate::platform::contract::{AgentObserver, ObserveError, Observer, System};
use crate::steps::observe::MOST_READY;
use crate::steps::observe::table::{Change, Table};

/// How many holders a conflict names. One process can have thousands of children that hold its listener, and make
/// thousands of binds fail.
const MOST_HOLDERS: usize = 16;

/// Events of several processors come out of their order, hardly ever by more than this. One that does is taken for a part of
/// what the look has found.
const OUT_OF_ORDER: Duration = Duration::from_millis(1);

/// Watched ports, observed by an `O`.
pub(crate) struct Watch<O: ?Sized = dyn Observer> {
    system: Arc<dyn System>,
    observer: Box<O>,
    ports: Vec<Port>,
    table: Table,
    pending: VecDeque<WatchEvent>,
    /// What was read beyond the last look.
    beyond: VecDeque<Event>,
    /// The names that conflicts told since the last pause, because the same holders are told again and again.
    names: HashMap<u32, Option<String>>,
    /// And the names beside those of threads that acted: one process can act thousands of times.
    beside: HashMap<(u32, String), Option<String>>,
    look_begun: Instant,
    last_look: Instant,
    /// How long it took.
    look_took: Duration,
    /// Events that were lost since.
    lost: Option<Losses>,
    /// Whether the looks because of lost events are taken by a call of [`Self::look_for_lost`] alone.
    looks_when_called: bool,
}

impl<O: Observer + ?Sized> Watch<O> {
    /// Begins to watch. The observer is already attached, so a snapshot now leaves no gap. First come the events of the
    /// sockets that hold a port, then `Ready` for each port.
    ///
    /// # Errors
    /// When the sockets can't be read.
    pub(crate) fn begin(
        system: Arc<dyn System>,
        observer: Box<O>,
        ports: &[Port],
    ) -> Result<Self, ObserveError> {
        let pending = VecDeque::new();
        let mut watch = Self {
            system,
            table: Table::new(observer.home()),
            observer,
            ports: ports.to_vec(),
            pending,
            beyond: VecDeque::new(),
            names: HashMap::new(),
            beside: HashMap::new(),
            look_begun: Instant::now(),
            last_look: Instant::now(),
            look_took: Duration::ZERO,
            lost: None,
            looks_when_called: false,
        };
        watch.reload()?;
        let ready: Vec<WatchEvent> = ports.iter().map(|&port| watch.ready(port)).collect();
        watch.pending.extend(ready);
        Ok(watch)
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    /// When no more events will come.
    pub(crate) async fn next(&mut self) -> Result<WatchEvent, ObserveError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Poll version of [`Self::next`], for callers that wait on several things.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchEvent, ObserveError>> {
        // Not every observation is an event, and they can come faster than they are read.
        for _ in 0..MOST_READY {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Ok(event));
            }
            match self.poll_observation(cx) {
                Poll::Ready(observation) => self.observed(observation?),
                Poll::Pending => {
                    self.forget_names();
                    let due = self.lost.as_mut().map(|lost| lost.poll_due(cx));
                    ready!(due.unwrap_or(Poll::Pending));
                    if !self.may_look() {
                        return Poll::Pending;
                    }
                }
            }
            // Observations may never be pending.
            if self.lost.as_ref().is_some_and(Losses::is_time) && self.may_look() {
                self.look_for_lost(cx)?;
            }
        }
        self.forget_names();
        // There may be more, but others have their turn first.
        cx.waker().wake_by_ref();
        self.pending.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Ok(event)))
    }

    /// The next observation: first what was read already.
    fn poll_observation(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        match self.beyond.pop_front() {
            Some(event) => Poll::Ready(Ok(Observation::Event(event))),
            None => self.observer.poll_next(cx),
        }
    }

    fn forget_names(&mut self) {
        self.names.clear();
        self.beside.clear();
    }

    /// What happened before this moment of the monotonic clock, in nanoseconds, the last whole look has seen. It is not told
    /// again.
    pub(crate) fn known_since(&self) -> u64 {
        clock::monotonic_ns(self.look_begun)
    }

    /// How many events are ready without a read.
    pub(crate) fn ready_events(&self) -> usize {
        self.pending.len()
    }

    fn observed(&mut self, observation: Observation) {
        match observation {
            Observation::Event(event) => self.tell(&event),
            Observation::Lost(count, lost_in) => {
                let (last, took) = (self.last_look, self.look_took);
                self.lost.get_or_insert_with(|| Losses::since(last, took)).add(count, lost_in);
            }
        }
    }

    /// Whether a look that is due is taken at once; else it is noted.
    fn may_look(&mut self) -> bool {
        if let Some(lost) = self.lost.as_mut().filter(|_| self.looks_when_called) {
            lost.is_due = true;
        }
        !self.looks_when_called
    }

    /// From now on takes no look by itself because events were lost: whoever polls it asks whether one is due.
    #[must_use]
    pub(crate) fn looking_when_called(mut self) -> Self {
        self.looks_when_called = true;
        self
    }

    /// Whether events were lost, and it is time for the look that stands in for them.
    pub(crate) fn is_look_due(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.is_due)
    }

    /// Looks at the sockets afresh if events were lost. What happened before the look is told first, because the look replaces
    /// what is known.
    ///
    /// # Errors
    /// When the sockets can't be read, or no more events will come.
    pub(crate) fn look_for_lost(&mut self, cx: &mut Context<'_>) -> Result<(), ObserveError> {
        let Some(mut losses) = self.lost.take() else { return Ok(()) };
        let since = Instant::now();
        let sockets = match self.observer.look(&self.ports) {
            Ok(sockets) => sockets,
            Err(error) => {
                // Then nothing stands in for them yet.
                losses.postpone();
                self.lost = Some(losses);
                return Err(error);
            }
        };
        self.tell_until(since, cx)?;
        // The look may not have found what has gone meanwhile, and then nothing would tell that it has.
        let there: HashSet<u64> = sockets.iter().filter_map(|socket| socket.cookie).collect();
        for event in std::mem::take(&mut self.beyond) {
            let is_missing = event.cookie.is_some_and(|cookie| !there.contains(&cookie));
            if event.kind == EventKind::Release && is_missing && self.table.knows(&event) {
                self.tell(&event);
            } else {
                self.beyond.push_back(event);
            }
        }
        for &(lost_in, count) in losses.counts() {
            let lost = self.now(WatchKind::Lost { count, lost_in }, self.first_port());
            self.pending.push_back(lost);
        }
        // With what had to be told, which took time from others as well.
        self.load(sockets, since, since.elapsed());
        Ok(())
    }

    /// Tells what happened before this moment. There is an end to that: what the kernel keeps has room for so many.
    fn tell_until(&mut self, since: Instant, cx: &mut Context<'_>) -> Result<(), ObserveError> {
        let mut beyond = VecDeque::new();
        while let Poll::Ready(observation) = self.poll_observation(cx) {
            match observation? {
                Observation::Event(event) if event.at >= since => {
                    let is_last = event.at >= since + OUT_OF_ORDER;
                    beyond.push_back(event);
                    if is_last {
                        break;
                    }
                }
                other => self.observed(other),
            }
        }
        beyond.append(&mut self.beyond);
        self.beyond = beyond;
        Ok(())
    }

    /// Drops the initial `Held` and `Ready` events.
    #[must_use]
    pub(crate) fn without_beginning(mut self) -> Self {
        self.pending.clear();
        self
    }

    /// Says first that an unknown number of events were lost.
    #[must_use]
    pub(crate) fn after_a_loss(mut self) -> Self {
        let kind = WatchKind::Lost { count: None, lost_in: LostIn::Anywhere };
        let lost = self.now(kind, self.first_port());
        self.pending.push_front(lost);
        self
    }

    /// The underlying observer.
    pub(crate) fn observer(&mut self) -> &mut O {
        self.observer.as_mut()
    }

    /// The sockets that take a port, from memory.
    pub(crate) fn sockets(&self, port: Port) -> impl Iterator<Item = &Socket> {
        self.table.on_port(port)
    }

    /// The ports that a socket owns, from memory.
    pub(crate) fn held_ports(&self) -> Vec<Port> {
        self.table.held()
    }

    /// Whether anything is left out in the observer's own network namespace, and in others, because there is too much of it.
    pub(crate) fn is_partial(&self) -> (bool, bool) {
        self.table.is_partial()
    }

    /// A `Held` event for each owner of the ports, from memory, then `Ready` for each port.
    #[must_use]
    pub(crate) fn current(&self, ports: &[Port]) -> Vec<WatchEvent> {
        let held = self.all_held(ports).into_iter();
        held.chain(ports.iter().map(|&port| self.ready(port))).collect()
    }

    /// Takes a new snapshot, and corrects the remembered sockets: no event reports a new holder of a socket. Events are
    /// still reported, so those up to the snapshot are handled before it is used.
    ///
    /// # Errors
    /// When the sockets can't be read.
    pub(crate) fn refresh(&mut self, cx: &mut Context<'_>) -> Result<(), ObserveError> {
        let since = Instant::now();
        let looked = self.observer.look(&self.ports);
        if let (Err(_), Some(lost)) = (&looked, &mut self.lost) {
            // The look that is due because of them would fail as well, again and again.
            lost.postpone();
        }
        let snapshot = looked?;
        let mut released = HashSet::new();
        for _ in 0..MOST_READY {
            let Poll::Ready(observation) = self.poll_observation(cx) else { break };
            let observation = observation?;
            if let Observation::Event(event) = &observation
                && event.kind == EventKind::Release
            {
                released.extend(event.cookie);
            }
            if let Observation::Lost(..) = observation {
                // What came after the snapshot is not all known: only a newer one is right.
                self.observed(observation);
                return self.look_for_lost(cx);
            }
            self.observed(observation);
        }
        self.table.correct(&self.ports, snapshot, since, &released);
        Ok(())
    }

    fn first_port(&self) -> Port {
        self.ports.first().copied().unwrap_or(Port::GATEWAY)
    }

    fn reload(&mut self) -> Result<(), ObserveError> {
        let since = Instant::now();
        let sockets = self.observer.look(&self.ports)?;
        self.load(sockets, since, since.elapsed());
        Ok(())
    }

    /// Takes over what a look has found that was begun at `since`.
    fn load(&mut self, sockets: Vec<Socket>, since: Instant, took: Duration) {
        (self.look_begun, self.last_look, self.look_took) = (since, Instant::now(), took);
        if let Some(lost) = &mut self.lost {
            lost.put_off(self.last_look, took);
        }
        self.table.load(&self.ports, sockets, since);
        let held = self.all_held(&self.ports);
        self.pending.extend(held);
    }

    /// A `Held` event for each owner of the ports, in the order of the ports.
    fn all_held(&self, ports: &[Port]) -> Vec<WatchEvent> {
        // One process can hold many sockets, and is read once.
        let mut names = Names::new(&*self.system);
        let sockets = ports.iter().flat_map(|&port| self.table.on_port(port));
        // A client's UDP socket takes the port as well, and has no owner.
        let owned = sockets.filter(|socket| socket.owns_port());
        owned.flat_map(|socket| self.held(socket, &mut names)).collect()
    }

    /// An event for each process that holds the socket; one event without a name if no holder can be seen.
    fn held(&self, socket: &Socket, names: &mut Names<'_>) -> Vec<WatchEvent> {
        let pids = holders_of(socket);
        let base = WatchEvent {
            uid: socket.uid,
            address: Some(socket.address),
            netns: socket.netns,
            cookie: socket.cookie,
            ..self.now(WatchKind::Held, socket.port())
        };
        if pids.is_empty() {
            return vec![base];
        }
        let mut named = |pid: u32| {
            let (comm, uid) = names.of(pid).unzip();
            WatchEvent { pid: Some(pid), uid: uid.flatten().or(socket.uid), comm, ..base.clone() }
        };
        pids.into_iter().map(&mut named).collect()
    }

    /// Reports what an observer's event means for the port, if it is news.
    fn tell(&mut self, event: &Event) {
        // A descriptor can be closed late, by a kernel thread that has nothing to do with it. The table still knows
        // which process held the socket until the event removes it. Looking it up costs more than all the rest.
        let by_kernel = event.kind == EventKind::Release && event.by_kernel_thread;
        let owner = if by_kernel { self.owner_of(event) } else { None };
        let made_by = if by_kernel { None } else { self.maker_where_another_may_have_ended_it(event) };
        let change = self.table.apply(event);
        if change == Change::Known {
            return;
        }
        let port = event.port();
        let kind = match event.kind {
            EventKind::Bind => WatchKind::Bind,
            EventKind::Listen => WatchKind::Listen,
            EventKind::Conflict => self.conflict(port, event.netns),
            EventKind::Refused => WatchKind::Refused,
            EventKind::Release => WatchKind::Release,
            EventKind::Unlisten => return,
        };
        let mut told = WatchEvent::of(event, kind, self.observer.backend());
        if let Some((pid, comm)) = owner {
            (told.pid, told.comm) = (Some(pid), comm);
        } else if let Some(uid) = made_by {
            (told.pid, told.comm, told.uid) = (None, None, uid);
        } else if let (Some(pid), Some(thread)) = (told.pid, &told.comm)
            && let Some(name) = self.name_beside(pid, thread, event.at.elapsed())
        {
            told.thread = told.comm.replace(name);
        }
        let free = WatchEvent { kind: WatchKind::Free, cookie: None, address: None, ..told.clone() };
        self.pending.push_back(told);
        if change == Change::NewsAndFree {
            self.pending.push_back(free);
        }
    }

    /// The user who made a TCP socket that goes, where the process of the event may have nothing to do with it. A client that
    /// was bound to the port, and has closed its connection before its peer did, goes when the peer's last segment arrives: in
    /// the context of whatever runs then, over the loopback the peer itself. A listener goes with its last descriptor.
    fn maker_where_another_may_have_ended_it(&self, event: &Event) -> Option<Option<u32>> {
        let is_kernels = event.kind == EventKind::Release && event.delay.is_some();
        if !is_kernels || event.protocol != Protocol::Tcp {
            return None;
        }
        let socket = self.table.without_listen(event)?;
        let is_known = socket.descriptors.iter().any(|descriptor| Some(descriptor.pid) == event.pid);
        (!is_known).then_some(socket.uid)
    }

    fn name_beside(&mut self, pid: u32, thread: &str, ago: Duration) -> Option<String> {
        let read = || self.system.name_beside_thread(pid, thread, ago);
        self.beside.entry((pid, thread.to_owned())).or_insert_with(read).clone()
    }

    fn owner_of(&self, event: &Event) -> Option<(u32, Option<String>)> {
        let socket = self.table.on_port(event.port()).find(|socket| {
            socket.address == event.address && (event.cookie.is_none() || socket.cookie == event.cookie)
        })?;
        let pid = socket.descriptors.first()?.pid;
        Some((pid, self.system.name(pid).map(|(comm, _)| comm)))
    }

    fn conflict(&mut self, port: Port, netns: Option<u32>) -> WatchKind {
        let (mut holders, mut total) = (Vec::new(), 0);
        let sockets = self.table.in_namespace(port, netns);
        for socket in sockets {
            let pids = holders_of(socket);
            total += pids.len().max(1);
            let pids = pids.into_iter().map(Some);
            // One whose holder can't be seen has one all the same.
            let unseen = socket.descriptors.is_empty().then_some(None);
            let room = MOST_HOLDERS.saturating_sub(holders.len());
            holders.extend(pids.chain(unseen).take(room).map(|pid| (pid, socket.address)));
        }
        let system = &self.system;
        let mut name = |pid| {
            let read = || system.name(pid).map(|(comm, _)| comm);
            self.names.entry(pid).or_insert_with(read).clone()
        };
        let named = |(pid, address): (Option<u32>, _)| NamedProcess {
            pid,
            comm: pid.and_then(&mut name),
            address: Some(address),
        };
        let holders = holders.into_iter().map(named).collect();
        WatchKind::Conflict { holders, total }
    }

    fn ready(&self, port: Port) -> WatchEvent {
        self.now(WatchKind::Ready { resolution: self.observer.resolution() }, port)
    }

    fn now(&self, kind: WatchKind, port: Port) -> WatchEvent {
        WatchEvent::now(kind, port, self.observer.backend())
    }
}

impl Watch<dyn AgentObserver> {
    /// Watches these ports instead.
    ///
    /// # Errors
    /// When the ports can't be watched, or their sockets can't be read.
    pub(crate) fn set_ports(&mut self, ports: &[Port], cx: &mut Context<'_>) -> Result<(), ObserveError> {
        self.observer.set_ports(ports)?;
        ports.clone_into(&mut self.ports);
        self.table.keep(ports);
        self.refresh(cx)
    }
}

/// The processes that hold a socket, each once.
fn holders_of(socket: &Socket) -> Vec<u32> {
    let mut pids: Vec<u32> = socket.descriptors.iter().map(|descriptor| descriptor.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The names and users of processes, each read once.
struct Names<'a> {
    system: &'a dyn System,
    known: HashMap<u32, Option<(String, Option<u32>)>>,
}

impl<'a> Names<'a> {
    fn new(system: &'a dyn System) -> Self {
        Self { system, known: HashMap::new() }
    }

    fn of(&mut self, pid: u32) -> Option<(String, Option<u32>)> {
        self.known.entry(pid).or_insert_with(|| self.system.name(pid)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Backend;
    use crate::steps::fake::FakeSystem;

    /// Counts the looks.
    struct Looks(usize);

    impl Observer for Looks {
        fn backend(&self) -> Backend {
            Backend::Ebpf
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            self.0 += 1;
            Ok(Vec::new())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(false)
        }
    }

    #[test]
    fn all_ports_are_looked_at_at_once() {
        let ports: Vec<Port> = (1..=1000).map(Port::tcp).collect();
        let system = Arc::new(FakeSystem::default());
        let mut watch = Watch::begin(system, Box::new(Looks(0)), &ports).unwrap();
        assert_eq!(watch.observer().0, 1);
        watch.refresh(&mut Context::from_waker(std::task::Waker::noop())).unwrap();
        assert_eq!(watch.observer().0, 2);
    }
}
