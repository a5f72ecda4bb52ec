//! The sockets by which an actor holds a port.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Part, platform};

/// Sockets that hold nothing.
pub(crate) fn spare(count: usize) -> Vec<Socket> {
    (0..count).map(|_| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap()).collect()
}

/// Opens one for each address.
pub(crate) fn open_all(part: &Part) -> Vec<Socket> {
    if let Some(given) = platform::given(&part.own) {
        return given;
    }
    let mut port = 0;
    let mut sockets = Vec::new();
    for address in &part.addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(port);
        }
        let mut opened = open(part, address);
        // Whoever reads /proc/PID/fd holds each descriptor for a moment, as does the kernel's iterator over descriptors: a
        // listener closed in that moment is released only when the reader moves on.
        while part.churn > 0
            && !part.churn_strictly
            && opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        {
            opened = open(part, address);
        }
        for _ in 0..part.retries {
            if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                std::thread::sleep(Duration::from_millis(100));
                opened = open(part, address);
            }
        }
        let Ok(socket) = opened.inspect_err(|error| eprintln!("{address} can't be opened: {error}")) else {
            // Some scenarios start one again and again until it can: a panic's backtrace each time would hide what failed.
            std::process::exit(1);
        };
        port = address_of(&socket).port();
        sockets.push(socket);
    }
    sockets
}

/// Opens one.
pub(crate) fn open(part: &Part, address: SocketAddr) -> io::Result<Socket> {
    if part.udp {
        return open_udp(part, address);
    }
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(platform::protocol(&part.own)))?;
    platform::reuse(part, &socket)?;
    if part.v6_only && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if let Some(to) = part.connect {
        socket.connect(&to.into())?;
    } else if !part.bound {
        socket.listen(4096)?;
        // Wine's socket table names no process for a listener until the process asks about it.
        let _ = if address.is_ipv4() { socket.ttl_v4() } else { socket.unicast_hops_v6() };
    }
    platform::after_listen(part, &socket)?;
    Ok(socket)
}

fn open_udp(part: &Part, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(part.shared)?;
    platform::share(&part.own, &socket)?;
    socket.bind(&address.into())?;
    // As for a listener.
    let _ = if address.is_ipv4() { socket.ttl_v4() } else { socket.unicast_hops_v6() };
    if let Some(to) = part.connect {
        socket.connect(&to.into())?;
    }
    Ok(socket)
}

/// Where it is bound.
pub(crate) fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// Accepts a connection, and closes this side of it before the client does.
pub(crate) fn close_first(listener: &Socket) {
    let (accepted, _) = listener.accept().unwrap();
    let mut connection = TcpStream::from(accepted);
    connection.shutdown(Shutdown::Write).unwrap();
    // Until the client has closed its side too, this one is not in TIME_WAIT.
    io::copy(&mut connection, &mut io::sink()).unwrap();
}
