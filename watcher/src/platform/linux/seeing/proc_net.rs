//! /proc/net/tcp and tcp6, udp and udp6 (proc_pid_net(5)): the socket tables of kernels without `inet_diag`. They know
//! neither cookies nor `IPV6_V6ONLY`, and of TCP not the sockets that are bound and do not listen.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::address::{is_mapped, socket_address};
use super::diag::longest_of_each;
use super::netns::Netns;
use crate::model::{Port, Protocol, Socket, SocketState};
use crate::platform::contract::TimeWaits;

/// `TCP_TIME_WAIT` and so on, net/tcp_states.h. A UDP socket that is not connected is closed, in these terms.
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// The unit of the timers (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Of the thread, not of the process: a thread may have entered another network namespace.
const FOLDER: &str = "/proc/thread-self/net";

/// The sockets with one of these ports, without their holders.
pub(super) fn sockets(netns: &Netns, ports: &[Port]) -> io::Result<Vec<Socket>> {
    Ok(rows(netns, ports)?.into_iter().filter(|row| row.state != TIME_WAIT).map(|row| row.socket).collect())
}

/// All that serve by this protocol.
pub(super) fn listeners(netns: &Netns, protocol: Protocol) -> io::Result<Vec<Socket>> {
    netns.run(|| listeners_in(Path::new(FOLDER), protocol))?
}

/// The same of the namespace that a process is in, which need not be entered for that.
pub(super) fn listeners_of(pid: u32, protocol: Protocol) -> io::Result<Vec<Socket>> {
    listeners_in(Path::new(&format!("/proc/{pid}/net")), protocol)
}

fn listeners_in(folder: &Path, protocol: Protocol) -> io::Result<Vec<Socket>> {
    let rows = read(folder, protocol)?;
    Ok(rows.into_iter().map(|row| row.socket).filter(Socket::serves).collect())
}

/// Whether connections, open or lingering, have the port as their local port.
pub(super) fn has_connections(netns: &Netns, port: Port) -> io::Result<bool> {
    Ok(rows(netns, &[port])?.iter().any(|row| row.state != LISTEN))
}

/// How long connections linger on the port.
pub(super) fn time_wait(netns: &Netns, port: Port) -> io::Result<TimeWaits> {
    let rows = rows(netns, &[port])?;
    let lingering = rows.iter().filter(|row| row.state == TIME_WAIT);
    Ok(longest_of_each(lingering.map(|row| (row.socket.address.ip(), row.expires))))
}

/// One line of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) socket: Socket,
    pub(super) state: u8,
    expires: Duration,
}

fn rows(netns: &Netns, ports: &[Port]) -> io::Result<Vec<Row>> {
    let protocols: HashSet<Protocol> = ports.iter().map(|port| port.protocol).collect();
    let mut rows = netns.run(|| -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for &protocol in &protocols {
            rows.extend(read(Path::new(FOLDER), protocol)?);
        }
        Ok(rows)
    })??;
    let ports: HashSet<Port> = ports.iter().copied().collect();
    rows.retain(|row| ports.contains(&row.socket.port()));
    for row in &mut rows {
        row.socket.netns = Some(netns.inode());
    }
    Ok(rows)
}

/// Both tables of a protocol. A kernel without IPv6 has no `tcp6`; where IPv6 works, one that is not there is hidden.
fn read(folder: &Path, protocol: Protocol) -> io::Result<Vec<Row>> {
    let (v4, v6) = match protocol {
        Protocol::Tcp => ("tcp", "tcp6"),
        Protocol::Udp => ("udp", "udp6"),
    };
    let mut text = fs::read_to_string(folder.join(v4))?;
    match fs::read_to_string(folder.join(v6)) {
        Ok(more) => text.push_str(&more),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !has_ipv6() => {}
        Err(error) => return Err(error),
    }
    let mut rows: Vec<Row> = text.lines().filter_map(|line| row(protocol, line)).collect();
    if rows.iter().any(|row| is_without_scope(&row.socket.address)) {
        let interfaces = fs::read_to_string(folder.join("if_inet6")).unwrap_or_default();
        for row in &mut rows {
            add_scope(&mut row.socket.address, &interfaces);
        }
    }
    Ok(rows)
}

