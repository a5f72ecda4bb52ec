//! Turns the iterator's records into sockets with their holders.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use watcher_common::{AF_INET6, Descriptor as DescriptorRecord, Record, TCP_LISTEN, flag};

use super::address::socket_address;
use super::stream::ip;
use super::sys;
use crate::model::{Descriptor, Fd, Port, Protocol, Socket, SocketState};

/// Runs the iterator over every descriptor of every process.
pub(super) fn read(link: BorrowedFd<'_>) -> io::Result<Vec<DescriptorRecord>> {
    let mut iterator = sys::iterate(link)?;
    let mut records = Vec::new();
    // The kernel continues until it has as many bytes as requested, and releases the files that it visits only when it
    // returns. So each read requests one record.
    let mut bytes = [0; size_of::<DescriptorRecord>()];
    loop {
        match iterator.read_exact(&mut bytes) {
            Ok(()) => records.extend(DescriptorRecord::read(&bytes).filter(|record| record.port != 0)),
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(records),
            Err(error) => return Err(error),
        }
    }
}

/// One socket for each inode, with all its holders; then the `listed` sockets that no descriptor led to.
pub(super) fn join(records: impl Iterator<Item = DescriptorRecord>, listed: &[Socket]) -> Vec<Socket> {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for record in records {
        let place = *places.entry(record.inode).or_insert_with(|| {
            sockets.push(socket(&record));
            sockets.len() - 1
        });
        // A process that is not visible in our pid namespace has no pid to name it by.
        if record.pid != 0 {
            let fd = Some(Fd { thread: record.tid, number: record.fd });
            sockets[place].descriptors.push(Descriptor { pid: record.pid, fd });
        }
    }
    let table = Listed::new(listed);
    let mut found = vec![false; listed.len()];
    for socket in &mut sockets {
        if let Some(at) = table.find(socket) {
            found[at] = true;
            socket.cookie = socket.cookie.or(listed[at].cookie);
            // netlink knows the number that the user has in our own user namespace.
            socket.uid = listed[at].uid.or(socket.uid);
        }
    }
    sockets.extend(listed.iter().zip(found).filter(|(_, found)| !found).map(|(other, _)| other.clone()));
    sockets
}

/// The kernel's list of sockets, to find those in it that the iterator found too. There can be thousands of each.
pub(super) struct Listed {
    by_inode: HashMap<u64, usize>,
    by_cookie: HashMap<u64, usize>,
    by_address: HashMap<(Protocol, SocketAddr), usize>,
}

impl Listed {
    pub(super) fn new(listed: &[Socket]) -> Self {
        let all = || listed.iter().enumerate();
        Self {
            by_inode: all().filter_map(|(at, socket)| Some((socket.inode?, at))).collect(),
            by_cookie: all().filter_map(|(at, socket)| Some((socket.cookie?, at))).collect(),
            by_address: all().map(|(at, socket)| ((socket.protocol, socket.address), at)).collect(),
        }
    }

    /// Where a socket that the iterator found is listed. The TCP socket inside a multipath socket is listed separately, under
    /// its own cookie.
    pub(super) fn find(&self, socket: &Socket) -> Option<usize> {
        let by_inode = socket.inode.and_then(|inode| self.by_inode.get(&inode));
        let by_cookie = || self.by_cookie.get(&socket.cookie?);
        let by_address =
            || self.by_address.get(&(socket.protocol, socket.address)).filter(|_| socket.multipath);
        by_inode.or_else(by_cookie).or_else(by_address).copied()
    }
}

/// Marks the sockets that the iterator found and that were not `listed` before it ran. That says nothing about other
/// network namespaces than the one that was listed, and about states that are not listed; of UDP all are.
pub(super) fn mark_newer(sockets: &mut [Socket], listed: &[Socket], netns: u32, states: &[SocketState]) {
    let table = Listed::new(listed);
    for socket in sockets {
        let is_listed = socket.protocol == Protocol::Udp || states.contains(&socket.state);
        let would_be_listed = socket.netns == Some(netns) && is_listed;
        socket.after_look = would_be_listed && table.find(socket).is_none();
    }
}

/// The port that the record's socket holds.
pub(super) fn port(record: &DescriptorRecord) -> Port {
    let protocol = if record.flags & flag::UDP != 0 { Protocol::Udp } else { Protocol::Tcp };
    Port { protocol, number: record.port }
}

fn socket(record: &DescriptorRecord) -> Socket {
    let state = if record.flags & flag::CONNECTED != 0 {
        SocketState::Connected
    } else if record.state == TCP_LISTEN {
        SocketState::Listen
    } else {
        SocketState::Bound
    };
    Socket {
        protocol: port(record).protocol,
        address: socket_address(ip(record.family, record.address), record.port, record.interface),
        state,
        cookie: Some(record.cookie).filter(|&cookie| cookie != 0),
        inode: Some(record.inode),
        netns: Some(record.netns),
        v6_only: (record.family == AF_INET6).then_some(record.flags & flag::V6ONLY != 0),
        uid: Some(record.uid),
        multipath: record.flags & flag::MPTCP != 0,
        after_look: false,
        descriptors: Vec::new(),
        unheld: None,
    }
}
