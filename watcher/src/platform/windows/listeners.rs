//! Which process a listener, or a UDP socket, belongs to. The socket table has the pid of the process that created it,
//! even if that process has ended and a child that inherited the listener holds it; by then another process may have the
//! pid.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, GetExtendedUdpTable, MIB_TCP6ROW_OWNER_MODULE, MIB_TCPROW_OWNER_MODULE,
    MIB_UDP6ROW_OWNER_MODULE, MIB_UDPROW_OWNER_MODULE, TCP_TABLE_OWNER_MODULE_LISTENER,
    UDP_TABLE_OWNER_MODULE,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};

use super::process;
use crate::model::{Descriptor, Protocol, Socket};

/// Whether the process still has the listener.
///
/// # Errors
/// If the table can't be read, or shows that the listener is older than the process.
pub(in crate::platform) fn holds(descriptor: &Descriptor, socket: &Socket) -> io::Result<bool> {
    let rows = rows(socket.protocol)?;
    if of(&rows, descriptor.pid, socket.address).next().is_none() {
        return Ok(false);
    }
    match process::start_time(descriptor.pid) {
        Ok(began) if is_older(&rows, descriptor.pid, socket.address, began.raw) => Err(io::Error::other(
            "the listener is older than the process, so an earlier process with this pid created it",
        )),
        _ => Ok(true),
    }
}

/// A listener, and when it was bound: in units of 100 ns since 1601, like a process's start; 0 if the system does not
/// report it, like Wine and some editions of Windows before 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    pid: u32,
    address: SocketAddr,
    bound_at: u64,
}

/// The rows of the address that name the process.
fn of(rows: &[Row], pid: u32, address: SocketAddr) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.pid == pid && row.address == address)
}

fn is_older(rows: &[Row], pid: u32, address: SocketAddr, began: u64) -> bool {
    of(rows, pid, address).any(|row| row.bound_at != 0 && row.bound_at < began)
}

fn rows(protocol: Protocol) -> io::Result<Vec<Row>> {
    // The bytes of an IPv4 address are in network order, so the number must not be converted.
    let v4 = |address: u32| IpAddr::from(Ipv4Addr::from(address.to_ne_bytes()));
    let mut rows;
    match protocol {
        Protocol::Tcp => {
            rows = read(protocol, AF_INET, |row: &MIB_TCPROW_OWNER_MODULE| Row {
                pid: row.dwOwningPid,
                address: address(v4(row.dwLocalAddr), row.dwLocalPort),
                bound_at: row.liCreateTimestamp.cast_unsigned(),
            })?;
            rows.extend(read(protocol, AF_INET6, |row: &MIB_TCP6ROW_OWNER_MODULE| Row {
                pid: row.dwOwningPid,
                address: address(Ipv6Addr::from(row.ucLocalAddr).into(), row.dwLocalPort),
                bound_at: row.liCreateTimestamp.cast_unsigned(),
            })?);
        }
        Protocol::Udp => {
            rows = read(protocol, AF_INET, |row: &MIB_UDPROW_OWNER_MODULE| Row {
                pid: row.dwOwningPid,
                address: address(v4(row.dwLocalAddr), row.dwLocalPort),
                bound_at: row.liCreateTimestamp.cast_unsigned(),
            })?;
            rows.extend(read(protocol, AF_INET6, |row: &MIB_UDP6ROW_OWNER_MODULE| Row {
                pid: row.dwOwningPid,
                address: address(Ipv6Addr::from(row.ucLocalAddr).into(), row.dwLocalPort),
                bound_at: row.liCreateTimestamp.cast_unsigned(),
            })?);
        }
    }
    Ok(rows)
}

/// The port is in the first two bytes, in network order.
fn address(ip: IpAddr, port: u32) -> SocketAddr {
    let [high, low, ..] = port.to_ne_bytes();
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

/// Reads a family's listeners or UDP sockets, whose rows are of type `T`.
fn read<T>(protocol: Protocol, family: u16, row: impl Fn(&T) -> Row) -> io::Result<Vec<Row>> {
    // A vector of numbers, so that the buffer has the rows' alignment.
    let mut table = vec![0u64];
    loop {
        let mut length = u32::try_from(table.len() * size_of::<u64>()).map_err(io::Error::other)?;
        let (place, family) = (table.as_mut_ptr().cast(), family.into());
        // SAFETY: the buffer has the length that is passed; the length is a variable of ours.
        let result = unsafe {
            match protocol {
                Protocol::Tcp => {
                    let which = TCP_TABLE_OWNER_MODULE_LISTENER;
                    GetExtendedTcpTable(place, &raw mut length, 0, family, which, 0)
                }
                Protocol::Udp => {
                    GetExtendedUdpTable(place, &raw mut length, 0, family, UDP_TABLE_OWNER_MODULE, 0)
                }
            }
        };
        match result {
            NO_ERROR => break,
            // The table may grow before it is read again.
            ERROR_INSUFFICIENT_BUFFER => {
                let length = usize::try_from(length).map_err(io::Error::other)?;
                table = vec![0; length.div_ceil(size_of::<u64>())];
            }
            error => return Err(io::Error::from_raw_os_error(error.cast_signed())),
        }
    }
    // The number of rows, padded to their alignment, then the rows.
    let Some((&head, body)) = table.split_first() else { return Ok(Vec::new()) };
    let there = size_of_val(body) / size_of::<T>();
    let [a, b, c, d, ..] = head.to_ne_bytes();
    let told = usize::try_from(u32::from_ne_bytes([a, b, c, d])).map_err(io::Error::other)?;
    let first = body.as_ptr().cast::<T>();
    const { assert!(align_of::<T>() == align_of::<u64>()) };
    // SAFETY: the rows follow each other, fit into the buffer, are plain numbers, and have the buffer's alignment.
    let rows = unsafe { std::slice::from_raw_parts(first, told.min(there)) };
    Ok(rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_in_the_table_under_its_makers_pid() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // In Wine's socket table, a listener has no process until the socket is first queried.
        listener.ttl().unwrap();
        let address = listener.local_addr().unwrap();
        let ours = rows(Protocol::Tcp).unwrap().into_iter().find(|row| row.address == address).unwrap();
        assert_eq!(ours.pid, std::process::id());
        // It is ours by its time as well, if the system reports that.
        let began = process::start_time(ours.pid).unwrap().raw;
        assert!(!is_older(&[ours], ours.pid, address, began), "{ours:?} {began}");
    }

    #[test]
    fn a_listener_of_before_the_process_is_another_ones() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let row = |bound_at| [Row { pid: 7, address, bound_at }];
        assert!(is_older(&row(99), 7, address, 100));
        assert!(!is_older(&row(100), 7, address, 100));
        // given no time, or another process's row
        assert!(!is_older(&row(0), 7, address, 100));
        assert!(!is_older(&row(99), 8, address, 100));
    }
}
