//! Turns the iterator's records into sockets with their holders.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use aya::maps::{Map, MapData, MapError, RingBuf};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use watcher_common::{
    AF_INET6, Descriptor as DescriptorRecord, FILES_AT_ONCE, IPPROTO_MPTCP, IPPROTO_UDP, MET_AT_MOST,
    Progress, Record, TCP_CLOSE, TCP_LISTEN, Visit, Walk, option,
};

use super::address::socket_address;
use super::attach::TaskIterator;
use super::load::LoadError;
use super::netns::Netns;
use super::stream::ip;
use super::sys;
use crate::model::{Descriptor, Fd, Port, Protocol, Remainder, Room, Socket, SocketState};

/// The iterator over the descriptors of processes.
pub(super) struct Holders {
    iterator: TaskIterator,
    /// Where the kernel program puts what it finds.
    found: RingBuf<MapData>,
    /// What the kernel program knows from one visit to the next.
    progress: MapData,
    /// By which it knows what a socket is, and the home network namespace.
    example: OwnedFd,
}

/// How far a look at the holders of a port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only to the files of this TCP port of the home network namespace, if they can be told, and only in the processes that
    /// made them and in their children: enough if nobody else refers to these files.
    Makers(u16),
    /// To these files in all processes.
    Files(u16),
    /// To all files in all processes.
    All,
}

/// What a visit is to find.
#[derive(Clone, Copy, Default)]
struct Question<'a> {
    /// As [`Progress::any_port`].
    any_port: bool,
    /// As [`Progress::port`].
    only: Option<u16>,
    /// As [`Progress::only_makers`].
    only_makers: bool,
    /// As [`Progress::only_buckets`].
    only_buckets: bool,
    /// Another example than the usual one.
    socket: Option<BorrowedFd<'a>>,
}

/// What a look at all holders has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Every descriptor.
    All,
    /// Those of the files that the kernel's table of taken ports tells.
    Told,
    /// These as well, but the table changed meanwhile, or others than those who were looked at may have one.
    InDoubt,
}

impl Holders {
    /// Takes the attached iterator, and the maps `HELD` and `PROGRESS`.
    pub(super) fn new(
        iterator: TaskIterator,
        found: MapData,
        progress: MapData,
        home: &Netns,
    ) -> Result<Self, LoadError> {
        let refused = |error: &dyn Display| LoadError::Object(format!("the maps of the iterator: {error}"));
        let mut found: RingBuf<MapData> =
            Map::RingBuf(found).try_into().map_err(|error: MapError| refused(&error))?;
        // A command that was killed may have left some there.
        while found.next().is_some() {}
        let example = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let example =
            home.run(|| example().map_err(io::Error::from)).flatten().map_err(|error| refused(&error))?;
        Ok(Self { iterator, found, progress, example })
    }

    /// Gives the descriptors of sockets on watched ports, of all processes. There can be any number, so none is kept here.
    ///
    /// Where not all files are to be looked at, the port must be the only one that is watched.
    pub(super) fn read(&mut self, reach: Reach, mut each: impl FnMut(&DescriptorRecord)) -> io::Result<Seen> {
        let only = match reach {
            Reach::Makers(port) | Reach::Files(port) => Some(port),
            Reach::All => None,
        };
        let only_makers = matches!(reach, Reach::Makers(_));
        self.begin(Question { only, only_makers, ..Question::default() })?;
        self.visit(sys::iterate(self.iterator.link.as_fd())?, |record| {
            each(record);
            Ok(())
        })?;
        if only.is_none() {
            return Ok(Seen::All);
        }
        Ok(match self.progress()? {
            Progress { port: 0, .. } => Seen::All,
            Progress { has_changed: 1, .. } => Seen::InDoubt,
            Progress { is_over: 1, .. } | Progress { makers: u64::MAX, .. } => Seen::Told,
            _ => Seen::InDoubt,
        })
    }

    /// Whether any socket at all has this TCP port in the home network namespace; `None` where that can't be told. Linux 6.1.
    pub(super) fn is_anybodys(&mut self, port: u16) -> io::Result<Option<bool>> {
        let question = Question { only: Some(port), only_buckets: true, ..Question::default() };
        let progress = self.ask(question)?;
        let can_tell = progress.port != 0 && progress.has_changed == 0;
        Ok(can_tell.then_some(progress.buckets != 0))
    }

