//! Whose a listener is. The socket table goes by the pid of the process that made it, also when that one has ended and
//! a child that inherited the listener holds it; by then the pid may be another process's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, MIB_TCP6ROW_OWNER_MODULE, MIB_TCPROW_OWNER_MODULE, TCP_TABLE_OWNER_MODULE_LISTENER,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};

use super::process;
use crate::observe::{Holder, Socket};

/// Whether the process still has the listener.
///
/// # Errors
/// When the table can't be read, or says that the listener is older than the process.
pub(in crate::platform) fn holds(holder: &Holder, socket: &Socket) -> io::Result<bool> {
    let rows = rows()?;
    if of(&rows, holder.pid, socket.address).next().is_none() {
        return Ok(false);
    }
    match process::start_time(holder.pid) {
        Ok(began) if is_older(&rows, holder.pid, socket.address, began.raw) => Err(io::Error::other(
            "the listener is older than the process, so another one made it that had this pid",
        )),
        _ => Ok(true),
    }
}

/// A listener, and when it was bound: in units of 100 ns since 1601, like a process's start; 0 where that is not told,
/// as by Wine, and by some editions of Windows before 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    pid: u32,
    address: SocketAddr,
    bound_at: u64,
}

/// The rows that name the process for the address.
fn of(rows: &[Row], pid: u32, address: SocketAddr) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.pid == pid && row.address == address)
}

fn is_older(rows: &[Row], pid: u32, address: SocketAddr, began: u64) -> bool {
    of(rows, pid, address).any(|row| row.bound_at != 0 && row.bound_at < began)
}

fn rows() -> io::Result<Vec<Row>> {
    let mut rows = read(AF_INET, |row: &MIB_TCPROW_OWNER_MODULE| Row {
        pid: row.dwOwningPid,
        // The bytes lie in the network's order, whatever the number that they make.
        address: address(Ipv4Addr::from(row.dwLocalAddr.to_ne_bytes()).into(), row.dwLocalPort),
        bound_at: row.liCreateTimestamp.cast_unsigned(),
    })?;
    rows.extend(read(AF_INET6, |row: &MIB_TCP6ROW_OWNER_MODULE| Row {
        pid: row.dwOwningPid,
        address: address(Ipv6Addr::from(row.ucLocalAddr).into(), row.dwLocalPort),
        bound_at: row.liCreateTimestamp.cast_unsigned(),
    })?);
    Ok(rows)
}

/// The port is in the first two bytes, in the network's order.
fn address(ip: IpAddr, port: u32) -> SocketAddr {
    let [high, low, ..] = port.to_ne_bytes();
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

/// Reads a family's listeners, whose rows the system makes of type `T`.
fn read<T>(family: u16, row: impl Fn(&T) -> Row) -> io::Result<Vec<Row>> {
    // Of numbers that are aligned as the rows are.
    let mut table = vec![0u64];
    loop {
        let mut length = u32::try_from(table.len() * size_of::<u64>()).map_err(io::Error::other)?;
        // SAFETY: the table is as long as is said; the length is a variable of ours.
        let result = unsafe {
            GetExtendedTcpTable(
                table.as_mut_ptr().cast(),
                &raw mut length,
                0,
                family.into(),
                TCP_TABLE_OWNER_MODULE_LISTENER,
                0,
            )
        };
        match result {
            NO_ERROR => break,
            // The table may grow before it is asked for again.
            ERROR_INSUFFICIENT_BUFFER => {
                let length = usize::try_from(length).map_err(io::Error::other)?;
                table = vec![0; length.div_ceil(size_of::<u64>())];
            }
            error => return Err(io::Error::from_raw_os_error(error.cast_signed())),
        }
    }
    // The number of rows, padded to their alignment, and the rows.
    let Some((&head, body)) = table.split_first() else { return Ok(Vec::new()) };
    let there = size_of_val(body) / size_of::<T>();
    let [a, b, c, d, ..] = head.to_ne_bytes();
    let told = usize::try_from(u32::from_ne_bytes([a, b, c, d])).map_err(io::Error::other)?;
    let first = body.as_ptr().cast::<T>();
    const { assert!(align_of::<T>() == align_of::<u64>()) };
    // SAFETY: the rows lie one after the other, are no more than fit, are plain numbers, and aligned as the buffer is.
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
        // Wine leaves a listener that was never asked anything with no process in its socket table.
        listener.ttl().unwrap();
        let address = listener.local_addr().unwrap();
        let ours = rows().unwrap().into_iter().find(|row| row.address == address).unwrap();
        assert_eq!(ours.pid, std::process::id());
        // Ours, by its time as well, where that is told.
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
