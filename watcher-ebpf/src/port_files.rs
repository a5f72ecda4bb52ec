//! Which files the sockets of one TCP port have, found in the kernel's own table of the ports that are taken.
//!
//! A host can have a hundred thousand descriptors, of which two or three are wanted. To see that a file is not wanted, the file
//! itself, its socket and what is behind that would have to be read, and each lies somewhere else in memory. So those that
//! are wanted are found first, and of the others the address says enough.
//!
//! No lock is held, so what is found may be wrong. Where that shows, all files are looked at; and at the end it is found
//! once more, and must be the same.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use watcher_common::{Progress, TCP_TIME_WAIT, Walk};

use crate::globals::{OFFSETS, constant};
use crate::held::{keeps_nobody_out, progress};
use crate::hiding::{hidden, taken};
use crate::memory::read;
use crate::sock::Sock;

/// The most steps of a walk: a socket, a part of a bucket or a bucket each.
const LONGEST: u32 = 4096;

/// Before the first visit: finds which files are wanted. All are if that can't be told.
#[inline(always)]
pub fn begin(progress: &mut Progress) {
    find(0, 0, 0);
    let walk = &progress.walk;
    progress.sum = walk.sum;
    progress.buckets = walk.buckets;
    progress.filter = walk.filter;
    progress.references = walk.references;
    // With each bit taken, nothing is left out.
    progress.makers = if progress.only_makers == 0 { u64::MAX } else { walk.makers };
    if walk.is_lost != 0 || walk.filter == u64::MAX {
        progress.filter = u64::MAX;
        progress.makers = u64::MAX;
        progress.references = 0;
        progress.port = 0;
    }
}

/// 1 if nobody else can have one of the wanted files, else 0: each reference to them is a descriptor that was found, and still is
/// one, in a table of which no other process is known. The numbers say nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle(a: u64, b: u64, c: u64) -> u64 {
    taken(a, b, c);
    let Some(progress) = progress() else { return 0 };
    if progress.references == 0 || progress.is_shared | (progress.met ^ progress.references) != 0 {
        return 0;
    }
    // A descriptor that was moved is met twice, and somebody else's not at all.
    let mut still = 0u64;
    for place in progress.places {
        still = still.wrapping_add(read(place as *const u8, 0));
    }
    if still != progress.met {
        return 0;
    }
    progress.is_over = 1;
    end(progress);
    1
}

/// After the last visit: whether the same would be found.
#[inline(always)]
pub fn end(progress: &mut Progress) {
    if progress.port != 0 {
        find(0, 0, 0);
        let walk = &progress.walk;
        // Where not all processes were looked at, nobody may have got a descriptor meanwhile.
        let has_more = (walk.references ^ progress.met) * u64::from(progress.is_over);
        let differs = has_more
            | (walk.sum ^ progress.sum)
            | (walk.filter ^ progress.filter)
            | (walk.buckets ^ progress.buckets)
            | u64::from(walk.is_lost);
        progress.has_changed = u32::from(differs != 0);
    }
}

/// The bit that an address has in [`Progress::filter`] and in [`Progress::makers`].
#[inline(always)]
pub fn bit(address: u64) -> u64 {
    // The upper bits of this product depend on all bits of the address.
    1 << (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

/// Walks through the port's sockets. The numbers say nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find(a: u64, b: u64, c: u64) -> u64 {
    taken(a, b, c);
    let Some(progress) = progress() else { return 0 };
    let net = Sock::of_file(progress.file as *const u8).net();
    let Chain { place, mask, first } = chain(net, progress.port as u16);
    let is_unknown = progress.port == 0 || first == 0 || constant(&OFFSETS.sock_bind_node) == 0;
    // Zeros side by side would be a call of memset, which takes more than numbers.
    progress.walk = Walk {
        net: net as u64,
        bucket: read(first as *const u8, 0),
        to_bucket: first,
        part: hidden(0),
        to_part: hidden(0),
        socket: hidden(0),
        to_socket: hidden(0),
        buckets: hidden(0),
        filter: hidden(0),
        sum: hidden(0),
        makers: hidden(0),
        references: hidden(0),
        place,
        mask,
        has_ended: 0,
        is_lost: u32::from(is_unknown),
    };
    // SAFETY: the verifier checks the function, which takes no context.
    unsafe { bpf_loop(LONGEST, each_step as *mut c_void, core::ptr::null_mut(), 0) };
    progress.walk.is_lost |= 1 ^ progress.walk.has_ended;
    0
}

/// 1 ends the loop.
#[unsafe(no_mangle)]
unsafe extern "C" fn each_step(_round: u64, _context: *mut c_void) -> u64 {
    hidden(step(0, 0, 0)) & 1
}

/// Goes one step further. 1 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step(a: u64, b: u64, c: u64) -> u64 {
    taken(a, b, c);
    let Some(progress) = progress() else { return 1 };
    let (walk, port) = (&mut progress.walk, progress.port as u16);
    if walk.is_lost != 0 {
        return 1;
    }
    if walk.socket != 0 {
        let node = Node::read(walk.socket, walk.to_socket, &mut walk.is_lost);
        (walk.socket, walk.to_socket) = (node.next, node.at);
        visit(walk, Sock::new(node.within(&OFFSETS.sock_bind_node)), port);
    } else if walk.part != 0 {
        let node = Node::read(walk.part, walk.to_part, &mut walk.is_lost);
        (walk.part, walk.to_part) = (node.next, node.at);
        let owners = node.within(&OFFSETS.part_node).wrapping_add(constant(&OFFSETS.part_owners) as usize);
        (walk.socket, walk.to_socket) = (read(owners, 0), owners as u64);
    } else if walk.bucket != 0 {
        let node = Node::read(walk.bucket, walk.to_bucket, &mut walk.is_lost);
        (walk.bucket, walk.to_bucket) = (node.next, node.at);
        let bucket = node.within(&OFFSETS.bucket_node);
        let net: u64 = read(bucket, constant(&OFFSETS.bucket_net));
        let its_port: u16 = read(bucket, constant(&OFFSETS.bucket_port));
        if net != walk.net || its_port != port {
            let is_astray = net == 0 || place(net as *const u8, its_port, walk.mask) != walk.place;
            walk.is_lost |= u32::from(is_astray);
            return 0;
        }
        walk.buckets += 1;
        if progress.only_buckets != 0 {
            walk.has_ended = 1;
            return 1;
        }
        if constant(&OFFSETS.bucket_owners) == 0 {
            let parts = bucket.wrapping_add(constant(&OFFSETS.bucket_parts) as usize);
            (walk.part, walk.to_part) = (read(parts, 0), parts as u64);
        } else {
            let owners = bucket.wrapping_add(constant(&OFFSETS.bucket_owners) as usize);
            (walk.socket, walk.to_socket) = (read(owners, 0), owners as u64);
        }
    } else {
        walk.has_ended = 1;
        return 1;
    }
    0
}