    /// Whether the kernel program finds the file of this socket, which alone has the TCP port.
    pub(super) fn finds(&mut self, socket: BorrowedFd<'_>, port: u16) -> io::Result<bool> {
        let progress =
            self.ask(Question { only: Some(port), socket: Some(socket), ..Question::default() })?;
        Ok(progress.port != 0 && progress.has_changed == 0 && progress.sum == progress.file)
    }

    /// What is known after a visit to this process alone. That is enough for what concerns a port's sockets: they are looked for
    /// before the first visit and after the last.
    fn ask(&mut self, question: Question<'_>) -> io::Result<Progress> {
        self.begin(question)?;
        let link = sys::link_to_process(self.iterator.program.as_fd(), std::process::id())?;
        self.visit(sys::iterate(link.as_fd())?, |_| Ok(()))?;
        self.progress()
    }

    /// The ports that a process serves by a protocol in this network namespace, watched or not, if it has as many descriptors of
    /// sockets with a port as are `left` at most; they are taken off. Linux 6.1.
    pub(super) fn ports_of(
        &mut self,
        pid: u32,
        protocol: Protocol,
        netns: u32,
        left: &mut usize,
    ) -> io::Result<BTreeSet<u16>> {
        self.begin(Question { any_port: true, ..Question::default() })?;
        let link = sys::link_to_process(self.iterator.program.as_fd(), pid)?;
        let mut ports = BTreeSet::new();
        let mut count = 0;
        self.visit(sys::iterate(link.as_fd())?, |record| {
            count += 1;
            let socket = of_record(record);
            if socket.protocol == protocol && socket.serves() && record.netns == netns {
                ports.insert(record.port);
            }
            if count > *left { Err(io::Error::other("it has too many descriptors")) } else { Ok(()) }
        })?;
        *left -= count;
        Ok(ports)
    }

    fn begin(&mut self, question: Question<'_>) -> io::Result<()> {
        let socket = question.socket.unwrap_or(self.example.as_fd());
        let progress = Progress {
            sockets: 0,
            socket: socket.as_raw_fd().cast_unsigned(),
            thread: 0,
            descriptor: 0,
            any_port: question.any_port.into(),
            port: question.only.map_or(0, u32::from),
            has_changed: 0,
            only_buckets: question.only_buckets.into(),
            only_makers: question.only_makers.into(),
            is_over: 0,
            padding: 0,
            file: 0,
            filter: u64::MAX,
            sum: 0,
            buckets: 0,
            makers: u64::MAX,
            references: 0,
            met: 0,
            places: [0; MET_AT_MOST],
            met_count: 0,
            is_shared: 0,
            walk: Walk::default(),
            visit: Visit::default(),
            files: [0; FILES_AT_ONCE],
        };
        sys::set_data(self.progress.fd().as_fd(), progress.bytes())
    }

    fn progress(&self) -> io::Result<Progress> {
        let mut bytes = [0; size_of::<Progress>()];
        sys::get_data(self.progress.fd().as_fd(), &mut bytes)?;
        Progress::read(&bytes).ok_or_else(|| io::Error::other("it is shorter than that"))
    }

