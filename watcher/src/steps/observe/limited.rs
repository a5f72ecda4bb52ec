//! An observer that sees only the sockets of certain addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::model::{Backend, Event, Observation, Port, Socket};
use crate::platform::contract::{ObserveError, Observer, TimeWaits};

/// Leaves out the sockets that don't meet the addresses asked for.
pub(crate) struct Limited {
    inner: Box<dyn Observer>,
    /// For each port its addresses. A port that is not here is not limited.
    addresses: HashMap<Port, Vec<IpAddr>>,
    /// What was found of the sockets of events, for when they are gone.
    v6_only: HashMap<u64, Option<bool>>,
}

impl Limited {
    /// Limits an observer to these addresses of each port.
    pub(crate) fn new(inner: Box<dyn Observer>, addresses: HashMap<Port, Vec<IpAddr>>) -> Self {
        Self { inner, addresses, v6_only: HashMap::new() }
    }

    /// Whether the socket of an event is of IPv6 alone, which the event does not tell: the table does, while it is there.
    fn v6_only(&mut self, event: &Event) -> Option<bool> {
        let is_wildcard = event.address.is_ipv6() && event.address.ip().is_unspecified();
        if !is_wildcard || !self.addresses.contains_key(&event.port()) {
            return None;
        }
        let is_same = |socket: &&Socket| socket.cookie == event.cookie && socket.address == event.address;
        let sockets = self.inner.snapshot(event.port()).unwrap_or_default();
        let found = sockets.iter().find(is_same).map(|socket| socket.v6_only);
        if let (Some(known), Some(cookie)) = (found, event.cookie) {
            self.v6_only.insert(cookie, known);
        }
        found.or_else(|| self.v6_only.get(&event.cookie?).copied()).flatten()
    }

    fn shows(&self, port: Port, address: SocketAddr, v6_only: Option<bool>) -> bool {
        self.addresses
            .get(&port)
            .is_none_or(|wanted| wanted.iter().any(|&wanted| meets(address.ip(), v6_only, wanted)))
    }
}

/// Whether a socket on `held` is in the way of `wanted`: the same address, or one of the two is that of a whole family. A
/// socket on all IPv6 addresses has IPv4's as well unless it is known to be of IPv6 alone.
pub(crate) fn meets(held: IpAddr, v6_only: Option<bool>, wanted: IpAddr) -> bool {
    let held = held.to_canonical();
    if held.is_ipv4() == wanted.is_ipv4() {
        return held == wanted || held.is_unspecified() || wanted.is_unspecified();
    }
    held.is_ipv6() && held.is_unspecified() && v6_only != Some(true)
}

impl Observer for Limited {
    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn look(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.inner.look(ports)?;
        sockets.retain(|socket| self.shows(socket.port(), socket.address, socket.v6_only));
        Ok(sockets)
    }

    fn owning(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.inner.owning(ports)?;
        sockets.retain(|socket| self.shows(socket.port(), socket.address, socket.v6_only));
        Ok(sockets)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        loop {
            let next = self.inner.poll_next(cx);
            let Poll::Ready(Ok(Observation::Event(event))) = &next else { return next };
            let v6_only = self.v6_only(event);
            if self.shows(event.port(), event.address, v6_only) {
                return next;
            }
        }
    }

    fn follow(&mut self) {
        self.inner.follow();
    }

    fn resolution(&self) -> Option<Duration> {
        self.inner.resolution()
    }

    fn losses(&self) -> Vec<String> {
        self.inner.losses()
    }

    fn time_wait(&mut self, port: Port) -> Result<TimeWaits, ObserveError> {
        self.inner.time_wait(port)
    }

    fn drop_time_wait(&mut self, port: Port) -> Result<usize, ObserveError> {
        self.inner.drop_time_wait(port)
    }

    fn other_ports(&mut self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        self.inner.other_ports(port, pids)
    }

    fn listening_elsewhere(&mut self, port: Port) -> Option<Vec<u32>> {
        self.inner.listening_elsewhere(port)
    }

    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError> {
        self.inner.may_hide_bound(port)
    }

    fn look_at_once(&mut self) {
        self.inner.look_at_once();
    }

    fn nobody_has(&mut self, port: Port) -> bool {
        self.inner.nobody_has(port)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_meets_itself_and_the_wildcards_of_its_family() {
        let meets = |held: &str, v6_only, wanted: &str| {
            super::meets(held.parse().unwrap(), v6_only, wanted.parse().unwrap())
        };
        assert!(meets("127.0.0.1", None, "127.0.0.1"));
        assert!(meets("0.0.0.0", None, "127.0.0.1"));
        assert!(meets("127.0.0.1", None, "0.0.0.0"));
        assert!(meets("::ffff:127.0.0.1", None, "127.0.0.1"));
        assert!(meets("::", Some(false), "127.0.0.1"));
        assert!(meets("::", None, "127.0.0.1"));
        assert!(meets("::", Some(true), "::1"));
        assert!(!meets("::", Some(true), "127.0.0.1"));
        assert!(!meets("0.0.0.0", None, "::1"));
        assert!(!meets("127.0.0.2", None, "127.0.0.1"));
        assert!(!meets("::1", None, "127.0.0.1"));
    }
}
