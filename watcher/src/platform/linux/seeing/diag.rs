//! sock_diag(7): the sockets of a port as netlink lists them, to any user. It names no process, but it knows listeners
//! that no descriptor leads to: those being passed between two processes, or held by the kernel itself.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn, bind, getsockname,
    recv, sendto, socket,
};
use nix::unistd::geteuid;
use watcher_common::{AF_INET, AF_INET6, OWN_MARK};

use super::address::{is_mapped, socket_address};
use super::hooks::Part;
use super::netns::Netns;
use crate::model::{Port, Protocol, Remainder, Room, Socket, SocketState};
use crate::platform::contract::TimeWaits;
use crate::platform::linux::protocol;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`, linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE`, linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST`, with `NLM_F_DUMP`, and with `NLM_F_ACK`.
const ONE: u16 = 0x1;
const DUMP: u16 = 0x301;
const ACKNOWLEDGED: u16 = 0x5;
/// `TCP_ESTABLISHED` and so on, net/tcp_states.h.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// `TCP_BOUND_INACTIVE`: sockets that are bound but do not listen, listed since Linux 6.8. Older kernels ignore the
/// bit.
const BOUND_INACTIVE: u8 = 13;
/// The timer of a connection that only lingers, in `idiag_timer`. It lingers in TIME_WAIT, or first in FIN_WAIT2.
const LINGERS: u8 = 3;
/// `INET_DIAG_SKV6ONLY` and `INET_DIAG_MARK`, linux/inet_diag.h. The kernel adds both unasked: the first to sockets that
/// listen or are bound over IPv6, the second for a reader with `CAP_NET_ADMIN`.
const SKV6ONLY: u16 = 11;
const MARK: u16 = 15;
/// Lengths of `nlmsghdr`, `inet_diag_req_v2`, and `inet_diag_msg`; attributes follow the latter.
const HEADER: usize = 16;
const REQUEST: usize = 56;
pub(super) const MESSAGE: usize = 72;

/// Which sockets to list: a set of states for each protocol. A UDP socket has only two states: it is connected, as if
/// established, or it is not, as if closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct States {
    tcp: u32,
    udp: u32,
}

impl States {
    /// Listeners, whose table is small, and all UDP sockets.
    pub(super) const LISTENING: Self = Self { tcp: bits(&[LISTEN]), udp: bits(&[CLOSE, ESTABLISHED]) };
    /// Also the sockets that are bound but do not listen, if the kernel lists them. For those it walks a table of 65,536
    /// chains, which takes milliseconds.
    pub(super) const OWNING: Self = Self { tcp: bits(&[LISTEN, BOUND_INACTIVE]), ..Self::LISTENING };
    /// Connections that a process may have. The kernel walks all connections for them.
    const CONNECTED: Self = Self {
        tcp: bits(&[ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING]),
        udp: bits(&[ESTABLISHED]),
    };
    const LINGERING: Self = Self { tcp: bits(&[FIN_WAIT2, TIME_WAIT]), udp: 0 };
    /// Whatever may keep another socket from the port, except for what only lingers.
    pub(super) const HOLDING: Self = Self::OWNING.and(Self::CONNECTED);
    /// All connections, lingering ones included.
    pub(super) const CONNECTIONS: Self = Self::CONNECTED.and(Self::LINGERING);

    /// Whether TCP connections are among them.
    pub(super) fn include_connections(self) -> bool {
        self.tcp & Self::CONNECTED.tcp != 0
    }

    const fn and(self, other: Self) -> Self {
        Self { tcp: self.tcp | other.tcp, udp: self.udp | other.udp }
    }

    fn of(self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        }
    }
}

const fn bits(states: &[u8]) -> u32 {
    let (mut bits, mut at) = (0, 0);
    while at < states.len() {
        bits |= 1 << states[at];
        at += 1;
    }
    bits
}

/// The sockets with one of these ports, without their holders; and those that stand for what there is no room for.
pub(super) fn sockets(netns: &Netns, ports: &[Port], states: States) -> io::Result<Vec<Socket>> {
    let (mut room, mut left_out) = (Room::new(None), Remainder::default());
    let (mut sockets, begun) = (Vec::new(), Instant::now());
    each_row(netns, ports, states, &mut |row| {
        if row.timer == LINGERS {
            return Ok(());
        }
        if room.take(&row.socket, 0) {
            sockets.push(row.socket);
        } else {
            left_out.add(&row.socket, true, begun);
        }
        Ok(())
    })?;
    sockets.extend(left_out.into_sockets());
    Ok(sockets)
}

/// All sockets of the namespace that serve by this protocol, without their holders.
pub(super) fn listeners(netns: &Netns, protocol: Protocol) -> io::Result<Vec<Socket>> {
    let mut listeners = Vec::new();
    let mut keep = |row: Row| {
        listeners.extend(Some(row.socket).filter(Socket::serves));
        may_go_on(listeners.len())
    };
    netns.run(|| dump_both(&open()?, protocol, 0, States::LISTENING, &mut keep))??;
    Ok(listeners)
}

/// Whether the kernel still has the socket in its table: until then it has not given the port back.
pub(super) fn has(netns: &Netns, port: Port, cookie: u64) -> io::Result<bool> {
    let rows = rows(netns, &[port], States::LISTENING)?;
    Ok(rows.iter().any(|row| row.socket.cookie == Some(cookie)))
}

/// Whether connections, open or lingering, have the port as their local port.
pub(super) fn has_connections(netns: &Netns, port: Port) -> io::Result<bool> {
    Ok(!rows(netns, &[port], States::CONNECTIONS)?.is_empty())
}

/// How long connections linger on the port.
pub(super) fn time_wait(netns: &Netns, port: Port) -> io::Result<TimeWaits> {
    let rows = rows(netns, &[port], States::LINGERING)?;
    let lingering = rows.iter().filter(|row| row.timer == LINGERS);
    Ok(longest_of_each(lingering.map(|row| (row.socket.address.ip(), row.expires))))
}

/// The longest time of each address.
pub(super) fn longest_of_each(all: impl Iterator<Item = (IpAddr, Duration)>) -> TimeWaits {
    let mut longest = TimeWaits::new();
    for (address, lasts) in all {
        let known = longest.entry(address).or_default();
        *known = lasts.max(*known);
    }
    longest
}

/// Takes the connections that linger on the port away, and returns how many there were. It needs `CAP_NET_ADMIN`, a
/// kernel with `CONFIG_INET_DIAG_DESTROY`, and for connections in TIME_WAIT Linux 6.5 or so.
pub(super) fn drop_time_wait(netns: &Netns, port: Port) -> io::Result<usize> {
    let rows = rows(netns, &[port], States::LINGERING)?;
    netns.run(|| {
        let netlink = open()?;
        let mut dropped = 0;
        for row in rows.iter().filter(|row| row.timer == LINGERS) {
            match destroy(&netlink, row) {
                Ok(()) => dropped += 1,
                // It has gone by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    })?
}

/// Whether this kernel lists sockets that are bound but do not listen: tried with a socket of our own.
pub(super) fn lists_bound() -> bool {
    let listed = || -> io::Result<bool> {
        let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        let number = getsockname::<SockaddrIn>(own.as_raw_fd())?.port();
        let mut is_listed = false;
        dump(&open()?, AF_INET, Protocol::Tcp, number, bits(&[BOUND_INACTIVE]), &mut |row| {
            is_listed |= row.socket.address.port() == number;
            Ok(())
        })?;
        Ok(is_listed)
    };
    listed().unwrap_or(false)
}

/// The user who made the socket with the address `there` of an open TCP connection to `here`, both on this host. Once the other
/// process has closed it, the kernel may tell root instead, so that it counts only as long as it is established.
pub(super) fn user_at(here: SocketAddr, there: SocketAddr) -> io::Result<Option<u32>> {
    let netlink = open()?;
    let [here, there] = [here, there].map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
    // The socket is looked for as its own process has it.
    let mut id = Vec::with_capacity(48);
    id.extend(there.port().to_be_bytes());
    id.extend(here.port().to_be_bytes());
    for ip in [there.ip(), here.ip()] {
        match ip {
            IpAddr::V4(ip) => {
                id.extend(ip.octets());
                id.extend([0; 12]);
            }
            IpAddr::V6(ip) => id.extend(ip.octets()),
        }
    }
    // On any interface, and with any cookie.
    id.extend([0; 4]);
    id.extend([0xff; 8]);
    let family = u8::try_from(if there.is_ipv4() { AF_INET } else { AF_INET6 }).map_err(io::Error::other)?;
    ask(&netlink, (SOCK_DIAG_BY_FAMILY, ONE), family, Protocol::Tcp, u32::MAX, &id, &[])?;
    let mut buffer = vec![0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut user = None;
    read_messages(&buffer[..length], |message| {
        if message.get(1) == Some(&ESTABLISHED) {
            user = decode(Protocol::Tcp, message).and_then(|row| row.socket.uid);
        }
    })?;
    Ok(user)
}

/// One socket of a table.
pub(super) struct Row {
    pub(super) socket: Socket,
    timer: u8,
    /// When the timer expires.
    expires: Duration,
    /// Family and protocol, and the part of the message by which the kernel finds the socket again.
    family: u8,
    pub(super) id: [u8; 48],
}

/// So many rows are kept at most: any user can make millions of sockets.
const MOST_ROWS: usize = 131_072;

fn may_go_on(rows: usize) -> io::Result<()> {
    if rows > MOST_ROWS { Err(io::Error::other("there are too many sockets")) } else { Ok(()) }
}

fn rows(netns: &Netns, ports: &[Port], states: States) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    each_row(netns, ports, states, &mut |row| {
        rows.push(row);
        may_go_on(rows.len())
    })?;
    Ok(rows)
}

/// Whoever is given the rows; an error of its own ends the list.
type Take<'a> = dyn FnMut(Row) -> io::Result<()> + Send + 'a;

fn each_row(netns: &Netns, ports: &[Port], states: States, take: &mut Take<'_>) -> io::Result<()> {
    // A protocol's table has the sockets of all ports: for several, it is read whole rather than several times.
    let mut asked: HashMap<Protocol, u16> = HashMap::new();
    for port in ports {
        asked.entry(port.protocol).and_modify(|number| *number = 0).or_insert(port.number);
    }
    // The kernel filters listeners by port, but not sockets that are bound without listening (seen on 6.18).
    let ports: HashSet<Port> = ports.iter().copied().collect();
    let mut take = |mut row: Row| {
        row.socket.netns = Some(netns.inode());
        if ports.contains(&row.socket.port()) { take(row) } else { Ok(()) }
    };
    netns.run(|| -> io::Result<()> {
        for (&protocol, &number) in asked.iter().filter(|(protocol, _)| states.of(**protocol) != 0) {
            dump_both(&open()?, protocol, number, states, &mut take)?;
        }
        Ok(())
    })?
}

fn open() -> io::Result<OwnedFd> {
    if Part::SocketDiag.is_switched_off() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    let kind = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, kind)?)
}

/// An attribute that lets sockets with this local port through, and no others: a program of the kernel's own small language
/// (inet_diag(7)). Each comparison is one word, with the number in the next; it goes on by 8 bytes, or else behind the end, which
/// is a no.
fn of_port(number: u16) -> Vec<u8> {
    /// `INET_DIAG_REQ_BYTECODE`, `INET_DIAG_BC_S_GE` and `INET_DIAG_BC_S_LE`, linux/inet_diag.h.
    const BYTECODE: u16 = 1;
    const AT_LEAST: u8 = 2;
    const AT_MOST: u8 = 3;
    const LENGTH: u16 = 16;
    let mut attribute = Vec::new();
    attribute.extend((4 + LENGTH).to_ne_bytes());
    attribute.extend(BYTECODE.to_ne_bytes());
    for (comparison, left) in [(AT_LEAST, LENGTH), (AT_MOST, LENGTH - 8)] {
        attribute.extend([comparison, 8]);
        attribute.extend((left + 4).to_ne_bytes());
        attribute.extend([0, 0]);
        attribute.extend(number.to_ne_bytes());
    }
    attribute
}

/// Sends a request with the family, the protocol, a set of states, the beginning of an `inet_diag_sockid`, and attributes.
fn ask(
    netlink: &OwnedFd,
    (kind, flags): (u16, u16),
    family: u8,
    protocol: Protocol,
    states: u32,
    id: &[u8],
    attributes: &[u8],
) -> io::Result<()> {
    let length = HEADER + REQUEST + attributes.len();
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence and port id
    request.extend([family, protocol::number(protocol), 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request.resize(HEADER + REQUEST, 0);
    request.extend(attributes);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// The sockets of both families.
fn dump_both(
    netlink: &OwnedFd,
    protocol: Protocol,
    number: u16,
    states: States,
    take: &mut Take<'_>,
) -> io::Result<()> {
    dump(netlink, AF_INET, protocol, number, states.of(protocol), take)?;
    dump(netlink, AF_INET6, protocol, number, states.of(protocol), take)
}

fn dump(
    netlink: &OwnedFd,
    family: u16,
    protocol: Protocol,
    number: u16,
    states: u32,
    take: &mut Take<'_>,
) -> io::Result<()> {
    let family = u8::try_from(family).map_err(io::Error::other)?;
    // The kernel looks at the port of the request where sockets listen or are connected, but not where they are bound without
    // listening (seen on 6.18): a host can have tens of thousands of these.
    let filter = if number == 0 { Vec::new() } else { of_port(number) };
    let id = number.to_be_bytes();
    ask(netlink, (SOCK_DIAG_BY_FAMILY, DUMP), family, protocol, states, &id, &filter)?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut taken = Ok(());
        let is_over = read_messages(&buffer[..length], |message| {
            if let (Ok(()), Some(row)) = (&taken, decode(protocol, message)) {
                taken = take(row);
            }
        })?;
        taken?;
        if is_over {
            return Ok(());
        }
    }
}

/// Ends a socket, which must be the one of the row: the row has its cookie.
fn destroy(netlink: &OwnedFd, row: &Row) -> io::Result<()> {
    ask(netlink, (SOCK_DESTROY, ACKNOWLEDGED), row.family, row.socket.protocol, u32::MAX, &row.id, &[])?;
    let mut buffer = vec![0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    read_messages(&buffer[..length], |_| ()).map(drop)
}

/// Gives each message of an answer to `take`, and returns whether the answer ends with them.
///
/// # Errors
/// What the kernel answered. Without `inet_diag` that is `ENOENT` in an error message; with it but without `tcp_diag`,
/// the same in the message that ends the list, which is then no empty list.
pub(super) fn read_messages(bytes: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut rest = bytes;
    while let Some((length, kind)) = header(rest) {
        let message = rest.get(HEADER..length).unwrap_or_default();
        match kind {
            NLMSG_DONE | NLMSG_ERROR => {
                let code = message.get(..4).and_then(|bytes| bytes.try_into().ok());
                let code = code.map_or(0, i32::from_ne_bytes);
                return if code < 0 {
                    Err(io::Error::from_raw_os_error(code.saturating_neg()))
                } else {
                    Ok(true)
                };
            }
            _ => take(message),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Length (header included) and type of the first message.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind))
}

/// One `inet_diag_msg`: family, state, timer, retrans, then the id (ports, addresses, interface, cookie), expires,
/// queues, uid, inode; then attributes. `None` for a socket of gatewatch's own.
pub(super) fn decode(protocol: Protocol, message: &[u8]) -> Option<Row> {
    let (message, attributes) = message.split_at_checked(MESSAGE)?;
    let word = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let ip: IpAddr = if u16::from(message[0]) == AF_INET6 {
        Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?).into()
    } else {
        Ipv4Addr::from(<[u8; 4]>::try_from(message.get(8..12)?).ok()?).into()
    };
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let cookie = u64::from(word(44)?) | u64::from(word(48)?) << 32;
    let state = match message[1] {
        LISTEN => SocketState::Listen,
        // Asked for as the one, told as the other (seen on 6.18).
        BOUND_INACTIVE | CLOSE => SocketState::Bound,
        _ => SocketState::Connected,
    };
    let mark = attribute(attributes, MARK).and_then(|mark| Some(u32::from_ne_bytes(mark.try_into().ok()?)));
    // Gatewatch's own never listen, and root or this user makes them: anybody can set a mark in a user namespace of its own.
    let uid = word(64)?;
    let is_trusted = || [0, geteuid().as_raw()].contains(&uid);
    if mark == Some(OWN_MARK) && state != SocketState::Listen && is_trusted() {
        return None;
    }
    let v6_only = attribute(attributes, SKV6ONLY).and_then(|value| value.first()).map(|&value| value != 0);
    let socket = Socket {
        cookie: Some(cookie),
        inode: Some(u64::from(word(68)?)).filter(|&inode| inode != 0),
        uid: Some(uid),
        // Only a dual-stack socket can be bound to an IPv4 address.
        v6_only: if is_mapped(ip) { Some(false) } else { v6_only },
        ..Socket::new(protocol, socket_address(ip, port, word(40)?), state)
    };
    Some(Row {
        socket,
        timer: message[2],
        expires: Duration::from_millis(word(52)?.into()),
        family: message[0],
        id: message.get(4..52)?.try_into().ok()?,
    })
}

/// The value of an attribute: length and type, two bytes each, come before it.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_list_that_ends_with_an_error_is_not_empty() {
        let read = |bytes: &[u8]| read_messages(bytes, |_| ()).map_err(|error| error.raw_os_error());
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let missing = message(kind, &(-libc::ENOENT).to_ne_bytes());
            assert_eq!(read(&missing), Err(Some(libc::ENOENT)));
            assert_eq!(read(&message(kind, &0i32.to_ne_bytes())), Ok(true));
        }
        assert_eq!(read(&message(SOCK_DIAG_BY_FAMILY, &[0; MESSAGE])), Ok(false));
        // No kernel answers with it, and its negative is no number of that size.
        assert_eq!(read(&message(NLMSG_ERROR, &i32::MIN.to_ne_bytes())), Err(Some(i32::MAX)));
    }

    #[test]
    fn the_kernel_lists_the_sockets_of_one_port_alone() {
        let bound = || {
            let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
            let number = getsockname::<SockaddrIn>(own.as_raw_fd()).unwrap().port();
            (own, number)
        };
        let sockets: Vec<_> = (0..8).map(|_| bound()).collect();
        let number = sockets[3].1;
        let states = bits(&[LISTEN, BOUND_INACTIVE]);
        let mut rows = Vec::new();
        let mut take = |row| {
            rows.push(row);
            Ok(())
        };
        dump(&open().unwrap(), AF_INET, Protocol::Tcp, number, states, &mut take).unwrap();
        assert!(rows.iter().all(|row| row.socket.address.port() == number));
        // Kernels before 6.8 list none of them.
        assert_eq!(rows.len(), usize::from(lists_bound()));
    }

    #[test]
    fn a_dual_stack_listener_is_told_from_one_of_ipv6_alone() {
        let netns = Netns::current().unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = Port::tcp(listener.local_addr().unwrap().port());
        let listed = sockets(&netns, &[port], States::LISTENING).unwrap();
        assert_eq!(listed.iter().map(|socket| socket.v6_only).collect::<Vec<_>>(), [Some(false)]);
        let listener = TcpListener::bind("[::ffff:127.0.0.1]:0").unwrap();
        let port = Port::tcp(listener.local_addr().unwrap().port());
        let listed = sockets(&netns, &[port], States::LISTENING).unwrap();
        assert_eq!(listed[0].v6_only, Some(false));
        assert_eq!(listed[0].address, listener.local_addr().unwrap());
    }

    #[test]
    fn the_user_of_a_connection_is_told_as_long_as_it_is_open() {
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to =
                if at.starts_with("[::1]") { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
            let client = TcpStream::connect(to).unwrap();
            let (server, there) = listener.accept().unwrap();
            let here = server.local_addr().unwrap();
            assert_eq!(user_at(here, there).unwrap(), Some(geteuid().as_raw()), "{at}");
            drop(client);
            assert_ne!(user_at(here, there).ok().flatten(), Some(geteuid().as_raw()), "{at}");
        }
    }

    #[test]
    fn a_connection_that_lingers_is_seen_and_dropped() {
        let netns = Netns::current().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port::tcp(address.port());
        assert_eq!(time_wait(&netns, port).unwrap(), TimeWaits::new());
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        drop(client);
        // The client's end has come once the server reads it.
        io::copy(&mut server, &mut io::sink()).unwrap();
        drop((server, listener));
        let left = time_wait(&netns, port).unwrap()[&address.ip()];
        assert!(left > Duration::from_secs(1) && left <= Duration::from_mins(2), "{left:?}");
        match drop_time_wait(&netns, port) {
            Ok(dropped) => assert_eq!(dropped, 1),
            // An ordinary user may not, and not every kernel can.
            Err(error) => {
                let code = error.raw_os_error();
                assert!(code == Some(libc::EPERM) || code == Some(libc::EOPNOTSUPP), "{error}");
                return;
            }
        }
        assert_eq!(time_wait(&netns, port).unwrap(), TimeWaits::new());
    }
}