fn has_ipv6() -> bool {
    socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).is_ok()
}

fn is_without_scope(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

/// Gives a link-local address the interface that has it, if that is only one: the table does not name it. Lines of
/// `if_inet6`: address, number of the interface, and more, in hexadecimal.
fn add_scope(address: &mut SocketAddr, interfaces: &str) {
    let without = is_without_scope(address);
    let SocketAddr::V6(v6) = address else { return };
    let digits = format!("{:032x}", u128::from(*v6.ip()));
    let number = |line: &str| {
        let mut words = line.split_whitespace();
        let is_its = words.next() == Some(&digits);
        words.next().filter(|_| is_its).and_then(|number| u32::from_str_radix(number, 16).ok())
    };
    let mut numbers = interfaces.lines().filter_map(number);
    if let (true, Some(one), None) = (without, numbers.next(), numbers.next()) {
        v6.set_scope_id(one);
    }
}

/// One line: number, local and remote address, state, queues, timer, retransmits, user, timeout, inode, and more.
pub(super) fn row(protocol: Protocol, line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = words.get(1)?.split_once(':')?;
    let ip = address(ip)?;
    let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
    let (_, when) = words.get(5)?.split_once(':')?;
    let ticks = u64::from_str_radix(when, 16).ok()?;
    let inode: u64 = words.get(9)?.parse().ok()?;
    let does = match (protocol, state) {
        (Protocol::Tcp, LISTEN) => SocketState::Listen,
        (Protocol::Udp, CLOSE) => SocketState::Bound,
        _ => SocketState::Connected,
    };
    let address = socket_address(ip, u16::from_str_radix(port, 16).ok()?, 0);
    let socket = Socket {
        inode: Some(inode).filter(|&inode| inode != 0),
        uid: words.get(7)?.parse().ok(),
        v6_only: is_mapped(ip).then_some(false),
        ..Socket::new(protocol, address, does)
    };
    Some(Row { socket, state, expires: Duration::from_millis(ticks.saturating_mul(1000) / TICKS_PER_SECOND) })
}

/// An address: words of 32 bits as they lie in memory, printed as numbers of this machine.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_with_its_inode() {
        let netns = Netns::current().unwrap();
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(place).unwrap();
            let address = listener.local_addr().unwrap();
            let found = sockets(&netns, &[Port::tcp(address.port())]).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].address, found[0].state), (address, SocketState::Listen));
            assert!(found[0].inode.is_some());
        }
    }

    #[test]
    fn a_timer_can_be_as_long_as_its_digits_allow() {
        let timer = |when: &str| {
            let line = format!("1: 0100007F:4965 00000000:0000 06 0:0 03:{when} 00000000 0 0 0");
            row(Protocol::Tcp, &line).unwrap().expires
        };
        assert_eq!(timer("00000064"), Duration::from_secs(1));
        assert!(timer("FFFFFFFFFFFFFFFF") > Duration::from_hours(24));
    }

    #[test]
    fn a_table_that_is_not_there_is_no_empty_one() {
        assert!(read(Path::new("/nonexistent"), Protocol::Tcp).is_err());
    }

    #[test]
    fn a_link_local_address_gets_the_only_interface_that_has_it() {
        let line = |number: &str| format!("fe800000000000000000000000000001 {number} 40 20 80  veth0\n");
        let scope = |interfaces: &str, address: &str| {
            let mut address: SocketAddr = address.parse().unwrap();
            add_scope(&mut address, interfaces);
            address.to_string()
        };
        assert_eq!(scope(&line("0a"), "[fe80::1]:80"), "[fe80::1%10]:80");
        assert_eq!(scope(&line("0a"), "[fe80::1%3]:80"), "[fe80::1%3]:80");
        for (interfaces, address) in [
            (line("0a") + &line("0b"), "[fe80::1]:80"),
            (line("0a"), "[fe80::2]:80"),
            (line("0a"), "[2001:db8::1]:80"),
            (line("0a"), "127.0.0.1:80"),
        ] {
            assert_eq!(scope(&interfaces, address), address);
        }
    }
}
