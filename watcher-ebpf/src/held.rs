//! What both iterators report: a descriptor of a socket that holds a watched port.
//!
//! The record has what the kernel has, and user space makes sense of it: for the verifier each choice here would be two
//! ways through everything that follows.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use watcher_common::{
    AF_INET, AF_INET6, Descriptor, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, MET_AT_MOST, Progress, TCP_CLOSE,
    TCP_LISTEN, option,
};

use crate::current;
use crate::descriptors::Descriptors;
use crate::globals::{OFFSETS, SETTINGS, constant, watched_by_any};
use crate::memory::read;
use crate::sock::Sock;

/// The descriptors that were found. User space empties it after each read of the iterator.
#[map]
static HELD: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// What is known from one visit to the next. One reader at a time reads an iterator.
#[map]
static PROGRESS: Array<Progress> = Array::with_max_entries(1, 0);

/// What an iterator's program answers: done, or show me this one again at the next read.
pub const DONE: i32 = 0;
pub const AGAIN: i32 = 1;

/// What is known; the first visit finds out what a socket is, and whatever else `first` does.
#[inline(always)]
pub fn begun(first: impl FnOnce(&mut Progress)) -> Option<&'static mut Progress> {
    let progress = progress()?;
    if progress.sockets == 0 {
        let file = Descriptors::own_file(progress.socket);
        progress.file = file as u64;
        progress.sockets = read(file, constant(&OFFSETS.file_op));
        first(progress);
    }
    Some(progress)
}

#[inline(always)]
pub fn progress() -> Option<&'static mut Progress> {
    // SAFETY: the map has this element, and nobody else uses it while the iterator runs.
    PROGRESS.get_ptr_mut(0).map(|progress| unsafe { &mut *progress })
}

/// The socket behind a file, if it holds a port that is wanted. The others are [`Progress::sockets`] and
/// [`Progress::any_port`].
#[inline(always)]
pub fn socket_behind(file: *const u8, sockets: u64, any_port: u32) -> Option<Sock> {
    if read::<u64>(file, constant(&OFFSETS.file_op)) != sockets {
        return None;
    }
    let sock = Sock::of_file(file);
    // First what most sockets differ in. Whether the port is watched of this protocol, user space sees.
    let port = sock.port();
    if u64::from(any_port) | watched_by_any(port) == 0 {
        return None;
    }
    // Products rather than choices, because the verifier follows each choice both ways. Other families have other fields where
    // these have the port.
    let (family, protocol) = (u64::from(sock.family()), sock.protocol());
    let other_family = (family ^ u64::from(AF_INET)) * (family ^ u64::from(AF_INET6));
    let other_protocol = u64::from(protocol ^ IPPROTO_TCP)
        * u64::from(protocol ^ IPPROTO_MPTCP)
        * u64::from(protocol ^ IPPROTO_UDP);
    // A TCP socket whose port the kernel chose has given it back when its connection fails or ends, and keeps the number.
    let has_lost_it = u64::from(sock.num() ^ port)
        * u64::from(protocol ^ IPPROTO_MPTCP)
        * u64::from(protocol ^ IPPROTO_UDP);
    (other_family | other_protocol | has_lost_it == 0).then_some(sock)
}

/// Whether it is a TCP connection that shares the port on SO_REUSEADDR's terms, as accepted ones do: that keeps no other socket
/// from the port. Of a UDP socket the port is its own.
#[inline(always)]
pub fn keeps_nobody_out(protocol: u16, state: u16, options: u16, remote_port: u16) -> bool {
    let is_connected =
        u64::from(state ^ TCP_LISTEN) * (u64::from(state ^ TCP_CLOSE) | u64::from(remote_port));
    is_connected * u64::from(options & option::REUSEADDR) * u64::from(protocol ^ IPPROTO_UDP) != 0
}

/// Reports the descriptor by which a task has the socket, unless the place in its table, if that is known, has another file after
/// all was read; false if there is no room for it.
#[inline(always)]
pub fn report(
    progress: &mut Progress,
    task: *const u8,
    file: *const u8,
    fd: u32,
    sock: Sock,
    place: u64,
) -> bool {
    let netns = sock.netns();
    let scope = constant(&SETTINGS.scope);
    if (scope != 0 && scope != netns) || sock.is_own_in(task) {
        return true;
    }
    let (protocol, state, options, remote_port) =
        (sock.protocol(), sock.state(), sock.options(), sock.remote_port());
    if keeps_nobody_out(protocol, state, options, remote_port) {
        return true;
    }
    let inode: u64 = read(file, constant(&OFFSETS.file_inode));
    let (pid, tid) = current::pid_and_tid(task);
    let mut descriptor = Descriptor {
        cookie: sock.stored_cookie(),
        // Whatever lies there if it is not multipath.
        subflow_cookie: sock.first_subflow().stored_cookie(),
        inode: read(inode as *const u8, constant(&OFFSETS.inode_ino)),
        v6: [0; 16],
        v4: sock.v4().to_ne_bytes(),
        pid,
        tid,
        fd,
        netns,
        interface: sock.interface(),
        uid: sock.uid(),
        family: sock.family(),
        protocol,
        port: sock.port(),
        remote_port,
        state,
        options,
    };
    // SAFETY: the field is sixteen bytes long and lies at a multiple of eight.
    unsafe { (&raw mut descriptor.v6).cast::<[u64; 2]>().write(sock.v6()) };
    // The kernel gives the memory of a closed file to the next one, whosever that is.
    if place != 0 && read::<u64>(place as *const u8, 0) != file as u64 {
        return true;
    }
    let is_told = HELD.output::<Descriptor>(&descriptor, u64::from(BPF_RB_NO_WAKEUP)).is_ok();
    progress.met = progress.met.wrapping_add(file as u64 * u64::from(is_told));
    progress.places[progress.met_count as usize % MET_AT_MOST] = place;
    progress.met_count = progress.met_count.wrapping_add(is_told.into());
    is_told
}
