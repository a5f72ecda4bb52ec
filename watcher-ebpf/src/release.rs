//! `tcp_destroy_sock(sk)`: a socket gives its port back.
//!
//! It fires once for every TCP socket that is destroyed, connections included. A listener or a bound socket has no remote
//! port; a client that was bound before it connected is known by its cookie.

use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use watcher_common::{EventKind, IPPROTO_TCP};

use crate::bind;
use crate::emit::{SocketEvent, emit, emit_for};
use crate::globals::{TRACE_OFFSETS, constant, watched};
use crate::memory::field;
use crate::sock::{Address, Sock, family_in_record};

/// The hook on a kernel with BTF.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn destroy(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    let port = sock.port();
    if !watched(port) {
        return 0;
    }
    let known = sock.stored_cookie();
    if !bind::forget(known) && sock.remote_port() != 0 {
        return 0;
    }
    // Connections that a listener never accepted go with it, without a remote port. Nobody has asked for their cookies, and
    // a watch makes no lines of them.
    let is_line = known != 0;
    // SAFETY: the argument of this tracepoint is a sock that the kernel trusts.
    let cookie = unsafe { bpf_get_socket_cookie(sock.as_ptr()) };
    emit_for(&ctx, sock, IPPROTO_TCP, EventKind::Release, is_line, port, cookie);
    0
}

/// The plain tracepoint of the same name, for kernels without BTF. It gives no network namespace.
#[tracepoint]
pub fn destroy_plain(ctx: TracePointContext) -> u32 {
    let _ = report_plain(&ctx);
    0
}

/// `None` where the event is of no interest, or a field can't be read.
#[inline(always)]
fn report_plain(ctx: &TracePointContext) -> Option<()> {
    let port = field(ctx, constant(&TRACE_OFFSETS.destroy_sport))?;
    if !watched(port) {
        return None;
    }
    let cookie = field(ctx, constant(&TRACE_OFFSETS.destroy_cookie))?;
    if !bind::forget(cookie) && field::<u16>(ctx, constant(&TRACE_OFFSETS.destroy_dport))? != 0 {
        return None;
    }
    let v4 = constant(&TRACE_OFFSETS.destroy_saddr);
    let v6 = constant(&TRACE_OFFSETS.destroy_saddr_v6);
    let family = family_in_record(ctx, constant(&TRACE_OFFSETS.destroy_family), v6)?;
    let address = Address::in_record(ctx, family, v4, v6)?;
    let (kind, protocol) = (EventKind::Release, IPPROTO_TCP);
    emit(
        ctx,
        SocketEvent { kind, is_line: true, protocol, port, family, cookie, netns: 0, interface: 0, address },
    );
    Some(())
}
