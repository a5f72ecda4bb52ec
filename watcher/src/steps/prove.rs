//! Prove: the port can be bound.
//!
//! Only a command whose caller is about to bind may prove by binding, because the bind of a mere watcher would disturb a
//! server that starts at that moment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::model::{Port, ProofKind, Protocol, Socket};
use crate::platform::contract::{Bind, BindAddress, BindAs, ObserveError, Observer, System};

/// How the port came back.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    /// How that is known.
    pub kind: ProofKind,
    /// From the first signal until the port was back; from the first look if no process was signalled.
    pub after: Duration,
    /// Whether a server that does not set `SO_REUSEADDR` could bind as well; `None` if that could not be tried.
    pub plain_bind: Option<bool>,
}

/// Whether to try a bind without `SO_REUSEADDR` as well. Each such bind can make another server's fail that comes in the same
/// moment, so it is tried only where its answer is wanted, or where a socket may be hidden that nothing else shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    Try,
    Leave,
}

/// The state of the port.
#[derive(Debug)]
pub(crate) enum PortState {
    /// It can be bound.
    Free {
        /// How that is known.
        kind: ProofKind,
        /// Whether a server that does not set `SO_REUSEADDR` could bind as well; `None` if that could not be tried.
        plain: Option<bool>,
    },
    /// It can't be bound; these sockets hold it. If there are none, its holder is about to end, or can't be seen.
    Held(Vec<Socket>),
    /// It goes on listening here, and is held by nobody else.
    Kept,
    /// It can be bound, but an unseen process holds it and may begin to listen.
    Hidden,
}

