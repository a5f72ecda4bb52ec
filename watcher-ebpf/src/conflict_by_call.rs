//! `sys_exit_bind` and `sys_exit_listen`, where the kernel's functions can't be followed: a `bind` or `listen` that failed with
//! `EADDRINUSE`.
//!
//! The programs run at the system calls' own exits, and nearly all runs end at a comparison of the result. The call's arguments
//! are still in the registers that the thread entered the kernel with. While such a program is attached, each system call of
//! each process takes the kernel's slower way out.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::debug;
use watcher_common::{AF_INET, AF_INET6};

use crate::conflict::{AF_UNSPEC, EADDRINUSE, report};
use crate::descriptors::Descriptors;
use crate::globals::{OFFSETS, constant, watched, watched_udp};
use crate::memory::read;
use crate::sock::{Address, Sock};

/// Where the tracepoint has the result: after the common fields (8 bytes) and the system call's number.
const RESULT: usize = 16;

#[tracepoint]
pub fn bind_exit(ctx: TracePointContext) -> u32 {
    if failed(&ctx) {
        report_bind(&ctx);
    }
    0
}

#[tracepoint]
pub fn listen_exit(ctx: TracePointContext) -> u32 {
    if failed(&ctx) {
        report_listen(&ctx);
    }
    0
}

#[inline(always)]
fn failed(ctx: &TracePointContext) -> bool {
    // Read straight from the context rather than through a helper, because this runs at each bind and listen on the
    // machine.
    // SAFETY: the verifier checks that it lies within the tracepoint's record.
    let result = unsafe { ctx.as_ptr().cast::<u8>().add(RESULT).cast::<i64>().read_volatile() };
    result == -i64::from(EADDRINUSE)
}

/// What was asked for is read from the caller's memory, because the socket did not get it. Where its page is not there at this
/// moment, nothing is told and nothing counted as lost: nobody knows the port, and anybody who gives such pages back could
/// make the readers of all ports believe that they have missed something.
fn report_bind(ctx: &TracePointContext) {
    let (fd, sockaddr) = arguments();
    let sockaddr = sockaddr as *const u8;
    // The family, the port, and what is the address in sockaddr_in. Few reads, because each can fail, and each way through
    // is work for the verifier.
    // SAFETY: a read of the caller's memory through a helper that checks it. No address of the two families is shorter.
    let Ok([start, v4]) = (unsafe { bpf_probe_read_user(sockaddr.cast::<[u32; 2]>()) }) else { return };
    let port = u16::from_be((start >> 16) as u16);
    if !watched(port) && !watched_udp(port) {
        return;
    }
    let (family, address) = match start as u16 {
        AF_INET | AF_UNSPEC => (AF_INET, Address::v4(v4)),
        // SAFETY: as above. sockaddr_in6 has its address at 8.
        AF_INET6 => match unsafe { bpf_probe_read_user(sockaddr.add(8).cast()) } {
            Ok(v6) => (AF_INET6, Address(v6)),
            Err(_) => return,
        },
        _ => return,
    };
    if let Some(sock) = socket_of(fd as u32) {
        report(ctx, sock, port, family, address);
    } else {
        debug!(ctx, "a conflict on port {} whose descriptor {} is gone", port, fd);
    }
}

/// Two sockets with `SO_REUSEADDR` can be bound to the same address; only one of them can listen.
fn report_listen(ctx: &TracePointContext) {
    let Some(sock) = socket_of(arguments().0 as u32) else { return };
    let (port, family) = (sock.port(), sock.family());
    if watched(port) {
        report(ctx, sock, port, family, sock.address(family));
    }
}

/// The first two arguments of the system call that is about to return.
#[inline(always)]
fn arguments() -> (u64, u64) {
    // SAFETY: the first helper always gives the current task, of which the second gives the saved registers.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf().cast()) } as *const u8;
    (read(registers, constant(&OFFSETS.regs_first)), read(registers, constant(&OFFSETS.regs_second)))
}

/// The sock behind a descriptor of the current task. Called only after `bind` or `listen` has answered for the
/// descriptor, so it is a socket.
fn socket_of(fd: u32) -> Option<Sock> {
    let sock = Sock::of_file(Descriptors::own_file(fd));
    if sock.as_ptr().is_null() { None } else { Some(sock) }
}
