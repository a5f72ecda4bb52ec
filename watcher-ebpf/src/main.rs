//! Gatewatch's kernel program: tells user space what happens to watched TCP ports, and who holds them.
//!
//! Each hook filters by state first, then by port, so that an unwatched port costs a few dozen nanoseconds.
//! Nothing is ever changed: every program only observes.
#![no_std]
#![no_main]
// For the one atomic addition that the kernel program needs; its compiler is not the stable one anyway.
#![feature(asm_experimental_arch)]

mod conflict;
mod current;
mod emit;
mod globals;
mod holders;
mod sock;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, cgroup_sock, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, SockContext, TracePointContext};
use watcher_common::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN, kind};

use crate::emit::{Address, Seen, emit};
use crate::globals::{TRACE_OFFSETS, constant, watched};
use crate::sock::Sock;

/// `inet_sock_set_state(sk, oldstate, newstate)`: listen, and the end of listening.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state(ctx: BtfTracePointContext) -> i32 {
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    let Some(kind) = listening_changed(old, new) else { return 0 };
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    let port = sock.port();
    // A multipath socket changes its state beside the TCP socket in it; only the latter holds the port.
    if !watched(port) || sock.protocol() == IPPROTO_MPTCP {
        return 0;
    }
    // SAFETY: the first argument of this tracepoint is a sock that the kernel trusts.
    let cookie = unsafe { bpf_get_socket_cookie(sock.as_ptr()) };
    sock.report(&ctx, kind, port, cookie);
    0
}

/// `tcp_destroy_sock(sk)`: the release. It fires once for every TCP socket that goes, connections included; a
/// listener or a bound socket has no remote port.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn destroy(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    if sock.remote_port() != 0 {
        return 0;
    }
    let port = sock.port();
    if !watched(port) {
        return 0;
    }
    // SAFETY: the argument of this tracepoint is a sock that the kernel trusts.
    let cookie = unsafe { bpf_get_socket_cookie(sock.as_ptr()) };
    sock.report(&ctx, kind::RELEASE, port, cookie);
    0
}

/// A successful bind over IPv4, listening later or never.
#[cgroup_sock(post_bind4)]
pub fn bind4(ctx: SockContext) -> i32 {
    bound(&ctx, AF_INET);
    1
}

/// A successful bind over IPv6, dual-stack ones included.
#[cgroup_sock(post_bind6)]
pub fn bind6(ctx: SockContext) -> i32 {
    bound(&ctx, AF_INET6);
    1
}

fn bound(ctx: &SockContext, family: u16) {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: the verifier rewrites reads of `bpf_sock` into reads of the socket itself.
    let (protocol, port) = unsafe { ((*sock).protocol, (*sock).src_port) };
    let port = port as u16;
    if protocol != u32::from(IPPROTO_TCP) || !watched(port) {
        return;
    }
    // The context is the socket's own address, which tracing helpers can read through; its mark and interface are
    // not to be had by the context's own fields in these hooks.
    let inner = Sock::new(ctx.as_ptr().cast_const().cast());
    if inner.is_own() {
        return;
    }
    // SAFETY: as above. The context is a socket, for which this helper gives the cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let address = if family == AF_INET {
        // SAFETY: src_ip4 may be read in post_bind4, where the family is AF_INET.
        Address::V4(unsafe { (*sock).src_ip4 })
    } else {
        // SAFETY: src_ip6 may be read in post_bind6; the verifier wants one read a word.
        Address::V6(unsafe {
            let ip = &raw const (*sock).src_ip6;
            let word = ip.cast::<u32>();
            let low = u64::from(word.read_volatile()) | u64::from(word.add(1).read_volatile()) << 32;
            let high = u64::from(word.add(2).read_volatile()) | u64::from(word.add(3).read_volatile()) << 32;
            [low, high]
        })
    };
    let (netns, interface) = (inner.netns(), inner.interface());
    emit(ctx, &Seen { kind: kind::BIND, port, family, cookie, netns, interface, address });
}