    fn visit(
        &mut self,
        mut iterator: File,
        mut each: impl FnMut(&DescriptorRecord) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            // The records come by the ring, because the kernel drops what an iterator writes about a task that it asks to
            // be shown again.
            let read = iterator.read(&mut [0]);
            let mut wanted = Ok(());
            // The ring is emptied even after an error: what is left in it would be the next reader's.
            while let Some(record) = self.found.next() {
                if let (Ok(()), Some(record)) = (&wanted, DescriptorRecord::read(&record)) {
                    wanted = each(&record);
                }
            }
            wanted?;
            match read {
                Ok(0) => return Ok(()),
                // The older program ends each read by a byte, so that the files it visited are let go.
                Ok(_) => {}
                // The program asks to be shown its task again: it has no room for what it found, or has found all. The kernel
                // itself ends a read so after a million objects.
                Err(paused) if paused.raw_os_error() == Some(nix::libc::EAGAIN) => {
                    if self.progress()?.is_over != 0 {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the iterator has found so far: one socket for each inode, with its holders. Any user can open more than there is memory
/// for, so it is joined as it is read, and what there is no room for is only noted.
pub(super) struct Found {
    sockets: Vec<Socket>,
    places: HashMap<u64, usize>,
    room: Room,
    left_out: Remainder,
    begun: Instant,
}

impl Found {
    /// Nothing yet, with room above all for this network namespace.
    pub(super) fn new(here: u32) -> Self {
        Self {
            sockets: Vec::new(),
            places: HashMap::new(),
            room: Room::new(Some(here)),
            left_out: Remainder::default(),
            begun: Instant::now(),
        }
    }

    /// Adds a descriptor: the first one by which each process holds the socket.
    pub(super) fn add(&mut self, record: &DescriptorRecord) {
        // A process that is not visible in our pid namespace has no pid to name it by.
        let descriptor = (record.pid != 0).then_some(Descriptor {
            pid: record.pid,
            fd: Some(Fd { thread: record.tid, number: record.fd }),
        });
        let Some(&at) = self.places.get(&record.inode) else {
            let mut socket = of_record(record);
            if self.take(&socket, 0) {
                socket.descriptors.extend(descriptor);
                self.places.insert(record.inode, self.sockets.len());
                self.sockets.push(socket);
            }
            return;
        };
        let Some(descriptor) = descriptor else { return };
        let Some(socket) = self.sockets.get_mut(at) else { return };
        // The iterator goes from table to table. Whether a process holds a socket is never a matter of which descriptor.
        if socket.descriptors.last().is_some_and(|last| is_of_same_table(last, &descriptor)) {
            return;
        }
        let has = socket.descriptors.len();
        if has == 0 || self.room.take(socket, has) {
            socket.descriptors.push(descriptor);
        } else {
            self.left_out.add(socket, self.room.is_here(socket.netns), self.begun);
        }
    }

    fn take(&mut self, socket: &Socket, has: usize) -> bool {
        let fits = self.room.take(socket, has);
        if !fits {
            self.left_out.add(socket, self.room.is_here(socket.netns), self.begun);
        }
        fits
    }

    /// The sockets, then the `listed` ones that no descriptor led to; and those that stand for what was left out.
    pub(super) fn join(mut self, listed: &[Socket]) -> (Vec<Socket>, impl Iterator<Item = Socket>) {
        let table = Listed::new(listed);
        let mut found = vec![false; listed.len()];
        for socket in &mut self.sockets {
            if let Some(at) = table.find(socket) {
                found[at] = true;
                socket.cookie = socket.cookie.or(listed[at].cookie);
                // netlink knows the number that the user has in our own user namespace.
                socket.uid = listed[at].uid.or(socket.uid);
            }
        }
        for (other, _) in listed.iter().zip(found).filter(|(_, found)| !found) {
            if other.is_left_out() {
                self.left_out.add(other, true, self.begun);
                continue;
            }
            // One whose descriptors were left out is no socket without a holder.
            if !self.left_out.covers(other) && self.take(other, 0) {
                self.sockets.push(other.clone());
            }
        }
        (self.sockets, self.left_out.into_sockets())
    }
}

fn is_of_same_table(one: &Descriptor, other: &Descriptor) -> bool {
    let thread = |descriptor: &Descriptor| descriptor.fd.map(|fd| fd.thread);
    one.pid == other.pid && thread(one) == thread(other)
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
        let would_be_listed = socket.netns == Some(netns) && is_listed && !socket.is_left_out();
        socket.after_look = would_be_listed && table.find(socket).is_none();
    }
}

/// The port that the record's socket holds.
pub(super) fn port(record: &DescriptorRecord) -> Port {
    let protocol = if record.protocol == IPPROTO_UDP { Protocol::Udp } else { Protocol::Tcp };
    Port { protocol, number: record.port }
}

fn of_record(record: &DescriptorRecord) -> Socket {
    let state = match record.state {
        TCP_LISTEN => SocketState::Listen,
        TCP_CLOSE if record.remote_port == 0 => SocketState::Bound,
        _ => SocketState::Connected,
    };
    let is_v6 = record.family == AF_INET6;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&record.v4);
    if is_v6 {
        address = record.v6;
    }
    let multipath = record.protocol == IPPROTO_MPTCP;
    // The TCP socket inside it is the one that events are about.
    let cookie = if multipath { record.subflow_cookie } else { record.cookie };
    Socket {
        protocol: port(record).protocol,
        address: socket_address(ip(record.family, address), record.port, record.interface),
        state,
        cookie: Some(cookie).filter(|&cookie| cookie != 0),
        inode: Some(record.inode),
        netns: Some(record.netns),
        v6_only: is_v6.then_some(record.options & option::V6ONLY != 0),
        uid: Some(record.uid),
        multipath,
        after_look: false,
        descriptors: Vec::new(),
        unheld: None,
    }
}