/// What a list of the kernel's consists of (`struct hlist_node`): the pointer to the next, and where the pointer to this one lies.
struct Node {
    at: u64,
    next: u64,
}

impl Node {
    /// The node at an address that was read from `from`. One that was moved, or given back, since then does not point there.
    #[inline(always)]
    fn read(at: u64, from: u64, is_lost: &mut u32) -> Self {
        let [next, back] = read::<[u64; 2]>(at as *const u8, 0);
        *is_lost |= u32::from(back != from);
        Self { at, next }
    }

    /// What has the node at this offset.
    #[inline(always)]
    fn within(&self, offset: &u32) -> *const u8 {
        (self.at as *const u8).wrapping_sub(constant(offset) as usize)
    }
}

/// Notes the file of a socket that has the port.
#[inline(always)]
fn visit(walk: &mut Walk, sock: Sock, port: u16) {
    // What was given back meanwhile may be anything by now.
    if sock.net() as u64 != walk.net || sock.num() != port {
        walk.is_lost = 1;
        return;
    }
    let state = sock.state();
    // What is left of a connection is no whole socket.
    if state == TCP_TIME_WAIT || keeps_nobody_out(sock.protocol(), state, sock.options(), sock.remote_port())
    {
        return;
    }
    let socket = sock.socket();
    if socket.is_null() {
        // Nobody has accepted it yet, or everybody has closed it.
        return;
    }
    let file: u64 = read(socket, constant(&OFFSETS.socket_file));
    // The kernel's own have none, and those inside of a multipath socket.
    walk.is_lost |= u32::from(file == 0);
    walk.filter |= bit(file);
    walk.sum = walk.sum.wrapping_add(file);
    if constant(&OFFSETS.file_cred) == 0 {
        walk.makers = u64::MAX;
        return;
    }
    let at = file as *const u8;
    walk.makers |= bit(read(at, constant(&OFFSETS.file_cred)));
    let count = read::<u64>(at, constant(&OFFSETS.file_count))
        .wrapping_add(constant(&OFFSETS.file_first_count).into());
    walk.references = walk.references.wrapping_add(file.wrapping_mul(count));
}

/// One of the chains that buckets hang in.
struct Chain {
    /// Where it is among all.
    place: u32,
    /// What of a number tells that.
    mask: u32,
    /// Where the pointer to its first bucket lies; 0 if the tables can't be read.
    first: u64,
}

/// The chain in which a port's bucket is.
#[inline(always)]
fn chain(net: *const u8, port: u16) -> Chain {
    let tables = read::<u64>(net, constant(&OFFSETS.net_tcp_tables)) as *const u8;
    let chains: u64 = read(tables, constant(&OFFSETS.tables_bhash));
    let mask = read::<u32>(tables, constant(&OFFSETS.tables_bhash_size)).wrapping_sub(1);
    let place = place(net, port, mask);
    let at = u64::from(place) * u64::from(constant(&OFFSETS.chain_size))
        + u64::from(constant(&OFFSETS.chain_first));
    let first = if chains == 0 || mask == u32::MAX { 0 } else { chains.wrapping_add(at) };
    Chain { place, mask, first }
}

/// Which chain it is, as the kernel's inet_bhashfn() counts.
#[inline(always)]
fn place(net: *const u8, port: u16, mask: u32) -> u32 {
    read::<u32>(net, constant(&OFFSETS.net_hash_mix)).wrapping_add(port.into()) & mask
}
