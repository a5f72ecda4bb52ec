//! Rules of what the kernel is read by, for any bytes.

use std::collections::HashSet;

use watcher_common::{Descriptor, Event, OWN_MARK, Record};

use super::{diag, holders, proc_net, stream};
use crate::model::{Protocol, Socket, SocketState};

/// The records of the ring buffer, or of the iterator, one after another.
pub(crate) fn kernel_records(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    if kind % 2 == 0 { bytes.chunks(size_of::<Event>()).for_each(event) } else { descriptors(bytes) }
}

fn event(bytes: &[u8]) {
    let Some(record) = Event::read(bytes) else {
        assert!(bytes.len() < size_of::<Event>());
        return;
    };
    assert_eq!(record.bytes(), &bytes[..size_of::<Event>()]);
    let Some(event) = stream::decode(&record) else { return };
    assert_eq!(event.address.port(), record.port);
    assert_eq!((event.pid.unwrap_or(0), event.uid), (record.pid, Some(record.uid)));
    assert_eq!((event.cookie.unwrap_or(0), event.netns.unwrap_or(0)), (record.cookie, record.netns));
    assert!(event.comm.chars().count() <= record.comm.len() && !event.comm.contains('\0'));
}

fn descriptors(bytes: &[u8]) {
    let records: Vec<Descriptor> =
        bytes.chunks(size_of::<Descriptor>()).filter_map(Descriptor::read).collect();
    let join = |listed: &[Socket]| {
        let mut found = holders::Found::new(1);
        records.iter().for_each(|record| found.add(record));
        let (sockets, left_out) = found.join(listed);
        (sockets, left_out.count())
    };
    let (mut sockets, left_out) = join(&[]);
    // Every visible process that has a descriptor is kept, at exactly one socket, unless it is said that some were left out.
    let visible: HashSet<_> =
        records.iter().filter(|record| record.pid != 0).map(|record| (record.inode, record.pid)).collect();
    let kept: HashSet<_> = sockets
        .iter()
        .flat_map(|socket| socket.descriptors.iter().map(|held| (socket.inode.unwrap_or(0), held.pid)))
        .collect();
    assert!(kept == visible || (left_out > 0 && kept.is_subset(&visible)));
    let inodes: HashSet<_> = sockets.iter().map(|socket| socket.inode).collect();
    assert_eq!(inodes.len(), sockets.len());
    assert!(sockets.iter().all(|socket| socket.netns.is_some()));
    // Listed beside themselves, they stay what they are, and none is newer than the list.
    let (again, _) = join(&sockets);
    let listed = sockets.clone();
    holders::mark_newer(&mut sockets, &listed, 1, &[SocketState::Listen]);
    assert!(sockets.iter().all(|socket| !socket.after_look));
    assert_eq!(again.len(), sockets.len());
}

/// An answer of `sock_diag`.
pub(crate) fn netlink(bytes: &[u8]) {
    let mut messages = Vec::new();
    let ended = diag::read_messages(bytes, |message| messages.push(message.to_vec()));
    assert!(messages.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    if let Err(error) = ended {
        assert!(error.raw_os_error().is_some_and(|number| number > 0), "{error}");
    }
    for message in messages {
        assert!(diag::decode(Protocol::Udp, &message).is_none_or(|row| row.socket.takes_port()));
        let Some(row) = diag::decode(Protocol::Tcp, &message) else { continue };
        assert_eq!(row.id, message[4..52]);
        assert_eq!(row.socket.address.port().to_be_bytes(), message[4..6]);
        assert!(row.socket.descriptors.is_empty() && !row.socket.after_look);
        // With the mark of this program, a socket of root's that does not listen is none that anybody owns.
        let mut own = message[..diag::MESSAGE].to_vec();
        own[64..68].fill(0);
        own.extend([8, 0, 15, 0]);
        own.extend(OWN_MARK.to_ne_bytes());
        let listens = row.socket.state == SocketState::Listen;
        assert_eq!(diag::decode(Protocol::Tcp, &own).is_some(), listens);
    }
}

/// `/proc/net/tcp` and `udp`, and the offsets of a time namespace.
pub(in crate::platform::linux) fn tables(text: &str) {
    for row in text.lines().filter_map(|line| proc_net::row(Protocol::Tcp, line)) {
        assert!(row.socket.inode != Some(0) && row.socket.descriptors.is_empty());
        assert_eq!(row.socket.state == SocketState::Listen, row.state == 10);
    }
    for row in text.lines().filter_map(|line| proc_net::row(Protocol::Udp, line)) {
        assert_eq!(row.socket.serves(), row.state == 7);
    }
    stream::clock_offset(text);
}
