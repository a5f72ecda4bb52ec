//! Binding, to prove that a port is free: bind only, never listen, closed at once.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};
use watcher_common::OWN_MARK;

use super::netns::Netns;
use crate::system::{Bind, BindAddress, BindAs};

/// One bind in the namespace.
pub(super) fn try_bind(netns: &Netns, address: &BindAddress, how: BindAs) -> Bind {
    match netns.run(|| attempt(address, how)) {
        Ok(Ok(())) => Bind::Free,
        Ok(Err(Errno::EADDRINUSE)) => Bind::Taken,
        Ok(Err(error)) => Bind::Untried(error.into()),
        Err(error) => Bind::Untried(error),
    }
}

fn attempt(address: &BindAddress, how: BindAs) -> nix::Result<()> {
    let family = if address.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The kernel program leaves marked sockets out. Without the privilege the mark stays away, and other people's
    // watchers see this bind for what it is.
    let _ = setsockopt(&socket, sockopt::Mark, &OWN_MARK);
    // The address may have left its interface with the socket that held it; the question is only about the port.
    let _ = setsockopt(&socket, sockopt::IpFreebind, &true);
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
