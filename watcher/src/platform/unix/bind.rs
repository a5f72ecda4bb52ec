//! Binding, to prove that a port is free: bind only, never listen, closed at once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use crate::platform::host;
use crate::system::{Bind, BindAddress, BindAs};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

/// One bind, where `place` says.
pub(crate) fn try_bind(
    place: impl FnOnce(&mut (dyn FnMut() -> nix::Result<()> + Send)) -> io::Result<nix::Result<()>>,
    address: &BindAddress,
    how: BindAs,
) -> Bind {
    match place(&mut || attempt(address, how)) {
        Ok(Ok(())) => Bind::Free,
        Ok(Err(Errno::EADDRINUSE)) => Bind::Taken,
        Ok(Err(error)) => Bind::Untried(error.into()),
        Err(error) => Bind::Untried(error),
    }
}

fn attempt(address: &BindAddress, how: BindAs) -> nix::Result<()> {
    let family = if address.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    host::prepare_bind(&socket);
    if how == BindAs::Server {
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
