//! Prove: the port can be bound.
//!
//! Only a command whose caller is about to bind may prove by binding; a watcher would disturb a server that starts in
//! that very moment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::observe::{ObserveError, Observer, Socket};
use crate::system::{Bind, BindAddress, BindAs, System};

/// How the release is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// The kernel told of each stale socket's destruction, and a bind succeeded.
    Ebpf,
    /// A bind succeeded.
    Bind,
    /// The socket table has no listener on the port, and this user may not bind it.
    Poll,
}

/// What is known of the port.
#[derive(Debug)]
pub enum Verdict {
    /// It can be bound.
    Free {
        /// How that is known.
        means: Means,
        /// Whether a server that does not set `SO_REUSEADDR` could bind as well; `None` when it could not be tried.
        plain: Option<bool>,
    },
    /// It can't be bound; these sockets hold it. None of them: its holder is on the way out, or can't be seen.
    Held(Vec<Socket>),
    /// It can be bound, but somebody has it who can't be seen, and who may begin to listen.
    Hidden,
}

/// Where to bind to prove that these sockets have let go: on their addresses; on all, when there are none.
#[must_use]
pub fn addresses(sockets: &[Socket], port: u16) -> Vec<BindAddress> {
    let mut addresses: Vec<BindAddress> = Vec::new();
    for socket in sockets.iter().filter(|socket| socket.owns_port()) {
        let address = BindAddress { address: socket.address, v6_only: socket.v6_only.unwrap_or(true) };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        addresses.extend(any.map(|ip| BindAddress { address: SocketAddr::new(ip, port), v6_only: true }));
    }
    addresses
}

/// Looks whether the port can be bound on the addresses at this moment.
///
/// # Errors
/// When a bind failed, or was not allowed, and the sockets can't be read.
pub fn look(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: u16,
    addresses: &[BindAddress],
) -> Result<Verdict, ObserveError> {
    match bind_all(system, addresses, BindAs::Server) {
        Bind::Taken => Ok(Verdict::Held(observer.snapshot(port)?)),
        Bind::Untried(_) => {
            let sockets = observer.snapshot(port)?;
            if sockets.is_empty() {
                Ok(Verdict::Free { means: Means::Poll, plain: None })
            } else {
                Ok(Verdict::Held(sockets))
            }
        }
        Bind::Free => {
            let plain = matches!(bind_all(system, addresses, BindAs::Plain), Bind::Free);
            let free = Verdict::Free { means: Means::Bind, plain: Some(plain) };
            if plain && system.bind_meets_every_listener() {
                return Ok(free);
            }
            // Sockets that are bound and do not listen let a server with SO_REUSEADDR bind beside them. One of them
            // may be a new owner just before its listen().
            let sockets = observer.snapshot(port)?;
            if sockets.iter().any(Socket::owns_port) {
                Ok(Verdict::Held(sockets))
            } else if !plain && observer.may_hide_bound(port)? {
                Ok(Verdict::Hidden)
            } else {
                Ok(free)
            }
        }
    }
}

/// Binds each address in turn: taken if one is, untried if none could be tried.
fn bind_all(system: &dyn System, addresses: &[BindAddress], how: BindAs) -> Bind {
    let mut answer = None;
    for address in addresses {
        match system.try_bind(address, how) {
            Bind::Taken => return Bind::Taken,
            Bind::Free => answer = Some(Bind::Free),
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
    use crate::observe::{Backend, Observation, SocketState};
    use crate::system::fake::FakeSystem;

    /// A socket table that does not change.
    struct Still(Vec<Socket>);

    impl Observer for Still {
        fn backend(&self) -> Backend {
            Backend::Poll
        }

        fn snapshot(&mut self, _port: u16) -> Result<Vec<Socket>, ObserveError> {
            Ok(self.0.clone())
        }

        fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
            Poll::Pending
        }

        fn set_ports(&mut self, _ports: &[u16]) -> Result<(), ObserveError> {
            Ok(())
        }

        fn may_hide_bound(&mut self, _port: u16) -> Result<bool, ObserveError> {
            Ok(false)
        }
    }

    #[test]
    fn a_bind_is_no_proof_beside_a_listener_that_it_does_not_meet() {
        // given a system whose binds succeed beside a listener on all addresses
        let system = FakeSystem::with_binds_that_succeed();
        let listener = Socket {
            address: ([0, 0, 0, 0], 80).into(),
            state: SocketState::Listen,
            cookie: None,
            inode: None,
            netns: None,
            v6_only: None,
            uid: None,
            multipath: false,
            holders: Vec::new(),
        };
        let here = [BindAddress { address: ([127, 0, 0, 1], 80).into(), v6_only: true }];
        let verdict = |sockets| look(&system, &mut Still(sockets), 80, &here).unwrap();
        // then the port is free only when the table has none
        assert!(matches!(verdict(vec![listener]), Verdict::Held(_)));
        assert!(matches!(verdict(Vec::new()), Verdict::Free { plain: Some(true), .. }));
    }
}
