//! Sending events to user space.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_uid_gid, bpf_ktime_get_ns, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use aya_log_ebpf::warn;
use watcher_common::{Event, EventKind, LOST_COUNTS};

use crate::budget;
use crate::current;
use crate::globals::{SETTINGS, constant};
use crate::sock::{Address, Sock};

/// Room for some three thousand events. A reader that falls further behind learns from [`LOST`] how many it missed.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);
pub const RING_SIZE: u32 = 256 * 1024;

/// How many events found no room in the ring, which itself does not report that it is full, or were over their namespace's
/// budget: first those that would have been lines of a watch, then the others; after both, the same for other network
/// namespaces than gatewatch's own.
#[map]
static LOST: Array<u64> = Array::with_max_entries(LOST_COUNTS, 0);

/// A hook's part of an [`Event`]; [`emit`] adds the time and the process.
pub struct SocketEvent {
    pub kind: EventKind,
    /// Whether a watch makes a line of it.
    pub is_line: bool,
    /// TCP's number for a multipath socket.
    pub protocol: u16,
    pub port: u16,
    pub family: u16,
    pub cookie: u64,
    pub netns: u32,
    pub interface: u32,
    pub address: Address,
}

/// Sends an event about a socket as it is now, unless the socket is one of gatewatch's own.
#[inline(always)]
pub fn emit_for<C: EbpfContext>(
    ctx: &C,
    sock: Sock,
    protocol: u16,
    kind: EventKind,
    is_line: bool,
    port: u16,
    cookie: u64,
) {
    if sock.is_own() {
        return;
    }
    let family = sock.family();
    let event = SocketEvent {
        kind,
        is_line,
        protocol,
        port,
        family,
        cookie,
        netns: sock.netns(),
        interface: sock.interface(),
        address: sock.address(family),
    };
    emit(ctx, event);
}

/// Sends an event, or counts it as lost.
#[inline(always)]
pub fn emit<C: EbpfContext>(ctx: &C, event: SocketEvent) {
    let SocketEvent { kind, is_line, protocol, port, family, cookie, netns, interface, address } = event;
    let scope = constant(&SETTINGS.scope);
    // An unknown namespace (0) passes: user space then takes the event as a hint to look.
    if scope != 0 && netns != 0 && netns != scope {
        return;
    }
    let kind = kind.number();
    let is_elsewhere = scope == 0 && netns != 0 && netns != constant(&SETTINGS.home);
    if is_elsewhere && budget::is_spent(netns) {
        count_lost(is_elsewhere, is_line);
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count_lost(is_elsewhere, is_line);
        warn_of_loss(Context(ctx.as_ptr()), kind, port);
        return;
    };
    let pid = current::pid();
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an Event, aligned to 8, and every field is written.
    unsafe {
        (&raw mut (*event).time_ns).write(bpf_ktime_get_ns());
        (&raw mut (*event).cookie).write(cookie);
        (&raw mut (*event).pid).write(pid);
        (&raw mut (*event).uid).write(bpf_get_current_uid_gid() as u32);
        (&raw mut (*event).netns).write(netns);
        (&raw mut (*event).interface).write(interface);
        (&raw mut (*event).address).cast::<[u64; 2]>().write(address.0);
        // aya's wrapper returns the name by value: a memset and two copies that the ring record can do without.
        generated::bpf_get_current_comm((&raw mut (*event).comm).cast(), 16);
        (&raw mut (*event).kind).write(kind);
        (&raw mut (*event).family).write(family);
        (&raw mut (*event).port).write(port);
        (&raw mut (*event).protocol).write(protocol);
    }
    entry.submit(0);
}

/// A program's context, of whatever kind.
struct Context(*mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

// For contexts of all kinds the same, so that the object has it once: each command reads the whole object.
#[inline(never)]
fn warn_of_loss(ctx: Context, kind: u16, port: u16) {
    warn!(&ctx, "the event ring is full: lost an event of kind {} on port {}", kind, port);
}

#[inline(always)]
fn count_lost(is_elsewhere: bool, is_line: bool) {
    if let Some(lost) = LOST.get_ptr_mut(u32::from(is_elsewhere) << 1 | u32::from(!is_line)) {
        // Programs on other CPUs add to it at the same time. The target has no atomics in Rust's library.
        // SAFETY: the pointer is into the map, and the instruction writes nothing else.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) lost, in(reg) 1u64) };
    }
}
