//! The sockets of the watched ports, kept current by events: a snapshot joined to the stream.

use std::collections::HashSet;
use std::time::Instant;

use super::{Event, EventKind, Socket, SocketState};

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing new: the snapshot had it already.
    Known,
    /// The event is news.
    News,
    /// The event is news, and nobody holds the port any more.
    NewsAndFree,
}

/// A socket, and since when it is known to be as it is.
#[derive(Debug)]
struct Known {
    socket: Socket,
    since: Instant,
    /// The last look did not find it, and no event has told of its end.
    missing: bool,
}

impl Known {
    fn new(socket: Socket, since: Instant) -> Self {
        Self { socket, since, missing: false }
    }
}

/// The sockets that own the watched ports.
#[derive(Debug, Default)]
pub struct Table {
    known: Vec<Known>,
    /// When the newest snapshot was begun. What happened before it is in it.
    since: Option<Instant>,
}

impl Table {
    /// Replaces what is known of a port by a snapshot that was begun at `since`.
    pub fn load(&mut self, port: u16, snapshot: Vec<Socket>, since: Instant) {
        self.known.retain(|known| known.socket.address.port() != port);
        let owning = snapshot.into_iter().filter(Socket::owns_port);
        self.known.extend(owning.map(|socket| Known::new(socket, since)));
        self.since = Some(since);
    }

    /// Corrects what is known of a port by a snapshot that was begun at `since`, without making news of it: events up to
    /// its end have been taken in before. `released` are the cookies of sockets that went while it was read.
    ///
    /// A descriptor is gone before its socket is: what one look does not find may be about to end, and its release, which
    /// is news, still to come. Only what the next look does not find either is forgotten.
    pub fn correct(&mut self, port: u16, snapshot: Vec<Socket>, since: Instant, released: &HashSet<u64>) {
        let is_there = |known: &Known| snapshot.iter().any(|socket| socket.id() == known.socket.id());
        self.known.retain_mut(|known| {
            // What an event has told of since then is newer than the snapshot.
            let concerns = known.socket.address.port() == port && known.since < since;
            let missing = concerns && !is_there(known);
            let twice = missing && known.missing;
            known.missing = missing;
            !twice
        });
        let is_gone = |socket: &Socket| socket.cookie.is_some_and(|cookie| released.contains(&cookie));
        for socket in snapshot.into_iter().filter(|socket| socket.owns_port() && !is_gone(socket)) {
            match self.known.iter_mut().find(|known| known.socket.id() == socket.id()) {
                Some(known) => {
                    let state = if known.since >= since { known.socket.state } else { socket.state };
                    known.socket = Socket { state, ..socket };
                }
                None => self.known.push(Known::new(socket, since)),
            }
        }
    }

    /// Forgets the ports that are not among these.
    pub fn keep(&mut self, ports: &[u16]) {
        self.known.retain(|known| ports.contains(&known.socket.address.port()));
    }

    /// The sockets that own the port.
    pub fn on_port(&self, port: u16) -> impl Iterator<Item = &Socket> {
        self.sockets().filter(move |socket| socket.address.port() == port)
    }

    /// The sockets that own a watched port.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.known.iter().map(|known| &known.socket)
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: &Event) -> Change {
        let place = self.find(event);
        let before_snapshot = self.since.is_some_and(|since| event.at < since);
        match (event.kind, place) {
            (EventKind::Conflict, _) if before_snapshot => Change::Known,
            (EventKind::Conflict, _) => Change::News,
            (EventKind::Bind, Some(_)) => Change::Known,
            (EventKind::Listen, Some(at)) => self.set_state(at, SocketState::Listen, event.at),
            (EventKind::Unlisten, Some(at)) => self.set_state(at, SocketState::Bound, event.at),
            (EventKind::Release, Some(at)) => {
                self.known.swap_remove(at);
                if self.on_port(event.address.port()).next().is_none() {
                    Change::NewsAndFree
                } else {
                    Change::News
                }
            }
            // It came, or went, before the snapshot, which would have shown it if it were still there.
            (_, None) if before_snapshot => Change::Known,
            (EventKind::Bind, None) => self.insert(event, SocketState::Bound),
            (EventKind::Listen, None) => self.insert(event, SocketState::Listen),
            // Connections that a closing listener never accepted are destroyed with it, and no longer have a remote
            // port by then: to the kernel program they look like listeners, but nobody ever saw them bind or listen.
            (EventKind::Unlisten | EventKind::Release, None) => Change::Known,
        }
    }

    fn set_state(&mut self, at: usize, state: SocketState, since: Instant) -> Change {
        let known = &mut self.known[at];
        let changed = known.socket.state != state;
        known.socket.state = state;
        known.since = since;
        if changed { Change::News } else { Change::Known }
    }

    fn insert(&mut self, event: &Event, state: SocketState) -> Change {
        let holders = event.pid.map(|pid| super::Holder { pid, tid: pid, fd: None }).into_iter().collect();
        let socket = Socket {
            address: event.address,
            state,
            cookie: event.cookie,
            inode: None,
            netns: event.netns,
            v6_only: None,
            uid: event.uid,
            multipath: false,
            holders,
        };
        self.known.push(Known::new(socket, event.at));
        Change::News
    }

    /// By cookie; where one side has none, by address.
    fn find(&self, event: &Event) -> Option<usize> {
        let by_cookie = event.cookie.and_then(|cookie| self.sockets().position(|s| s.cookie == Some(cookie)));
        by_cookie.or_else(|| {
            self.sockets().position(|socket| {
                (socket.cookie.is_none() || event.cookie.is_none())
                    && socket.address == event.address
                    && (socket.netns == event.netns || socket.netns.is_none() || event.netns.is_none())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn listener(cookie: u64) -> Socket {
        Socket {
            address: ([127, 0, 0, 1], 80).into(),
            state: SocketState::Listen,
            cookie: Some(cookie),
            inode: None,
            netns: None,
            v6_only: None,
            uid: None,
            multipath: false,
            holders: Vec::new(),
        }
    }

    fn release(cookie: u64) -> Event {
        Event {
            kind: EventKind::Release,
            address: ([127, 0, 0, 1], 80).into(),
            monotonic_ns: 0,
            at: Instant::now(),
            time: SystemTime::UNIX_EPOCH,
            delay: None,
            pid: None,
            uid: None,
            comm: String::new(),
            cookie: Some(cookie),
            netns: None,
        }
    }

    fn look(table: &mut Table, sockets: Vec<Socket>) {
        table.correct(80, sockets, Instant::now(), &HashSet::new());
    }

    #[test]
    fn a_release_is_news_though_a_look_came_between_descriptor_and_socket() {
        let mut table = Table::default();
        table.load(80, vec![listener(1)], Instant::now());
        look(&mut table, Vec::new());
        assert_eq!(table.apply(&release(1)), Change::NewsAndFree);
    }

    #[test]
    fn what_two_looks_do_not_find_is_forgotten() {
        let mut table = Table::default();
        table.load(80, vec![listener(1), listener(2)], Instant::now());
        look(&mut table, vec![listener(2)]);
        look(&mut table, vec![listener(2)]);
        assert_eq!(table.on_port(80).count(), 1);
        // and what is found again begins anew
        look(&mut table, Vec::new());
        look(&mut table, vec![listener(2)]);
        look(&mut table, Vec::new());
        assert_eq!(table.on_port(80).count(), 1);
    }
}
