//! How much is kept of what others have opened. Any user can open hundreds of thousands of sockets and descriptors, most
//! easily in network namespaces of his own.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::outcome::Reason;
use super::port::Port;
use super::socket::{Socket, SocketState};

/// So many processes of one socket are kept, in the network namespace that is meant ("here") and in others.
const OF_SOCKET: usize = 4_096;
const OF_SOCKET_ELSEWHERE: usize = OF_NAMESPACE;
/// So many sockets, with each process but the first of a socket counted as one more: of those that one user has made here, of
/// all users here but root, of one other namespace, and of all others together. All of them take some 30 MB.
const OF_USER: usize = 16_384;
const OF_USERS: usize = 65_536;
const OF_NAMESPACE: usize = 1_024;
const ELSEWHERE: usize = 16_384;

/// The room that is left. No other namespace can take what is kept for this one, and nobody what is kept for root.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// The namespace that is meant; `None` if only one is seen.
    here: Option<u32>,
    users: HashMap<Option<u32>, usize>,
    /// Of all users but root.
    of_users: usize,
    namespaces: HashMap<Option<u32>, usize>,
    elsewhere: usize,
}

impl Room {
    pub(crate) fn new(here: Option<u32>) -> Self {
        Self { here, ..Self::default() }
    }

    /// The same room with nothing in it.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.here)
    }

    /// Whether the namespace is, or may be, the one that is meant.
    pub(crate) fn is_here(&self, netns: Option<u32>) -> bool {
        self.here.is_none() || netns.is_none() || netns == self.here
    }

    /// Takes the place of one more process of a socket that has so many; false if there is none.
    pub(crate) fn take(&mut self, socket: &Socket, has: usize) -> bool {
        let of = |counts: &HashMap<Option<u32>, usize>, of| counts.get(&of).copied().unwrap_or(0);
        let fits = if self.is_here(socket.netns) {
            let is_roots = socket.uid == Some(0);
            has < OF_SOCKET && of(&self.users, socket.uid) < OF_USER && (is_roots || self.of_users < OF_USERS)
        } else {
            has < OF_SOCKET_ELSEWHERE
                && of(&self.namespaces, socket.netns) < OF_NAMESPACE
                && self.elsewhere < ELSEWHERE
        };
        if fits {
            self.add(socket, 1);
        }
        fits
    }

    /// Counts a socket that is kept already.
    pub(crate) fn count(&mut self, socket: &Socket) {
        self.add(socket, socket.descriptors.len().max(1));
    }

    fn add(&mut self, socket: &Socket, count: usize) {
        if !self.is_here(socket.netns) {
            *self.namespaces.entry(socket.netns).or_default() += count;
            self.elsewhere += count;
            return;
        }
        *self.users.entry(socket.uid).or_default() += count;
        if socket.uid != Some(0) {
            self.of_users += count;
        }
    }

    /// Gives the place of a counted socket back.
    pub(crate) fn give_back(&mut self, socket: &Socket) {
        let count = socket.descriptors.len().max(1);
        let (counts, of) = if self.is_here(socket.netns) {
            if socket.uid != Some(0) {
                self.of_users = self.of_users.saturating_sub(count);
            }
            (&mut self.users, socket.uid)
        } else {
            self.elsewhere = self.elsewhere.saturating_sub(count);
            (&mut self.namespaces, socket.netns)
        };
        if let Some(left) = counts.get_mut(&of) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                counts.remove(&of);
            }
        }
    }
}

/// What there was no room for: for each port, namespace, address and state one socket without a holder, which stands for all
/// of them. It makes nobody an owner, and the port not free.
#[derive(Debug, Default)]
pub(crate) struct Remainder {
    ports: HashMap<Port, HashMap<Place, (Socket, Instant)>>,
    here: usize,
    elsewhere: usize,
}

type Place = (Option<u32>, SocketAddr, SocketState);

impl Remainder {
    /// So many places of sockets that were left out are told apart, here and elsewhere.
    pub(crate) const ADDRESSES: usize = 1_024;

    /// Adds a socket that was found at that time, or had a holder too many.
    pub(crate) fn add(&mut self, socket: &Socket, is_here: bool, at: Instant) {
        let port = socket.port();
        let mut place = (socket.netns, socket.address, socket.state);
        let known = self.ports.get_mut(&port).and_then(|places| places.get_mut(&place));
        if let Some((_, since)) = known {
            *since = at;
            return;
        }
        let count = if is_here { &mut self.here } else { &mut self.elsewhere };
        if *count >= Self::ADDRESSES {
            if !is_here {
                // There are so many that none is missed: see `is_partial`.
                return;
            }
            place = everywhere(socket.netns, port);
        }
        let (netns, address, state) = place;
        let stand_in =
            Socket { netns, unheld: Some(Reason::TooMany), ..Socket::new(port.protocol, address, state) };
        let before = self.ports.entry(port).or_default().insert(place, (stand_in, at));
        *count += usize::from(before.is_none());
    }

