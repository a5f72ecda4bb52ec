//! `inet_sock_set_state(sk, oldstate, newstate)`: a socket begins or stops listening.

use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use watcher_common::{EventKind, IPPROTO_MPTCP, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN};

use crate::emit::{SocketEvent, emit, emit_for};
use crate::globals::{TRACE_OFFSETS, constant, watched};
use crate::memory::field;
use crate::sock::{Address, Sock, family_in_record};

/// The hook on a kernel with BTF.
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
    emit_for(&ctx, sock, IPPROTO_TCP, kind, kind == EventKind::Listen, port, cookie);
    0
}

/// The plain tracepoint of the same name, for kernels without BTF. It gives neither cookie nor network namespace.
#[tracepoint]
pub fn set_state_plain(ctx: TracePointContext) -> u32 {
    let _ = report_plain(&ctx);
    0
}

/// `None` where the event is of no interest, or a field can't be read.
#[inline(always)]
fn report_plain(ctx: &TracePointContext) -> Option<()> {
    let old = field(ctx, constant(&TRACE_OFFSETS.state_oldstate))?;
    let new = field(ctx, constant(&TRACE_OFFSETS.state_newstate))?;
    let kind = listening_changed(old, new)?;
    let port = field(ctx, constant(&TRACE_OFFSETS.state_sport))?;
    if !watched(port) || field::<u16>(ctx, constant(&TRACE_OFFSETS.state_protocol))? == IPPROTO_MPTCP {
        return None;
    }
    let v4 = constant(&TRACE_OFFSETS.state_saddr);
    let v6 = constant(&TRACE_OFFSETS.state_saddr_v6);
    let family = family_in_record(ctx, constant(&TRACE_OFFSETS.state_family), v6)?;
    let address = Address::in_record(ctx, family, v4, v6)?;
    let (protocol, is_line) = (IPPROTO_TCP, kind == EventKind::Listen);
    emit(
        ctx,
        SocketEvent { kind, is_line, protocol, port, family, cookie: 0, netns: 0, interface: 0, address },
    );
    Some(())
}

/// The event that a change of state means. `accept` takes LISTEN → SYN_RECV on the *child* socket, which is no event.
#[inline(always)]
fn listening_changed(old: i32, new: i32) -> Option<EventKind> {
    if new == i32::from(TCP_LISTEN) {
        Some(EventKind::Listen)
    } else if old == i32::from(TCP_LISTEN) && new == i32::from(TCP_CLOSE) {
        Some(EventKind::Unlisten)
    } else {
        None
    }
}
