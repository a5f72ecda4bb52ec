//! The sockets of the watched ports, kept up to date: a snapshot, then events.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::model::{Descriptor, Event, EventKind, Port, Remainder, Room, Socket, SocketId, SocketState};

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing new: the change was already known.
    Known,
    /// The event is news.
    News,
    /// The event is news, and no socket holds the port any more.
    NewsAndFree,
}

/// A socket, and the time since which its state is known.
#[derive(Debug)]
struct TrackedSocket {
    socket: Socket,
    since: Instant,
    /// The last look did not find it, but no event has reported its end.
    missing: bool,
    /// It listens, or has listened.
    listened: bool,
    /// The state that was told last. A look can find a socket before the event of its bind or its listen has come, because the
    /// kernel makes the event after the act; and what a look corrects is not told.
    told: Option<SocketState>,
}

impl TrackedSocket {
    fn new(socket: Socket, since: Instant) -> Self {
        let (listened, told) = (socket.state == SocketState::Listen, Some(socket.state));
        Self { socket, since, missing: false, listened, told }
    }
}

/// The sockets that take one port, and where each is: any user can open thousands, in a network namespace of its own.
#[derive(Debug, Default)]
struct OfPort {
    known: Vec<TrackedSocket>,
    by_cookie: HashMap<u64, usize>,
    /// How many have no cookie.
    without_cookie: usize,
}

impl OfPort {
    fn of(known: Vec<TrackedSocket>) -> Self {
        let mut of_port = Self { known, ..Self::default() };
        of_port.index();
        of_port
    }

    fn index(&mut self) {
        self.by_cookie.clear();
        self.without_cookie = 0;
        for (at, known) in self.known.iter().enumerate() {
            match known.socket.cookie {
                Some(cookie) => _ = self.by_cookie.entry(cookie).or_insert(at),
                None => self.without_cookie += 1,
            }
        }
    }

    fn push(&mut self, tracked: TrackedSocket) {
        match tracked.socket.cookie {
            Some(cookie) => _ = self.by_cookie.entry(cookie).or_insert(self.known.len()),
            None => self.without_cookie += 1,
        }
        self.known.push(tracked);
    }

    fn remove(&mut self, at: usize) -> Socket {
        let gone = self.known.swap_remove(at).socket;
        match gone.cookie {
            Some(cookie) => _ = self.by_cookie.remove(&cookie),
            None => self.without_cookie -= 1,
        }
        let moved = self.known.get(at).and_then(|moved| moved.socket.cookie);
        if let Some(place) = moved.and_then(|cookie| self.by_cookie.get_mut(&cookie)) {
            *place = at;
        }
        // One cookie may have been there twice.
        if self.by_cookie.len() + self.without_cookie != self.known.len() {
            self.index();
        }
        gone
    }

    /// Finds the event's socket by cookie, or by address if either side has no cookie.
    fn find(&self, event: &Event) -> Option<usize> {
        let by_cookie = event.cookie.and_then(|cookie| self.by_cookie.get(&cookie).copied());
        let by_address = || {
            self.known.iter().position(|TrackedSocket { socket, .. }| {
                (socket.cookie.is_none() || event.cookie.is_none())
                    && socket.address == event.address
                    && may_be_same(socket.netns, event.netns)
            })
        };
        by_cookie.or_else(|| {
            let can_be = event.cookie.is_none() || self.without_cookie > 0;
            can_be.then(by_address).flatten()
        })
    }

    fn set_state(&mut self, at: usize, state: SocketState, since: Instant) -> Change {
        let known = &mut self.known[at];
        let is_news = known.told.replace(state) != Some(state);
        known.socket.state = state;
        known.since = since;
        known.listened |= state == SocketState::Listen;
        if is_news { Change::News } else { Change::Known }
    }

    /// The event of a bind, of a socket that is there.
    fn bound(&mut self, at: usize) -> Change {
        let known = &mut self.known[at];
        if known.told.is_some() {
            return Change::Known;
        }
        known.told = Some(SocketState::Bound);
        Change::News
    }
}

