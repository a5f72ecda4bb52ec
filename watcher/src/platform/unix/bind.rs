//! Binds to prove that a port is free: it only binds, never listens, and closes immediately.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

use crate::model::Protocol;
use crate::platform::contract::{Bind, BindAddress, BindAs};

/// One bind, run by `place` (in a network namespace, for example), on a socket that `prepare` has set up. `conclusive`
/// says whether a successful bind proves on this system that no process listens.
pub(in crate::platform) fn try_bind(
    place: impl FnOnce(&mut (dyn FnMut() -> nix::Result<()> + Send)) -> io::Result<nix::Result<()>>,
    prepare: fn(&OwnedFd),
    address: &BindAddress,
    how: BindAs,
    conclusive: bool,
) -> Bind {
    match place(&mut || attempt(prepare, address, how)) {
        Ok(Ok(())) => Bind::Free { conclusive },
        Ok(Err(Errno::EADDRINUSE)) => Bind::Taken,
        Ok(Err(error)) => Bind::Untried(error.into()),
        Err(error) => Bind::Untried(error),
    }
}

fn attempt(prepare: fn(&OwnedFd), address: &BindAddress, how: BindAs) -> nix::Result<()> {
    let family = if address.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match address.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::empty(), None)?;
    prepare(&socket);
    if (how, address.protocol) == (BindAs::Server, Protocol::Tcp) {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    match address.address {
        SocketAddr::V4(v4) => bind(socket.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &address.v6_only)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(v6))
        }
    }
}
