//! Failed binds: `bind` and `listen` that answered `EADDRINUSE`.
//!
//! No tracepoint of the TCP code tells of a failed bind, so the system calls' own are used: the call's arguments
//! are kept at its entry, and looked at again at its exit when the answer is the one.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_user};
use aya_ebpf::macros::{map, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::debug;
use watcher_common::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, kind};

use crate::emit::{Address, Seen, emit};
use crate::globals::{OFFSETS, SCOPE, constant, watched};
use crate::sock::{Sock, read};

const EADDRINUSE: i64 = 98;
/// Where the system call tracepoints have the first argument: after the common fields (8 bytes) and the number.
const ENTER_ARGUMENTS: usize = 16;
const EXIT_RESULT: usize = 16;

/// A call under way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    fd: u32,
    /// 0 in `listen`, whose port the socket knows.
    port: u16,
    family: u16,
    address: [u64; 2],
}

/// Calls under way, by thread. The least recently used goes first, so a thread killed inside its call leaves
/// nothing behind.
#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(1024, 0);

#[tracepoint]
pub fn bind_enter(ctx: TracePointContext) -> u32 {
    let _ = note_bind(&ctx);
    0
}

fn note_bind(ctx: &TracePointContext) -> Result<(), i32> {
    // SAFETY: the three arguments of bind(2), as the tracepoint lays them out.
    let (fd, address) =
        unsafe { (ctx.read_at::<u64>(ENTER_ARGUMENTS)?, ctx.read_at::<u64>(ENTER_ARGUMENTS + 8)? as *const u8) };
    // SAFETY: reads of the caller's memory through a helper that checks it.
    let (family, port) = unsafe {
        (bpf_probe_read_user(address.cast::<u16>())?, u16::from_be(bpf_probe_read_user(address.add(2).cast::<u16>())?))
    };
    if !watched(port) {
        return Ok(());
    }
    // SAFETY: as above: sockaddr_in has its address at 4, sockaddr_in6 at 8.
    let address = unsafe {
        match family {
            AF_INET => [u64::from(bpf_probe_read_user(address.add(4).cast::<u32>())?), 0],
            AF_INET6 => [bpf_probe_read_user(address.add(8).cast())?, bpf_probe_read_user(address.add(16).cast())?],
            _ => return Ok(()),
        }
    };
    CALLS.insert(bpf_get_current_pid_tgid(), Call { fd: fd as u32, port, family, address }, 0)
}

#[tracepoint]
pub fn listen_enter(ctx: TracePointContext) -> u32 {
    // SAFETY: the first argument of listen(2).
    if let Ok(fd) = unsafe { ctx.read_at::<u64>(ENTER_ARGUMENTS) } {
        let call = Call { fd: fd as u32, port: 0, family: 0, address: [0; 2] };
        let _ = CALLS.insert(bpf_get_current_pid_tgid(), call, 0);
    }
    0
}

/// The exit of both calls.
#[tracepoint]
pub fn bind_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx);
    0
}

/// As [`bind_exit`]: one program can be attached to one tracepoint only on older kernels.
#[tracepoint]
pub fn listen_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx);
    0
}

#[inline(always)]
fn exit(ctx: &TracePointContext) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the record is this thread's own: nobody else writes it.
    let Some(call) = (unsafe { CALLS.get(&thread) }).copied() else { return };
    let _ = CALLS.remove(&thread);
    // SAFETY: the result of the call.
    let Ok(result) = (unsafe { ctx.read_at::<i64>(EXIT_RESULT) }) else { return };
    if result != -EADDRINUSE {
        return;
    }
    let (mut port, mut family, mut words, mut netns, mut interface) = (call.port, call.family, call.address, 0, 0);
    if constant(&SCOPE.has_offsets) != 0 {
        let Some(sock) = socket_of(call.fd) else {
            debug!(ctx, "a conflict on port {} whose descriptor {} is gone", call.port, call.fd);
            return;
        };
        let protocol = sock.protocol();
        if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP) || sock.is_own() {
            return;
        }
        netns = sock.netns();
        interface = sock.interface();
        if port == 0 {
            family = sock.family();
            port = sock.port();
            words = sock.address(family).words();
        }
    }
    if !watched(port) {
        return;
    }
    let address = Address::V6(words);
    emit(ctx, &Seen { kind: kind::CONFLICT, port, family, cookie: 0, netns, interface, address });
}

/// The sock behind a descriptor of the current task. Only asked after `bind` or `listen` has answered for it, so
/// it is a socket.
fn socket_of(fd: u32) -> Option<Sock> {
    // SAFETY: the helper takes nothing and always returns the current task.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let files: u64 = read(task, constant(&OFFSETS.task_files));
    let table: u64 = read(files as *const u8, constant(&OFFSETS.files_fdt));
    if fd >= read::<u32>(table as *const u8, constant(&OFFSETS.fdtable_max_fds)) {
        return None;
    }
    let array: u64 = read(table as *const u8, constant(&OFFSETS.fdtable_fd));
    let file: u64 = read(array as *const u8, fd.wrapping_mul(8));
    let socket: u64 = read(file as *const u8, constant(&OFFSETS.file_private_data));
    let sock: u64 = read(socket as *const u8, constant(&OFFSETS.socket_sk));
    if sock == 0 { None } else { Some(Sock::new(sock as *const u8)) }
}
