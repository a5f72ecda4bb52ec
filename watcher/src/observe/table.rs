//! The sockets of the watched ports, kept current by events: a snapshot joined to the stream.

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

/// The sockets that own the watched ports.
#[derive(Debug, Default)]
pub struct Table {
    sockets: Vec<Socket>,
    /// When the newest snapshot was begun. What happened before it is in it.
    since: Option<Instant>,
}

impl Table {
    /// Replaces what is known of a port by a snapshot that was begun at `since`.
    pub fn load(&mut self, port: u16, snapshot: Vec<Socket>, since: Instant) {
        self.sockets.retain(|socket| socket.address.port() != port);
        self.sockets.extend(snapshot.into_iter().filter(Socket::owns_port));
        self.since = Some(since);
    }

    /// The sockets that own the port.
    pub fn on_port(&self, port: u16) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().filter(move |socket| socket.address.port() == port)
    }

    /// The sockets that own a watched port.
    #[must_use]
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: &Event) -> Change {
        let place = self.find(event);
        let before_snapshot = self.since.is_some_and(|since| event.at < since);
        match (event.kind, place) {
            (EventKind::Conflict, _) if before_snapshot => Change::Known,
            (EventKind::Conflict, _) => Change::News,
            (EventKind::Bind, Some(_)) => Change::Known,
            (EventKind::Listen, Some(at)) => self.set_state(at, SocketState::Listen),
            (EventKind::Unlisten, Some(at)) => self.set_state(at, SocketState::Bound),
            (EventKind::Release, Some(at)) => {
                self.sockets.swap_remove(at);
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

    fn set_state(&mut self, at: usize, state: SocketState) -> Change {
        let changed = self.sockets[at].state != state;
        self.sockets[at].state = state;
        if changed { Change::News } else { Change::Known }
    }

    fn insert(&mut self, event: &Event, state: SocketState) -> Change {
        let holders = event.pid.map(|pid| super::Holder { pid, tid: pid, fd: None }).into_iter().collect();
        self.sockets.push(Socket {
            address: event.address,
            state,
            cookie: event.cookie,
            inode: None,
            netns: event.netns,
            v6_only: None,
            uid: event.uid,
            multipath: false,
            holders,
        });
        Change::News
    }

    /// By cookie; where one side has none, by address.
    fn find(&self, event: &Event) -> Option<usize> {
        let by_cookie =
            event.cookie.and_then(|cookie| self.sockets.iter().position(|s| s.cookie == Some(cookie)));
        by_cookie.or_else(|| {
            self.sockets.iter().position(|socket| {
                (socket.cookie.is_none() || event.cookie.is_none())
                    && socket.address == event.address
                    && (socket.netns == event.netns || socket.netns.is_none() || event.netns.is_none())
            })
        })
    }
}
