//! Binds to prove that a port is free: it only binds, never listens, and closes immediately.

use std::io;
use std::os::windows::io::AsRawSocket;

use socket2::{Domain, Socket, Type};
use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, WSAEACCES, WSAEADDRINUSE, setsockopt,
};

use crate::model::Protocol;
use crate::platform::contract::{Bind, BindAddress, BindAs};

/// One bind. A server that does not share its port sets `SO_EXCLUSIVEADDRUSE`; with `SO_REUSEADDR`, which means something
/// else on Windows, it could take a port on which another server listens.
pub(in crate::platform) fn try_bind(address: &BindAddress, how: BindAs) -> Bind {
    match attempt(address, how) {
        // The bind may have succeeded beside a listener on all addresses.
        Ok(()) => Bind::Free { conclusive: false },
        // If the owner is exclusive, a bind that would share fails with EACCES.
        Err(error) if matches!(error.raw_os_error(), Some(WSAEADDRINUSE | WSAEACCES)) => Bind::Taken,
        Err(error) => Bind::Untried(error),
    }
}

fn attempt(address: &BindAddress, how: BindAs) -> io::Result<()> {
    let domain = Domain::for_address(address.address);
    let (kind, protocol) = match address.protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(address.v6_only)?;
    }
    if how == BindAs::Server {
        exclusive(&socket)?;
    }
    socket.bind(&address.address.into())
}

fn exclusive(socket: &Socket) -> io::Result<()> {
    let on = 1i32;
    let length = i32::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    let raw = SOCKET::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
    // SAFETY: the option is one number, whose address and length are given; the socket is open.
    let result = unsafe { setsockopt(raw, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
