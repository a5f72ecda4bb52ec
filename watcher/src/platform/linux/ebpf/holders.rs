//! The iterator's records become sockets with their holders.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use watcher_common::{AF_INET6, Holder as Record, Record as _, TCP_LISTEN, flag};

use super::stream::ip;
use super::sys;
use crate::observe::{Holder, Socket, SocketState, socket_address};

/// Runs the iterator over every descriptor of every process.
pub(super) fn read(link: BorrowedFd<'_>) -> io::Result<Vec<Record>> {
    let mut iterator = sys::iterate(link)?;
    let mut records = Vec::new();
    // The kernel goes on until it has as much as is asked for. One record at a time, so that it never goes on for long:
    // what it holds, it lets go when it returns.
    let mut bytes = [0; size_of::<Record>()];
    loop {
        match iterator.read_exact(&mut bytes) {
            Ok(()) => records.extend(Record::read(&bytes).filter(|record| record.port != 0)),
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(records),
            Err(error) => return Err(error),
        }
    }
}

/// One socket for each inode, with all its holders; then the `listed` ones to which no descriptor led.
pub(super) fn join(records: impl Iterator<Item = Record>, listed: Vec<Socket>) -> Vec<Socket> {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for record in records {
        let place = *places.entry(record.inode).or_insert_with(|| {
            sockets.push(socket(&record));
            sockets.len() - 1
        });
        // A process of another pid namespace that can't be seen from ours holds it unseen: no holder is named.
        if record.pid != 0 {
            sockets[place].holders.push(Holder { pid: record.pid, tid: record.tid, fd: Some(record.fd) });
        }
    }
    for other in listed {
        let known = sockets.iter().position(|socket| {
            // The TCP socket inside a multipath one is listed by itself, under its own cookie.
            socket.cookie == other.cookie || (socket.multipath && socket.address == other.address)
        });
        match known {
            Some(place) => {
                let socket = &mut sockets[place];
                socket.cookie = socket.cookie.or(other.cookie);
                socket.uid = socket.uid.or(other.uid);
            }
            None => sockets.push(other),
        }
    }
    sockets
}

fn socket(record: &Record) -> Socket {
    let state = if record.flags & flag::CONNECTED != 0 {
        SocketState::Connected
    } else if record.state == TCP_LISTEN {
        SocketState::Listen
    } else {
        SocketState::Bound
    };
    Socket {
        address: socket_address(ip(record.family, record.address), record.port, record.interface),
        state,
        cookie: Some(record.cookie).filter(|&cookie| cookie != 0),
        inode: Some(record.inode),
        netns: Some(record.netns),
        v6_only: (record.family == AF_INET6).then_some(record.flags & flag::V6ONLY != 0),
        uid: None,
        multipath: record.flags & flag::MPTCP != 0,
        holders: Vec::new(),
    }
}
