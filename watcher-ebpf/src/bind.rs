//! `cgroup/post_bind4` and `post_bind6`: a successful bind, whether the socket listens later or never.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{cgroup_sock, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::SockContext;
use watcher_common::{AF_INET, AF_INET6, BOUND_COOKIES, EventKind, IPPROTO_TCP, IPPROTO_UDP};

use crate::emit::{SocketEvent, emit};
use crate::globals::watched_of;
use crate::sock::{Address, Sock};

/// The cookies of TCP sockets that were bound to a watched port. A client that binds the port and connects has a remote port
/// when it is destroyed, like a connection that was accepted, and only this tells the two apart.
#[map]
static BOUND: LruHashMap<u64, u8> = LruHashMap::with_max_entries(BOUND_COOKIES, 0);

/// Whether the socket with this cookie was bound to a watched port. It is asked for once, when the socket goes.
#[inline(always)]
pub fn forget(cookie: u64) -> bool {
    cookie != 0 && BOUND.remove(&cookie).is_ok()
}

/// What a program at this hook answers to let the bind go through. Gatewatch always does.
const ALLOW: i32 = 1;

/// A bind over IPv4.
#[cgroup_sock(post_bind4)]
pub fn bind4(ctx: SockContext) -> i32 {
    report(&ctx, AF_INET);
    ALLOW
}

/// A bind over IPv6, dual-stack ones included.
#[cgroup_sock(post_bind6)]
pub fn bind6(ctx: SockContext) -> i32 {
    report(&ctx, AF_INET6);
    ALLOW
}

fn report(ctx: &SockContext, family: u16) {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: the verifier rewrites reads of `bpf_sock` into reads of the socket itself.
    let (protocol, port) = unsafe { ((*sock).protocol, (*sock).src_port) };
    let port = port as u16;
    let protocol = protocol as u16;
    let is_known = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
    if !is_known || !watched_of(protocol, port) {
        return;
    }
    // The context is the socket's own address, which tracing helpers can read through. In these hooks the context's
    // own fields do not give mark and interface.
    let inner = Sock::new(ctx.as_ptr().cast_const().cast());
    if inner.is_own() {
        return;
    }
    // SAFETY: as above. The context is a socket, for which this helper gives the cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if protocol == IPPROTO_TCP {
        // A full map drops its oldest entry.
        let _ = BOUND.insert(&cookie, &1, 0);
    }
    let address = if family == AF_INET {
        // SAFETY: src_ip4 may be read in post_bind4, where the family is AF_INET.
        Address::v4(unsafe { (*sock).src_ip4 })
    } else {
        // SAFETY: src_ip6 may be read in post_bind6; the verifier requires one read a word.
        unsafe { Address::v6_by_words((&raw const (*sock).src_ip6).cast()) }
    };
    let (netns, interface) = (inner.netns(), inner.interface());
    emit(
        ctx,
        SocketEvent {
            kind: EventKind::Bind,
            is_line: true,
            protocol,
            port,
            family,
            cookie,
            netns,
            interface,
            address,
        },
    );
}
