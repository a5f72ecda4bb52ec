//! A `bind` or `listen` that failed with `EADDRINUSE`, which no tracepoint of the kernel tells: at the end of the functions that
//! do them (`fexit`). They have the address as the kernel copied it, and are reached by every way in, io_uring's included. All are
//! called through tables of functions, so that no compiler puts them into their callers.
//!
//! Where functions can't be followed, [`crate::conflict_by_call`] takes their place.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_func_ret};
use aya_ebpf::macros::fexit;
use aya_ebpf::programs::FExitContext;
use watcher_common::{AF_INET, AF_INET6, EventKind, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP};

use crate::current;
use crate::emit::{SocketEvent, emit};
use crate::globals::{OFFSETS, constant, watched, watched_of, watched_udp};
use crate::memory::read;
use crate::sock::{Address, Sock};

pub const EADDRINUSE: i32 = 98;
/// IPv4's bind takes an address without a family for one of its own.
pub const AF_UNSPEC: u16 = 0;

/// A bind over IPv4: `(struct socket *, struct sockaddr *, int)`.
#[fexit(function = "inet_bind")]
pub fn bind4_end(ctx: FExitContext) -> i32 {
    bound(&ctx)
}

/// A bind over IPv6.
#[fexit(function = "inet6_bind")]
pub fn bind6_end(ctx: FExitContext) -> i32 {
    bound(&ctx)
}

/// A bind of a multipath socket, which since Linux 6.6 does not call the family's.
#[fexit(function = "mptcp_bind")]
pub fn multipath_bind_end(ctx: FExitContext) -> i32 {
    bound(&ctx)
}

#[inline(always)]
fn bound(ctx: &FExitContext) -> i32 {
    if failed(ctx) {
        report_bind(ctx);
    }
    0
}

/// A listen: `(struct socket *, int)`.
#[fexit(function = "inet_listen")]
pub fn listen_end(ctx: FExitContext) -> i32 {
    listened(&ctx)
}

/// A listen of a multipath socket, of which the same holds as of its bind.
#[fexit(function = "mptcp_listen")]
pub fn multipath_listen_end(ctx: FExitContext) -> i32 {
    listened(&ctx)
}

#[inline(always)]
fn listened(ctx: &FExitContext) -> i32 {
    if failed(ctx) {
        report_listen(ctx, sock_of(ctx));
    }
    0
}

#[inline(always)]
fn failed(ctx: &FExitContext) -> bool {
    // The verifier of Linux 6.1 believes that what lay there before is the result, and drops what can't come to pass then:
    // so it must not know what lay there.
    let mut result = bpf_get_current_pid_tgid();
    // SAFETY: the context is that of the program, and the result has room for eight bytes.
    let is_told = unsafe { bpf_get_func_ret(ctx.as_ptr(), &raw mut result) } == 0;
    is_told && result as i32 == -EADDRINUSE
}

// In the object once, because each command reads the whole object.
#[inline(never)]
fn report_bind(ctx: &FExitContext) {
    let sockaddr = ctx.arg::<*const u8>(1);
    // The family, the port, and what is the address in sockaddr_in. No address of the two families is shorter.
    let [start, v4] = read::<[u32; 2]>(sockaddr, 0);
    let port = u16::from_be((start >> 16) as u16);
    if !watched(port) && !watched_udp(port) {
        return;
    }
    let (family, address) = match start as u16 {
        AF_INET | AF_UNSPEC => (AF_INET, Address::v4(v4)),
        // sockaddr_in6 has its address at 8.
        AF_INET6 => (AF_INET6, Address(read(sockaddr, 8))),
        _ => return,
    };
    report(ctx, sock_of(ctx), port, family, address);
}

/// The sock of the `struct socket` that is the function's first argument.
#[inline(always)]
fn sock_of(ctx: &FExitContext) -> Sock {
    Sock::new(read::<u64>(ctx.arg::<*const u8>(0), constant(&OFFSETS.socket_sk)) as *const u8)
}

/// Two sockets with `SO_REUSEADDR` can be bound to the same address; only one of them can listen.
#[inline(never)]
fn report_listen(ctx: &FExitContext, sock: Sock) {
    let (port, family) = (sock.port(), sock.family());
    if watched(port) {
        report(ctx, sock, port, family, sock.address(family));
    }
}

/// Tells of a conflict on a port, of a socket that did not get this address.
#[inline(always)]
pub fn report<C: EbpfContext>(ctx: &C, sock: Sock, port: u16, family: u16, address: Address) {
    let protocol = match sock.protocol() {
        IPPROTO_TCP | IPPROTO_MPTCP => IPPROTO_TCP,
        IPPROTO_UDP => IPPROTO_UDP,
        _ => return,
    };
    // Gatewatch's own proofs are known by its file alone: the mark of its sockets takes a privilege that a user's gatewatch has
    // not, and whoever runs a file with that number hides nothing but that he himself was refused a port.
    if !watched_of(protocol, port) || current::runs_gatewatch() {
        return;
    }
    let (netns, interface) = (sock.netns(), sock.interface());
    let kind = EventKind::Conflict;
    emit(
        ctx,
        SocketEvent { kind, is_line: true, protocol, port, family, cookie: 0, netns, interface, address },
    );
}