/// The sockets that take the watched ports.
#[derive(Debug, Default)]
pub(crate) struct Table {
    ports: HashMap<Port, OfPort>,
    room: Room,
    /// What there is no room for, in the snapshots and since.
    left_out: Remainder,
    /// When each port's newest snapshot was begun. It contains everything that happened to the port before.
    since: HashMap<Port, Instant>,
}

impl Table {
    /// An empty one, with room above all for this network namespace (`None`: there is only one).
    pub(crate) fn new(here: Option<u32>) -> Self {
        Self { room: Room::new(here), ..Self::default() }
    }

    /// Replaces the ports' known sockets with a snapshot that was begun at `since`.
    pub(crate) fn load(&mut self, ports: &[Port], snapshot: Vec<Socket>, since: Instant) {
        for port in ports {
            for tracked in self.ports.remove(port).into_iter().flat_map(|of_port| of_port.known) {
                self.room.give_back(&tracked.socket);
            }
        }
        self.forget_left_out(ports, Instant::now());
        for socket in self.without_left_out(snapshot, since) {
            self.room.count(&socket);
            self.ports.entry(socket.port()).or_default().push(TrackedSocket::new(socket, since));
        }
        self.since.extend(ports.iter().map(|&port| (port, since)));
    }

    /// Corrects the ports' known sockets with a snapshot that was begun at `since`, without reporting news: the events up to
    /// its end were applied before. `released` are the cookies of sockets that were released while it was read.
    ///
    /// A descriptor is closed before its socket is released: a socket that one look does not find may be about to end, and
    /// its release, which is news, may still come. Only a socket that the next look does not find either is forgotten.
    pub(crate) fn correct(
        &mut self,
        ports: &[Port],
        snapshot: Vec<Socket>,
        since: Instant,
        released: &HashSet<u64>,
    ) {
        let looked: HashSet<Port> = ports.iter().copied().collect();
        self.forget_left_out(ports, since);
        let snapshot = self.without_left_out(snapshot, since);
        let there: HashSet<SocketId> = snapshot.iter().map(Socket::id).collect();
        let mut known: Vec<TrackedSocket> =
            std::mem::take(&mut self.ports).into_values().flat_map(|of_port| of_port.known).collect();
        // The kernel makes a socket's cookie when it is asked for: one that had none may have one now.
        let cookies: HashMap<u64, u64> =
            snapshot.iter().filter_map(|socket| socket.inode.zip(socket.cookie)).collect();
        for TrackedSocket { socket, .. } in &mut known {
            socket.cookie = socket.cookie.or_else(|| cookies.get(&socket.inode?).copied());
        }
        known.retain_mut(|known| {
            // An event since then is newer than the snapshot.
            let concerns = known.since < since && looked.contains(&known.socket.port());
            let missing = concerns && !there.contains(&known.socket.id());
            let twice = missing && known.missing;
            known.missing = missing;
            !twice
        });
        let is_gone = |socket: &Socket| socket.cookie.is_some_and(|cookie| released.contains(&cookie));
        let mut places: HashMap<SocketId, usize> =
            known.iter().enumerate().map(|(at, known)| (known.socket.id(), at)).collect();
        self.recount(&known);
        for socket in snapshot.into_iter().filter(|socket| !is_gone(socket)) {
            match places.get(&socket.id()).and_then(|&at| known.get_mut(at)) {
                Some(known) => {
                    let state = if known.since >= since { known.socket.state } else { socket.state };
                    known.socket = Socket { state, ..socket };
                    known.listened |= state == SocketState::Listen;
                }
                // Some that are known and were not found may still be there, and keep their place until the next look.
                None if !self.room.take(&socket, 0) => {
                    self.left_out.add(&socket, self.room.is_here(socket.netns), since);
                }
                None => {
                    places.insert(socket.id(), known.len());
                    known.push(TrackedSocket { told: None, ..TrackedSocket::new(socket, since) });
                }
            }
        }
        self.recount(&known);
        let mut by_port: HashMap<Port, Vec<TrackedSocket>> = HashMap::new();
        for known in known {
            by_port.entry(known.socket.port()).or_default().push(known);
        }
        self.ports = by_port.into_iter().map(|(port, known)| (port, OfPort::of(known))).collect();
    }