    /// Whether the socket may be one of those that were left out.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux lists so many"))]
    pub(crate) fn covers(&self, socket: &Socket) -> bool {
        let places = self.ports.get(&socket.port());
        let has = |place| places.is_some_and(|places| places.contains_key(&place));
        has((socket.netns, socket.address, socket.state)) || has(everywhere(socket.netns, socket.port()))
    }

    /// Forgets what was known of this port before this moment.
    pub(crate) fn forget(&mut self, port: Port, before: Instant, is_here: impl Fn(Option<u32>) -> bool) {
        let Some(places) = self.ports.get_mut(&port) else { return };
        let (here, elsewhere) = (&mut self.here, &mut self.elsewhere);
        places.retain(|(netns, ..), (_, at)| {
            let stays = *at >= before;
            let count = if is_here(*netns) { &mut *here } else { &mut *elsewhere };
            *count = count.saturating_sub(usize::from(!stays));
            stays
        });
        if places.is_empty() {
            self.ports.remove(&port);
        }
    }

    /// The ports of which something was left out.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> {
        self.ports.keys().copied()
    }

    /// What stands for the sockets of this port.
    pub(crate) fn on_port(&self, port: Port) -> impl Iterator<Item = &Socket> {
        self.ports.get(&port).into_iter().flatten().map(|(_, (socket, _))| socket)
    }

    /// What stands for all.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux lists so many"))]
    pub(crate) fn into_sockets(self) -> impl Iterator<Item = Socket> {
        self.ports.into_values().flatten().map(|(_, (socket, _))| socket)
    }

    /// Whether anything was left out here, and elsewhere. Of other namespaces more may be missing than is told by port.
    pub(crate) fn is_partial(&self) -> (bool, bool) {
        (self.here > 0, self.elsewhere > 0)
    }
}

/// The place of what was left out on any address, once there are too many to tell them apart.
fn everywhere(netns: Option<u32>, port: Port) -> Place {
    (netns, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.number), SocketState::Bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 1;
    const PORT: Port = Port::tcp(80);

    fn socket(netns: u32, uid: u32) -> Socket {
        let address = ([127, 0, 0, 1], 80).into();
        Socket {
            netns: Some(netns),
            uid: Some(uid),
            ..Socket::new(PORT.protocol, address, SocketState::Listen)
        }
    }

    fn room() -> Room {
        Room::new(Some(HERE))
    }

    /// How many such sockets there is room for.
    fn fill(room: &mut Room, socket: &Socket) -> usize {
        (0..1_000_000).take_while(|_| room.take(socket, 0)).count()
    }

    #[test]
    fn other_namespaces_and_users_take_no_room_of_this_one_and_of_roots() {
        let mut room = room();
        assert_eq!(fill(&mut room, &socket(2, 7)), OF_NAMESPACE);
        let elsewhere: usize = (3..100).map(|netns| fill(&mut room, &socket(netns, 7))).sum();
        assert_eq!(OF_NAMESPACE + elsewhere, ELSEWHERE);
        assert_eq!(fill(&mut room, &socket(HERE, 7)), OF_USER);
        let others: usize = (8..100).map(|uid| fill(&mut room, &socket(HERE, uid))).sum();
        assert_eq!(OF_USER + others, OF_USERS);
        assert_eq!(fill(&mut room, &socket(HERE, 0)), OF_USER);
    }

    #[test]
    fn a_place_that_is_given_back_is_free_again_and_none_is_given_back_twice() {
        let mut room = room();
        let foreign = socket(2, 7);
        assert!(!room.take(&foreign, OF_SOCKET_ELSEWHERE));
        fill(&mut room, &foreign);
        room.give_back(&foreign);
        assert_eq!(fill(&mut room, &foreign), 1);
        for _ in 0..3 * OF_NAMESPACE {
            room.give_back(&foreign);
        }
        assert_eq!(fill(&mut room, &foreign), OF_NAMESPACE);
    }

    #[test]
    fn what_is_left_out_is_told_by_address_until_there_are_too_many() {
        let mut left_out = Remainder::default();
        let at = Instant::now();
        for last in 0..3 * Remainder::ADDRESSES {
            let bytes = u32::try_from(last).unwrap().to_be_bytes();
            for netns in [HERE, 2] {
                let address = ([127, bytes[1], bytes[2], bytes[3]], 80).into();
                left_out.add(&Socket { address, ..socket(netns, 7) }, netns == HERE, at);
            }
        }
        assert_eq!(left_out.is_partial(), (true, true));
        // then here one more stands for all the rest
        let here = left_out.on_port(PORT).filter(|socket| socket.netns == Some(HERE)).count();
        assert_eq!(
            (here, left_out.on_port(PORT).count()),
            (Remainder::ADDRESSES + 1, 2 * Remainder::ADDRESSES + 1)
        );
        assert!(left_out.covers(&socket(HERE, 7)));
        assert!(left_out.on_port(PORT).all(Socket::is_left_out));
        // and nothing is forgotten that came later
        left_out.forget(PORT, at, |netns| netns == Some(HERE));
        assert_eq!(left_out.is_partial(), (true, true));
        left_out.forget(PORT, Instant::now(), |netns| netns == Some(HERE));
        assert_eq!((left_out.is_partial(), left_out.ports().count()), ((false, false), 0));
    }
}