/// The plain tracepoint of the same name, for kernels without BTF. It gives neither cookie nor network namespace.
#[tracepoint]
pub fn set_state_plain(ctx: TracePointContext) -> u32 {
    let field = |offset: u32| offset as usize;
    // SAFETY: the offsets come from the tracepoint's own format file; a failed read ends the program.
    unsafe {
        let Ok(old) = ctx.read_at::<i32>(field(constant(&TRACE_OFFSETS.state_oldstate))) else { return 0 };
        let Ok(new) = ctx.read_at::<i32>(field(constant(&TRACE_OFFSETS.state_newstate))) else { return 0 };
        let Some(kind) = listening_changed(old, new) else { return 0 };
        let Ok(port) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.state_sport))) else { return 0 };
        if !watched(port) {
            return 0;
        }
        let Ok(protocol) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.state_protocol))) else {
            return 0;
        };
        if protocol == IPPROTO_MPTCP {
            return 0;
        }
        let Ok(family) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.state_family))) else { return 0 };
        let v4 = field(constant(&TRACE_OFFSETS.state_saddr));
        let v6 = field(constant(&TRACE_OFFSETS.state_saddr_v6));
        let Some(address) = plain_address(&ctx, family, v4, v6) else { return 0 };
        emit(&ctx, &Seen { kind, port, family, cookie: 0, netns: 0, interface: 0, address });
    }
    0
}

/// The plain tracepoint of the same name, for kernels without BTF.
#[tracepoint]
pub fn destroy_plain(ctx: TracePointContext) -> u32 {
    let field = |offset: u32| offset as usize;
    // SAFETY: as in `set_state_plain`.
    unsafe {
        let Ok(remote) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.destroy_dport))) else { return 0 };
        if remote != 0 {
            return 0;
        }
        let Ok(port) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.destroy_sport))) else { return 0 };
        if !watched(port) {
            return 0;
        }
        let Ok(cookie) = ctx.read_at::<u64>(field(constant(&TRACE_OFFSETS.destroy_cookie))) else { return 0 };
        let Ok(family) = ctx.read_at::<u16>(field(constant(&TRACE_OFFSETS.destroy_family))) else { return 0 };
        let v4 = field(constant(&TRACE_OFFSETS.destroy_saddr));
        let v6 = field(constant(&TRACE_OFFSETS.destroy_saddr_v6));
        let Some(address) = plain_address(&ctx, family, v4, v6) else { return 0 };
        emit(&ctx, &Seen { kind: kind::RELEASE, port, family, cookie, netns: 0, interface: 0, address });
    }
    0
}

/// # Safety
/// The offsets must be of address fields in this tracepoint's record.
unsafe fn plain_address(ctx: &TracePointContext, family: u16, v4: usize, v6: usize) -> Option<Address> {
    // SAFETY: the caller's promise; tracepoint records are read through a helper that checks the memory.
    unsafe {
        if family == AF_INET6 {
            // Two words: sixteen bytes at once become a memmove out of the context, which the verifier refuses.
            Some(Address::V6([ctx.read_at::<u64>(v6).ok()?, ctx.read_at::<u64>(v6 + 8).ok()?]))
        } else {
            Some(Address::V4(ctx.read_at::<u32>(v4).ok()?))
        }
    }
}

/// The event that a change of state means; accept() takes LISTEN → SYN_RECV on the *child* socket, which is none.
#[inline(always)]
fn listening_changed(old: i32, new: i32) -> Option<u16> {
    if new == i32::from(TCP_LISTEN) {
        Some(kind::LISTEN)
    } else if old == i32::from(TCP_LISTEN) && new == i32::from(TCP_CLOSE) {
        Some(kind::UNLISTEN)
    } else {
        None
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Several helpers are open only to programs under a licence that the kernel takes for GPL-compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