    fn recount(&mut self, known: &[TrackedSocket]) {
        self.room = self.room.emptied();
        for tracked in known {
            self.room.count(&tracked.socket);
        }
    }

    fn forget_left_out(&mut self, ports: &[Port], before: Instant) {
        let Self { room, left_out, .. } = self;
        for &port in ports {
            left_out.forget(port, before, |netns| room.is_here(netns));
        }
    }

    /// The snapshot's sockets that take a port, without those that stand for others: these are remembered as such.
    fn without_left_out(&mut self, mut snapshot: Vec<Socket>, since: Instant) -> Vec<Socket> {
        snapshot.retain(|socket| {
            if socket.is_left_out() {
                self.left_out.add(socket, self.room.is_here(socket.netns), since);
            }
            !socket.is_left_out() && socket.takes_port()
        });
        snapshot
    }

    /// Whether anything is left out in the network namespace that is meant, and in others. Of other namespaces more may be
    /// missing than [`Self::on_port`] tells.
    pub(crate) fn is_partial(&self) -> (bool, bool) {
        self.left_out.is_partial()
    }

    /// Forgets all ports except these.
    pub(crate) fn keep(&mut self, ports: &[Port]) {
        let ports: HashSet<Port> = ports.iter().copied().collect();
        let gone: Vec<Port> = self.left_out.ports().filter(|port| !ports.contains(port)).collect();
        self.forget_left_out(&gone, Instant::now());
        let Self { ports: known, room, .. } = self;
        let gone = known.iter().filter(|(port, _)| !ports.contains(port)).flat_map(|(_, gone)| &gone.known);
        gone.for_each(|gone| room.give_back(&gone.socket));
        self.ports.retain(|port, _| ports.contains(port));
        self.since.retain(|port, _| ports.contains(port));
    }

