//! Asks the kernel program whether any socket at all has a TCP port. A "no" spares the walk through all that are bound
//! ([`super::bound`]), which takes milliseconds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};
use watcher_common::{BucketQuestion, bucket};

use super::hooks::Part;
use super::load::{LoadError, Loader};
use super::netns::Netns;
use super::sys;
use crate::platform::linux::prepare_bind;

/// The program's name in the object.
pub(super) const PROGRAM: &str = "bucket";

/// The question, ready to be asked in one network namespace.
pub(super) struct Bucket {
    program: OwnedFd,
    /// By which the kernel program knows the namespace.
    socket: OwnedFd,
}

impl Bucket {
    /// Loads the program, and tries it: the port of a socket of our own must be found. Where the kernel keeps its sockets
    /// in another way than the program knows, it is not.
    ///
    /// # Errors
    /// If the program can't be loaded, or does not find that port.
    pub(super) fn new(loader: &Loader, netns: &Netns) -> Result<Self, LoadError> {
        let failed = |error| LoadError::Program { name: PROGRAM, error };
        if Part::Bucket.is_switched_off() {
            return Err(failed(io::Error::other("switched off by GATEWATCH_WITHOUT")));
        }
        let program = loader.load_to_run(PROGRAM)?;
        let open = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let (socket, own) = netns
            .run(|| -> io::Result<_> {
                let own = open()?;
                // Nobody is told of it, and it works where the loopback interface is down.
                prepare_bind(&own);
                // So that it keeps no server from a port that the kernel chooses for it, as far as that is possible.
                setsockopt(&own, sockopt::ReuseAddr, &true)?;
                bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
                Ok((open()?, own))
            })
            .flatten()
            .map_err(failed)?;
        let port = getsockname::<SockaddrIn>(own.as_raw_fd()).map_err(|error| failed(error.into()))?.port();
        let this = Self { program, socket };
        match this.ask(port).map_err(failed)? {
            bucket::SOME => Ok(this),
            _ => Err(failed(io::Error::other("it does not find a socket that is there"))),
        }
    }

    /// Whether no socket has the port. False if one has it, or that can't be told.
    pub(super) fn is_missing(&self, port: u16) -> bool {
        // No lock is held: a bucket that is given back and used again in that very moment can hide those behind it, once.
        (0..2).all(|_| self.ask(port).is_ok_and(|answer| answer == bucket::NONE))
    }

    fn ask(&self, port: u16) -> io::Result<u32> {
        let socket = u64::from(self.socket.as_raw_fd().cast_unsigned());
        sys::run(self.program.as_fd(), &BucketQuestion { socket, port: port.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, getsockname, socket,
    };

    use crate::model::Port;
    use crate::platform::contract::{Interest, Observer as _};
    use crate::platform::linux::seeing::{EbpfObserver, Netns, Scope, Wanted};

    /// A socket that is bound there and does not listen, and its port.
    fn bound_to(address: SocketAddr) -> (OwnedFd, u16) {
        let open = |family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        match address {
            SocketAddr::V4(v4) => {
                let own = open(AddressFamily::Inet);
                bind(own.as_raw_fd(), &SockaddrIn::from(v4)).unwrap();
                let port = getsockname::<SockaddrIn>(own.as_raw_fd()).unwrap().port();
                (own, port)
            }
            SocketAddr::V6(v6) => {
                let own = open(AddressFamily::Inet6);
                bind(own.as_raw_fd(), &SockaddrIn6::from(v6)).unwrap();
                let port = getsockname::<SockaddrIn6>(own.as_raw_fd()).unwrap().port();
                (own, port)
            }
        }
    }

    #[test]
    fn a_port_is_nobodys_only_if_no_socket_in_whatever_state_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port::tcp(address.port());
        let scope = Scope::One(Netns::current().unwrap());
        // An ordinary user may not load programs.
        let wanted = Wanted::of_ports(&[port], Interest::Snapshots);
        let Ok(mut observer) = EbpfObserver::new(&[port], scope, wanted) else { return };
        // while it listens
        assert!(!observer.nobody_has(port));
        // while a connection of it is open, and while that lingers
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        assert!(!observer.nobody_has(port));
        drop((server, client));
        assert!(!observer.nobody_has(port));
        // while it is bound, by whatever family
        for any in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (bound, number) = bound_to(any.parse().unwrap());
            let port = Port::tcp(number);
            assert!(!observer.nobody_has(port), "{any}");
            drop(bound);
            assert!(observer.nobody_has(port), "{any}");
        }
    }
}
