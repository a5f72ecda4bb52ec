//! `cgroup/bind4` and `bind6`: nobody takes a guarded port whom user space has not let in. These are the only programs that
//! change anything, and they are attached only where the configuration asks for it.
//!
//! The kernel calls them before anything of a bind is done, for whatever system call asks for it, io_uring's included.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_current_task, bpf_get_current_uid_gid, bpf_ktime_get_ns};
use aya_ebpf::macros::{cgroup_sock_addr, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::SockAddrContext;
use watcher_common::{
    AF_INET, AF_INET6, ANYBODY, Badge, EventKind, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, MOST_BADGES,
    PORT_WORDS,
};

use crate::current;
use crate::emit::{SocketEvent, emit};
use crate::globals::{SETTINGS, constant, is_set};
use crate::memory::read;
use crate::sock::{Address, Sock};

/// The guarded ports, as [`crate::globals`] has the watched ones.
#[map]
static GUARDED: Array<u64> = Array::with_max_entries(2 * PORT_WORDS, 0);

/// Who may take which of them. A badge whose file is 0 lets in the user with whatever program, one whose user is [`ANYBODY`]
/// whoever runs the file.
#[map]
static ADMITTED: HashMap<Badge, u8> = HashMap::with_max_entries(MOST_BADGES, BPF_F_NO_PREALLOC);

/// Processes that may take any of them, with their descendants: root's own wish.
#[map]
static OVERRIDING: HashMap<u32, u8> = HashMap::with_max_entries(MOST_BADGES, BPF_F_NO_PREALLOC);

/// When the agent last said that it lives: one that hangs guards nothing.
#[map]
static BEAT: Array<u64> = Array::with_max_entries(1, 0);

/// When a user was last told to have been refused a port, so that nobody fills the ring by it.
#[map]
static TOLD: LruHashMap<Told, u64> = LruHashMap::with_max_entries(1024, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Told {
    uid: u32,
    /// The port, and above it the protocol.
    port: u32,
}

/// For so long the agent may say nothing.
const SILENCE: u64 = 10_000_000_000;
/// As often, at most, a user's refusals on a port are told.
const BETWEEN: u64 = 100_000_000;

/// What a program at this hook answers: the bind goes on, or fails with EPERM.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sock_addr(bind4)]
pub fn guard4(ctx: SockAddrContext) -> i32 {
    if is_refused(&ctx, AF_INET) { REFUSE } else { ALLOW }
}

#[cgroup_sock_addr(bind6)]
pub fn guard6(ctx: SockAddrContext) -> i32 {
    if is_refused(&ctx, AF_INET6) { REFUSE } else { ALLOW }
}

/// Most binds on the machine end at the first question.
#[inline(always)]
fn is_refused(ctx: &SockAddrContext, family: u16) -> bool {
    let asked: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the verifier rewrites reads of `bpf_sock_addr` into reads of what the kernel has.
    let (port, protocol) = unsafe { (u16::from_be((*asked).user_port as u16), (*asked).protocol as u16) };
    let (protocol, first) = match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => (IPPROTO_TCP, 0),
        IPPROTO_UDP => (IPPROTO_UDP, PORT_WORDS),
        _ => return false,
    };
    if !is_set(&GUARDED, first, port) {
        return false;
    }
    // SAFETY: as above.
    let pointer = unsafe { (*asked).__bindgen_anon_1.sk };
    // The verifier lets nobody add an offset to this kind of pointer. Read back from where it lies, it is a number.
    let sock = Sock::new(read::<u64>((&raw const pointer).cast(), 0) as *const u8);
    let netns = sock.netns();
    // A container's ports are its own.
    if netns != constant(&SETTINGS.home) || sock.is_own() {
        return false;
    }
    // SAFETY: the helper takes nothing and always gives the current task.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let uid = bpf_get_current_uid_gid() as u32;
    let (device, inode) = current::numbers(current::file(task));
    let exact = Badge { inode, device, uid, port: port.into(), protocol: protocol.into() };
    let user = Badge { inode: 0, device: 0, ..exact };
    let program = Badge { uid: ANYBODY, ..exact };
    if is_admitted(&exact) || is_admitted(&user) || is_admitted(&program) || is_overriding(task) {
        return false;
    }
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.saturating_sub(BEAT.get(0).copied().unwrap_or(0)) > SILENCE {
        return false;
    }
    // Gatewatch's own proofs, by users whose marks are not believed, are nothing to be told of.
    let is_own_file = current::runs_gatewatch();
    let told = Told { uid, port: u32::from(port) | u32::from(protocol) << 16 };
    // SAFETY: the value is copied at once. Another CPU may write it at the same time: then one line more is told.
    let last = unsafe { TOLD.get(&told) }.copied().unwrap_or(0);
    if is_own_file || now.saturating_sub(last) < BETWEEN {
        return true;
    }
    let _ = TOLD.insert(&told, &now, 0);
    let address = if family == AF_INET {
        // SAFETY: user_ip4 may be read at a bind over IPv4.
        Address::v4(unsafe { (*asked).user_ip4 })
    } else {
        // SAFETY: user_ip6 may be read at one over IPv6, a word at a time.
        unsafe { Address::v6_by_words((&raw const (*asked).user_ip6).cast()) }
    };
    let interface = sock.interface();
    let kind = EventKind::Refused;
    emit(
        ctx,
        SocketEvent { kind, is_line: true, protocol, port, family, cookie: 0, netns, interface, address },
    );
    true
}

#[inline(always)]
fn is_admitted(badge: &Badge) -> bool {
    // SAFETY: nothing is done with the value.
    unsafe { ADMITTED.get(badge) }.is_some()
}

/// Whether the task's process, or one that it descends from, may take every port.
#[inline(always)]
fn is_overriding(task: *const u8) -> bool {
    let mut task = task;
    let mut generation = 0;
    while generation < GENERATIONS {
        let pid = current::process(task);
        // SAFETY: nothing is done with the value.
        if unsafe { OVERRIDING.get(&pid) }.is_some() {
            return true;
        }
        task = current::parent(task);
        generation += 1;
    }
    false
}

/// A command that starts another that starts the server, and some more.
const GENERATIONS: u32 = 8;