    /// The ports that a socket takes, in order.
    pub(crate) fn held(&self) -> Vec<Port> {
        let held = self.ports.iter().filter(|(_, of_port)| !of_port.known.is_empty());
        let mut ports: Vec<Port> = held.map(|(&port, _)| port).chain(self.left_out.ports()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The sockets that take the port, and those that stand for what was left out.
    pub(crate) fn on_port(&self, port: Port) -> impl Iterator<Item = &Socket> {
        let known = self.ports.get(&port).into_iter().flat_map(|of_port| &of_port.known);
        known.map(|known| &known.socket).chain(self.left_out.on_port(port))
    }

    /// The sockets that own the port in a network namespace; those of an unknown namespace are in each.
    pub(crate) fn in_namespace(&self, port: Port, netns: Option<u32>) -> impl Iterator<Item = &Socket> {
        self.on_port(port).filter(move |socket| may_be_same(socket.netns, netns))
    }

    /// Whether the socket that an event is about is known.
    pub(crate) fn knows(&self, event: &Event) -> bool {
        self.ports.get(&event.port()).is_some_and(|of_port| of_port.find(event).is_some())
    }

    /// The socket that an event is about, if it was never seen to listen.
    pub(crate) fn without_listen(&self, event: &Event) -> Option<&Socket> {
        let of_port = self.ports.get(&event.port())?;
        let known = of_port.known.get(of_port.find(event)?)?;
        (!known.listened).then_some(&known.socket)
    }

    fn of(&mut self, port: Port) -> &mut OfPort {
        self.ports.entry(port).or_default()
    }

    /// Updates the table with an event.
    pub(crate) fn apply(&mut self, event: &Event) -> Change {
        let port = event.port();
        let before_snapshot = self.since.get(&port).is_some_and(|&since| event.at < since);
        let found = self.ports.get(&port).and_then(|of_port| of_port.find(event));
        match (event.kind, found) {
            (EventKind::Conflict | EventKind::Refused, _) if before_snapshot => Change::Known,
            (EventKind::Conflict | EventKind::Refused, _) => Change::News,
            (EventKind::Bind, Some(at)) => self.of(port).bound(at),
            (EventKind::Listen, Some(at)) => self.of(port).set_state(at, SocketState::Listen, event.at),
            (EventKind::Unlisten, Some(at)) => self.of(port).set_state(at, SocketState::Bound, event.at),
            (EventKind::Release, Some(at)) => {
                let of_port = self.of(port);
                let gone = of_port.remove(at);
                let is_empty = of_port.known.is_empty();
                self.room.give_back(&gone);
                // Where every port is followed, one entry for each that was ever held would take tens of megabytes.
                if is_empty {
                    self.ports.remove(&port);
                }
                let mut others = self.in_namespace(port, event.netns.or(gone.netns));
                if others.next().is_none() { Change::NewsAndFree } else { Change::News }
            }
            // The socket came or went before the snapshot, which would contain it if it still existed.
            (_, None) if before_snapshot => Change::Known,
            (EventKind::Bind, None) => self.insert(event, SocketState::Bound),
            (EventKind::Listen, None) => self.insert(event, SocketState::Listen),
            // Connections that a closing listener never accepted are destroyed with it, and no longer have a remote
            // port by then: to the kernel program they look like listeners, but they were never seen to bind or listen.
            // Of a socket that is left out nobody knows whether it was the last: the next look tells.
            (EventKind::Unlisten | EventKind::Release, None) => Change::Known,
        }
    }

    fn insert(&mut self, event: &Event, state: SocketState) -> Change {
        let socket = Socket {
            cookie: event.cookie,
            netns: event.netns,
            uid: event.uid,
            descriptors: event.pid.map(|pid| Descriptor { pid, fd: None }).into_iter().collect(),
            ..Socket::new(event.protocol, event.address, state)
        };
        if self.room.take(&socket, 0) {
            self.of(event.port()).push(TrackedSocket::new(socket, event.at));
        } else {
            self.left_out.add(&socket, self.room.is_here(socket.netns), event.at);
        }
        Change::News
    }
}

/// Whether both may be one network namespace.
fn may_be_same(a: Option<u32>, b: Option<u32>) -> bool {
    a == b || a.is_none() || b.is_none()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::Protocol;

    const PORT: Port = Port::tcp(80);

    fn listener(cookie: u64) -> Socket {
        let address = ([127, 0, 0, 1], 80).into();
        Socket { cookie: Some(cookie), ..Socket::new(Protocol::Tcp, address, SocketState::Listen) }
    }

    fn release(cookie: u64) -> Event {
        Event {
            kind: EventKind::Release,
            protocol: Protocol::Tcp,
            address: ([127, 0, 0, 1], 80).into(),
            monotonic_ns: 0,
            at: Instant::now(),
            time: SystemTime::UNIX_EPOCH,
            delay: None,
            pid: None,
            uid: None,
            comm: String::new(),
            by_kernel_thread: false,
            cookie: Some(cookie),
            netns: None,
        }
    }

    fn look(table: &mut Table, sockets: Vec<Socket>) {
        table.correct(&[PORT], sockets, Instant::now(), &HashSet::new());
    }

    #[test]
    fn a_release_is_news_though_a_look_came_between_descriptor_and_socket() {
        let mut table = Table::default();
        table.load(&[PORT], vec![listener(1)], Instant::now());
        look(&mut table, Vec::new());
        assert_eq!(table.apply(&release(1)), Change::NewsAndFree);
    }

    #[test]
    fn a_bind_and_a_listen_are_news_though_a_look_came_before_their_events() {
        let bind = || Event { kind: EventKind::Bind, ..release(1) };
        let listen = || Event { kind: EventKind::Listen, ..release(1) };
        let mut table = Table::default();
        // given a look that finds the listener whose events are still to come
        look(&mut table, vec![listener(1)]);
        assert_eq!([bind(), listen()].map(|event| table.apply(&event)), [Change::News, Change::News]);
        // then each is told once
        assert_eq!([bind(), listen()].map(|event| table.apply(&event)), [Change::Known, Change::Known]);
        // and so where the look comes between the two
        let mut table = Table::default();
        assert_eq!(table.apply(&bind()), Change::News);
        look(&mut table, vec![listener(1)]);
        assert_eq!(table.apply(&listen()), Change::News);
        // but what was told as held is known
        table.load(&[PORT], vec![listener(1)], Instant::now());
        assert_eq!([bind(), listen()].map(|event| table.apply(&event)), [Change::Known, Change::Known]);
    }

    #[test]
    fn a_socket_whose_cookie_was_asked_for_meanwhile_is_the_same() {
        let mut table = Table::default();
        let bare = Socket { cookie: None, inode: Some(5), ..listener(0) };
        table.load(&[PORT], vec![bare], Instant::now());
        look(&mut table, vec![Socket { inode: Some(5), ..listener(1) }]);
        assert_eq!(table.on_port(PORT).count(), 1);
        assert_eq!(table.apply(&release(1)), Change::NewsAndFree);
    }

    fn listen(port: u16, at: Instant) -> Event {
        let address = ([127, 0, 0, 1], port).into();
        Event { kind: EventKind::Listen, address, at, cookie: Some(7), ..release(7) }
    }

    #[test]
    fn what_comes_between_the_snapshots_of_two_ports_is_news() {
        let begun = Instant::now();
        let moment = |number: u64| begun + std::time::Duration::from_millis(number);
        let mut table = Table::default();
        table.load(&[PORT], Vec::new(), moment(1));
        table.load(&[Port::tcp(81)], Vec::new(), moment(3));
        assert_eq!(table.apply(&listen(80, moment(0))), Change::Known);
        assert_eq!(table.apply(&listen(80, moment(2))), Change::News);
        assert_eq!(table.apply(&listen(81, moment(2))), Change::Known);
    }

    #[test]
    fn a_port_is_free_in_each_namespace_by_itself() {
        let mut table = Table::default();
        let in_namespace = |cookie, netns| Socket { netns: Some(netns), ..listener(cookie) };
        table.load(&[PORT], vec![in_namespace(1, 5), in_namespace(2, 6)], Instant::now());
        let event = Event { netns: Some(5), ..release(1) };
        assert_eq!(table.apply(&event), Change::NewsAndFree);
        assert_eq!(table.in_namespace(PORT, Some(6)).count(), 1);
    }

    #[test]
    fn sockets_are_found_however_many_went_before() {
        let mut table = Table::default();
        let bare = Socket { cookie: None, ..listener(0) };
        let all = [listener(1), listener(2), bare, listener(3), listener(4)];
        table.load(&[PORT], all.into(), Instant::now());
        // when the first goes, the last takes its place
        for cookie in [1, 4, 2] {
            assert_eq!(table.apply(&release(cookie)), Change::News);
            // and its end is no news twice
            assert!(table.on_port(PORT).all(|socket| socket.cookie != Some(cookie)));
        }
        assert_eq!(table.on_port(PORT).count(), 2);
        // a socket without a cookie is known by its address
        assert_eq!(table.apply(&release(5)), Change::News);
        assert_eq!(table.apply(&release(5)), Change::Known);
        assert_eq!(table.apply(&release(3)), Change::NewsAndFree);
    }

    #[test]
    fn one_cookie_that_was_listed_twice_goes_twice() {
        let mut table = Table::default();
        table.load(&[PORT], vec![listener(1), listener(2), listener(1)], Instant::now());
        let changes = [1, 1, 2].map(|cookie| table.apply(&release(cookie)));
        assert_eq!(changes, [Change::News, Change::News, Change::NewsAndFree]);
    }

    #[test]
    fn what_two_looks_do_not_find_is_forgotten() {
        let mut table = Table::default();
        table.load(&[PORT], vec![listener(1), listener(2)], Instant::now());
        look(&mut table, vec![listener(2)]);
        look(&mut table, vec![listener(2)]);
        assert_eq!(table.on_port(PORT).count(), 1);
        // and a socket that is found again must again be missed twice
        look(&mut table, Vec::new());
        look(&mut table, vec![listener(2)]);
        look(&mut table, Vec::new());
        assert_eq!(table.on_port(PORT).count(), 1);
    }

    /// The network namespace that is meant.
    const HERE: u32 = 1;

    fn of_namespace(kind: EventKind, netns: u32, cookie: u64) -> Event {
        Event { kind, netns: Some(netns), cookie: Some(cookie), uid: Some(7), ..release(cookie) }
    }

    #[test]
    fn listeners_of_another_namespace_beyond_the_bound_are_news_and_not_kept() {
        const MANY: u64 = 5_000;
        let mut table = Table::new(Some(HERE));
        table.load(&[PORT], Vec::new(), Instant::now());
        for cookie in 1..=MANY {
            assert_eq!(table.apply(&of_namespace(EventKind::Listen, 2, cookie)), Change::News);
        }
        let kept = table.on_port(PORT).filter(|socket| !socket.is_left_out()).count();
        assert!(kept < 2_000, "{kept}");
        assert_eq!(table.is_partial(), (false, true));
        // and none of the own namespace is left out because of them
        assert_eq!(table.apply(&of_namespace(EventKind::Listen, HERE, MANY + 1)), Change::News);
        assert_eq!(table.in_namespace(PORT, Some(HERE)).count(), 1);
        assert_eq!(table.apply(&of_namespace(EventKind::Release, HERE, MANY + 1)), Change::NewsAndFree);
        // when all of them go, those that were not kept are no news, and take no other's place with them
        let news = (1..=MANY).rev().filter(|&cookie| {
            let change = table.apply(&of_namespace(EventKind::Release, 2, cookie));
            assert!(change != Change::NewsAndFree, "nobody knows that {cookie} was the last");
            change == Change::News
        });
        assert_eq!(news.count(), kept);
        // and there is room again, and after a look nothing is left out
        assert_eq!(table.apply(&of_namespace(EventKind::Listen, 2, MANY + 2)), Change::News);
        let there = Socket { netns: Some(2), ..listener(MANY + 2) };
        look(&mut table, vec![there]);
        assert_eq!((table.is_partial(), table.on_port(PORT).count()), ((false, false), 1));
        assert_eq!(table.apply(&of_namespace(EventKind::Release, 2, MANY + 2)), Change::NewsAndFree);
    }

    #[test]
    fn what_a_look_leaves_out_keeps_a_port_from_being_called_free() {
        let mut left_out = Remainder::default();
        left_out.add(&Socket { netns: Some(HERE), ..listener(9) }, true, Instant::now());
        let mut snapshot: Vec<Socket> = left_out.into_sockets().collect();
        snapshot.push(Socket { netns: Some(HERE), ..listener(1) });
        let mut table = Table::new(Some(HERE));
        table.load(&[PORT], snapshot, Instant::now());
        assert_eq!((table.held(), table.is_partial()), (vec![PORT], (true, false)));
        // then neither the end of what is known, nor that of what is not, is that of all
        assert_eq!(table.apply(&of_namespace(EventKind::Release, HERE, 1)), Change::News);
        assert_eq!(table.apply(&of_namespace(EventKind::Release, HERE, 9)), Change::Known);
        assert_eq!(table.in_namespace(PORT, Some(HERE)).count(), 1);
        table.keep(&[]);
        assert_eq!((table.held().len(), table.is_partial()), (0, (false, false)));
    }
}
