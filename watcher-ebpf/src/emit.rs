//! Sending events to user space.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_uid_gid, bpf_ktime_get_ns, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use aya_log_ebpf::warn;
use watcher_common::Event;

use crate::current;
use crate::globals::{SCOPE, constant};

/// Some three thousand events: a reader that sleeps through more than that is told how many it lost.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// How many events found no room in the ring, which itself tells nobody when it is full.
#[map]
static LOST: Array<u64> = Array::with_max_entries(1, 0);

/// A local address.
pub enum Address {
    V4(u32),
    /// Two words rather than sixteen bytes: the verifier takes no memmove out of a context.
    V6([u64; 2]),
}

impl Address {
    /// The record's sixteen bytes, as two words.
    #[inline(always)]
    pub fn words(&self) -> [u64; 2] {
        match *self {
            Self::V4(ip) => [u64::from(ip), 0],
            Self::V6(words) => words,
        }
    }
}

/// What a hook saw; the rest of the event is asked of the current task.
pub struct Seen {
    pub kind: u16,
    pub port: u16,
    pub family: u16,
    pub cookie: u64,
    pub netns: u32,
    pub interface: u32,
    pub address: Address,
}

/// Sends an event, or counts it as lost.
#[inline(always)]
pub fn emit<C: EbpfContext>(ctx: &C, seen: &Seen) {
    let scope = constant(&SCOPE.netns);
    // A namespace that is not known (0) passes: user space then takes the event as a hint to look.
    if scope != 0 && seen.netns != 0 && seen.netns != scope {
        return;
    }
    let Some(mut room) = EVENTS.reserve::<Event>(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // Programs on other CPUs add to it at the same time. The target has no atomics in Rust's library.
            // SAFETY: the pointer is into the map, and the instruction writes nothing else.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) lost, in(reg) 1u64) };
        }
        warn!(ctx, "the event ring is full: lost an event of kind {} on port {}", seen.kind, seen.port);
        return;
    };
    let (pid, tid) = current::pid_tid();
    let address = seen.address.words();
    let event = room.as_mut_ptr();
    // SAFETY: the reservation is as large as an Event, aligned to 8, and every field is written.
    unsafe {
        (&raw mut (*event).time_ns).write(bpf_ktime_get_ns());
        (&raw mut (*event).cookie).write(seen.cookie);
        (&raw mut (*event).pid).write(pid);
        (&raw mut (*event).tid).write(tid);
        (&raw mut (*event).uid).write(bpf_get_current_uid_gid() as u32);
        (&raw mut (*event).netns).write(seen.netns);
        (&raw mut (*event).address).cast::<[u64; 2]>().write(address);
        // aya's wrapper returns the name by value: a memset and two copies that the ring record can do without.
        generated::bpf_get_current_comm((&raw mut (*event).comm).cast(), 16);
        (&raw mut (*event).interface).write(seen.interface);
        (&raw mut (*event).kind).write(seen.kind);
        (&raw mut (*event).family).write(seen.family);
        (&raw mut (*event).port).write(seen.port);
        (&raw mut (*event).reserved).write([0; 3]);
    }
    room.submit(0);
}
