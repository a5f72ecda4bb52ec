//! What user space tells the program: before the load through read-only globals, later through the port map.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use watcher_common::{Offsets, PORT_WORDS, Scope, TraceOffsets};

/// The watched ports, one bit each: bit `port % 64` of word `port / 64`.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);

#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = zeroed();

#[unsafe(no_mangle)]
pub static TRACE_OFFSETS: TraceOffsets = zeroed();

#[unsafe(no_mangle)]
pub static SCOPE: Scope = zeroed();

/// Reads one field of a global. Volatile, since the compiler would otherwise put in the zero that it sees here.
#[inline(always)]
pub fn constant<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is readable; nobody writes a global after the load (the kernel freezes its map).
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

pub const fn zeroed<T>() -> T {
    // SAFETY: used for records of integers alone, of which zero is a value.
    unsafe { core::mem::zeroed() }
}

/// Whether the port is watched.
#[inline(always)]
pub fn watched(port: u16) -> bool {
    let word = PORTS.get(u32::from(port >> 6)).copied().unwrap_or(0);
    word >> (port & 63) & 1 == 1
}