/// Where to bind to prove that the port is back: the addresses of these sockets and the asked-for ones; all, if there are
/// neither.
#[must_use]
pub(crate) fn addresses(sockets: &[Socket], port: Port, asked: &[IpAddr]) -> Vec<BindAddress> {
    let mut addresses: Vec<BindAddress> = Vec::new();
    for socket in sockets.iter().filter(|socket| socket.owns_port()) {
        // Where it is not known, the stricter bind is the one that proves: to both families.
        let v6_only = socket.v6_only.unwrap_or(false);
        let address = BindAddress { protocol: socket.protocol, address: socket.address, v6_only };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let wanted = if asked.is_empty() && addresses.is_empty() { &any } else { asked };
    let Port { protocol, number } = port;
    for &ip in wanted {
        let address = BindAddress { protocol, address: SocketAddr::new(ip, number), v6_only: true };
        if !addresses.iter().any(|known| known.address == address.address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether a socket keeps a server from this address: the same one, or one of the two on all addresses. A listener on all
/// IPv6 addresses keeps IPv4's as well unless it is known to be of IPv6 alone.
#[must_use]
pub(crate) fn keeps_out(socket: &Socket, wanted: &BindAddress) -> bool {
    let (held, wanted_ip) = (socket.address.ip(), wanted.address.ip());
    if held.is_ipv4() == wanted_ip.is_ipv4() {
        return held == wanted_ip || held.is_unspecified() || wanted_ip.is_unspecified();
    }
    let held_on_both = held.is_ipv6() && held.is_unspecified() && socket.v6_only != Some(true);
    let wanted_on_both = wanted_ip.is_ipv6() && wanted_ip.is_unspecified() && !wanted.v6_only;
    held_on_both || wanted_on_both
}

/// Checks whether the port can be bound on the addresses at this moment.
///
/// # Errors
/// When a bind failed, or was not allowed, and the sockets can't be read.
pub(crate) fn look(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: Port,
    addresses: &[BindAddress],
    plain: Plain,
) -> Result<PortState, ObserveError> {
    match bind_all(system, addresses, BindAs::Server) {
        Bind::Taken => Ok(PortState::Held(observer.snapshot(port)?)),
        Bind::Untried(_) => {
            let sockets = observer.snapshot(port)?;
            if sockets.is_empty() {
                Ok(PortState::Free { kind: ProofKind::Poll, plain: None })
            } else {
                Ok(PortState::Held(sockets))
            }
        }
        Bind::Free { conclusive } => {
            let plain = match (port.protocol, plain) {
                // A UDP server's bind is a plain one already.
                (Protocol::Udp, _) => Some(true),
                (Protocol::Tcp, Plain::Try) => {
                    Some(matches!(bind_all(system, addresses, BindAs::Plain), Bind::Free { .. }))
                }
                (Protocol::Tcp, Plain::Leave) => None,
            };
            let free = PortState::Free { kind: ProofKind::Bind, plain };
            if plain == Some(true) && conclusive {
                return Ok(free);
            }
            if plain.is_none() && conclusive && observer.nobody_has(port) {
                return Ok(free);
            }
            // Sockets that are bound but do not listen let a server with SO_REUSEADDR bind beside them. One of them
            // may belong to a new owner just before its listen(). One that no descriptor leads to (it is on its way from one
            // process to another, or io_uring has it) is seen only in the kernel's own list.
            let meets = |socket: &Socket| addresses.iter().any(|address| keeps_out(socket, address));
            let listed = system.bound(port);
            let is_complete = listed.is_some();
            let bound: Vec<Socket> = listed.unwrap_or_default().into_iter().filter(meets).collect();
            if conclusive && is_complete && bound.is_empty() {
                return Ok(free);
            }
            let mut sockets = observer.snapshot(port)?;
            if sockets.iter().any(|socket| socket.owns_port() && meets(socket)) {
                return Ok(PortState::Held(sockets));
            }
            if !bound.is_empty() {
                sockets.extend(bound);
                Ok(PortState::Held(sockets))
            } else if plain != Some(true)
                && observer.may_hide_bound(port)?
                // Where this bind was to be left, it is the only way to know.
                && (plain.is_some() || matches!(bind_all(system, addresses, BindAs::Plain), Bind::Taken))
            {
                Ok(PortState::Hidden)
            } else {
                Ok(free)
            }
        }
    }
}

/// Binds each address in turn: taken if one of them is taken, untried if none could be tried.
fn bind_all(system: &dyn System, addresses: &[BindAddress], how: BindAs) -> Bind {
    let mut answer = None;
    for address in addresses {
        match system.try_bind(address, how) {
            Bind::Taken => return Bind::Taken,
            free @ Bind::Free { .. } => answer = Some(free),
            Bind::Untried(error) => {
                tracing::debug!(address = %address.address, %error, "a bind can't be tried");
                answer.get_or_insert(Bind::Untried(error));
            }
        }
    }
    answer.unwrap_or_else(|| Bind::Untried(std::io::Error::other("no address to bind")))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;
    use crate::model::{Backend, Observation, SocketState};
    use crate::steps::fake::FakeSystem;

    /// A socket table that does not change, and whether it may hide some.
    struct FixedTable(Vec<Socket>, bool);

    impl Observer for FixedTable {
        fn backend(&self) -> Backend {
            Backend::Poll
        }

        fn look(&mut self, _ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
            Ok(self.0.clone())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn may_hide_bound(&mut self, _port: Port) -> Result<bool, ObserveError> {
            Ok(self.1)
        }
    }

    #[test]
    fn a_bind_is_no_proof_beside_a_listener_that_it_does_not_meet() {
        // given a system on which binds succeed beside a listener on all addresses
        let system = FakeSystem::with_binds_that_succeed();
        let listener = Socket::new(Protocol::Tcp, ([0, 0, 0, 0], 80).into(), SocketState::Listen);
        let address = ([127, 0, 0, 1], 80).into();
        let here = [BindAddress { protocol: Protocol::Tcp, address, v6_only: true }];
        let state = |sockets| {
            look(&system, &mut FixedTable(sockets, false), Port::tcp(80), &here, Plain::Try).unwrap()
        };
        // then the port is free only if the table has no listener
        assert!(matches!(state(vec![listener]), PortState::Held(_)));
        assert!(matches!(state(Vec::new()), PortState::Free { plain: Some(true), .. }));
    }

    #[test]
    fn a_plain_bind_is_tried_only_where_its_answer_is_wanted() {
        for (plain, hides, tried) in [
            (Plain::Leave, false, &[BindAs::Server][..]),
            (Plain::Leave, true, &[BindAs::Server, BindAs::Plain]),
            (Plain::Try, false, &[BindAs::Server, BindAs::Plain]),
        ] {
            let system = FakeSystem::with_binds_that_succeed();
            let address = ([127, 0, 0, 1], 80).into();
            let here = [BindAddress { protocol: Protocol::Tcp, address, v6_only: true }];
            look(&system, &mut FixedTable(Vec::new(), hides), Port::tcp(80), &here, plain).unwrap();
            assert_eq!(*system.binds.lock().unwrap(), tried);
        }
    }
}
