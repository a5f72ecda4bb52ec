//! What user space sets: constants before the load, and the watched ports at any time.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use watcher_common::{IPPROTO_UDP, Offsets, PORT_WORDS, Settings, TraceOffsets};

/// The watched ports, one bit each: bit `port % 64` of word `port / 64`. Those of UDP follow those of TCP.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(2 * PORT_WORDS, 0);

#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = zeroed();

#[unsafe(no_mangle)]
pub static TRACE_OFFSETS: TraceOffsets = zeroed();

#[unsafe(no_mangle)]
pub static SETTINGS: Settings = zeroed();

/// Reads one field of a global. Volatile, because the compiler would otherwise put in the zero that it sees here.
#[inline(always)]
pub fn constant<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is readable; a global never changes after the load (the kernel freezes its map).
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

/// A record of zeros.
pub const fn zeroed<T>() -> T {
    // SAFETY: used for records of integers alone, of which zero is a value.
    unsafe { core::mem::zeroed() }
}

/// Whether the TCP port is watched.
#[inline(always)]
pub fn watched(port: u16) -> bool {
    is_set(&PORTS, 0, port)
}

/// Whether the UDP port is watched.
#[inline(always)]
pub fn watched_udp(port: u16) -> bool {
    is_set(&PORTS, PORT_WORDS, port)
}

/// Whether the port is watched of a socket with this protocol; TCP's and multipath TCP's are the same.
#[inline(always)]
pub fn watched_of(protocol: u16, port: u16) -> bool {
    if protocol == IPPROTO_UDP { watched_udp(port) } else { watched(port) }
}

/// 1 if the port is watched by either protocol, else 0.
#[inline(always)]
pub fn watched_by_any(port: u16) -> u64 {
    bit(&PORTS, 0, port) | bit(&PORTS, PORT_WORDS, port)
}

/// Whether the port's bit is set, among those of its protocol, which begin at the word `first`.
#[inline(always)]
pub fn is_set(ports: &Array<u64>, first: u32, port: u16) -> bool {
    bit(ports, first, port) == 1
}

#[inline(always)]
fn bit(ports: &Array<u64>, first: u32, port: u16) -> u64 {
    ports.get(first + u32::from(port >> 6)).copied().unwrap_or(0) >> (port & 63) & 1
}
