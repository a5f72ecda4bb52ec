//! `cgroup/sock_release`: a UDP socket is being closed.
//!
//! It runs at the last close of every socket, a moment before the port goes back; user space makes sure that it has. No
//! tracepoint of the UDP code reports the socket's end.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use watcher_common::{EventKind, IPPROTO_UDP};

use crate::emit::emit_for;
use crate::globals::watched_udp;
use crate::sock::Sock;

/// What a program at this hook answers. The kernel goes on whatever it is.
const ALLOW: i32 = 1;

#[cgroup_sock(sock_release)]
pub fn udp_release(ctx: SockContext) -> i32 {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: the verifier rewrites the read into one of the socket itself.
    if unsafe { (*sock).protocol } != u32::from(IPPROTO_UDP) {
        return ALLOW;
    }
    // The context is the socket's own address, which tracing helpers can read through; its own fields don't give the port
    // here.
    let inner = Sock::new(ctx.as_ptr().cast_const().cast());
    let port = inner.port();
    if !watched_udp(port) {
        return ALLOW;
    }
    // One whose cookie nobody has asked for was never seen: a watch makes no line of it.
    let is_line = inner.stored_cookie() != 0;
    // SAFETY: the context is a socket, for which this helper gives the cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    emit_for(&ctx, inner, IPPROTO_UDP, EventKind::Release, is_line, port, cookie);
    ALLOW
}
