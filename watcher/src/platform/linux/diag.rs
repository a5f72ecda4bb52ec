//! sock_diag(7): the sockets of a port as netlink lists them, to anybody. It names no process, but it knows listeners
//! that no descriptor leads to: one that is on its way between two processes, or that the kernel itself holds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn, bind, getsockname,
    recv, sendto, socket,
};
use watcher_common::{AF_INET, AF_INET6};

use super::netns::Netns;
use crate::observe::{Socket, SocketState, socket_address};

/// `SOCK_DIAG_BY_FAMILY`, linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` and `NLMSG_DONE`, linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 0x301;
const IPPROTO_TCP: u8 = 6;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// `TCP_BOUND_INACTIVE`: sockets that are bound and do not listen, listed since Linux 6.8. Older kernels ignore the
/// bit.
const BOUND_INACTIVE: u8 = 13;
/// Lengths of `nlmsghdr`, `inet_diag_req_v2`, and the part of `inet_diag_msg` that is read.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// The sockets that listen on the port, without their holders; with `bound` also those that are bound to it and do not
/// listen, where the kernel lists them. To find those it walks a table of 65,536 chains, which takes milliseconds.
pub(super) fn sockets(netns: &Netns, port: u16, bound: bool) -> io::Result<Vec<Socket>> {
    let states = if bound { 1 << LISTEN | 1 << BOUND_INACTIVE } else { 1 << LISTEN };
    let mut sockets = netns.run(|| -> io::Result<Vec<Socket>> {
        let netlink = open()?;
        let mut sockets = dump(&netlink, AF_INET, port, states)?;
        sockets.extend(dump(&netlink, AF_INET6, port, states)?);
        Ok(sockets)
    })??;
    // The kernel heeds the port for listeners, but not for sockets that are bound and do not listen (seen on 6.18).
    sockets.retain(|socket| socket.address.port() == port);
    for socket in &mut sockets {
        socket.netns = Some(netns.inode());
    }
    Ok(sockets)
}

/// Whether this kernel lists sockets that are bound and do not listen: asked by looking for one of our own.
pub(super) fn lists_bound() -> bool {
    let listed = || -> io::Result<bool> {
        let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        let port = getsockname::<SockaddrIn>(own.as_raw_fd())?.port();
        Ok(!dump(&open()?, AF_INET, port, 1 << BOUND_INACTIVE)?.is_empty())
    };
    listed().unwrap_or(false)
}

fn open() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
}

fn dump(netlink: &OwnedFd, family: u16, port: u16, states: u32) -> io::Result<Vec<Socket>> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(u32::try_from(HEADER + REQUEST).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend([0; 8]); // sequence and port id
    request.extend([u8::try_from(family).map_err(io::Error::other)?, IPPROTO_TCP, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend(port.to_be_bytes());
    request.resize(HEADER + REQUEST, 0);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut sockets = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((length, kind)) = header(rest) {
            let message = rest.get(HEADER..length).unwrap_or_default();
            match kind {
                NLMSG_DONE => return Ok(sockets),
                NLMSG_ERROR => return Err(error(message)),
                _ => sockets.extend(decode(message)),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length (header included) and type of the first message.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind))
}

fn error(message: &[u8]) -> io::Error {
    let code = message.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

/// One `inet_diag_msg`: family, state, timer, retrans, then the id (ports, addresses, interface, cookie), expires,
/// queues, uid, inode.
fn decode(message: &[u8]) -> Option<Socket> {
    let message = message.get(..MESSAGE)?;
    let word = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let ip: IpAddr = if u16::from(message[0]) == AF_INET6 {
        Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?).into()
    } else {
        Ipv4Addr::from(<[u8; 4]>::try_from(message.get(8..12)?).ok()?).into()
    };
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let cookie = u64::from(word(44)?) | u64::from(word(48)?) << 32;
    Some(Socket {
        address: socket_address(ip, port, word(40)?),
        state: if message[1] == LISTEN { SocketState::Listen } else { SocketState::Bound },
        cookie: Some(cookie),
        inode: Some(u64::from(word(68)?)).filter(|&inode| inode != 0),
        netns: None,
        v6_only: None,
        uid: Some(word(64)?),
        multipath: false,
        holders: Vec::new(),
    })
}
