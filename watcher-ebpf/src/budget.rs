//! How much of the ring each network namespace may fill. Anybody can make one, and bind and close in it without end.
//!
//! Gatewatch's own namespace may fill the whole ring. Each other one may have an eighth of it unread, and all the others
//! nothing while it is half full: so half of the ring is always there for gatewatch's own namespace.

use aya_ebpf::bindings::{BPF_RB_CONS_POS, BPF_RB_PROD_POS};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use watcher_common::Event;

use crate::emit::{EVENTS, RING_SIZE};

/// What the kernel puts before each record.
const RECORD_HEADER: u32 = 8;
/// How many unread events a namespace may have.
const MOST_UNREAD: u64 = (RING_SIZE / 8 / (size_of::<Event>() as u32 + RECORD_HEADER)) as u64;

/// A namespace's events in the ring: since all of them had last been read.
#[repr(C)]
#[derive(Clone, Copy)]
struct Unread {
    count: u64,
    /// Where its newest event lies, as a position in all that was ever written.
    newest: u64,
}

/// By the namespace's inode number. If there are more, those that were quiet longest begin anew.
#[map]
static UNREAD: LruHashMap<u32, Unread> = LruHashMap::with_max_entries(1024, 0);

/// Whether the namespace has no room left for an event; else counts one more.
///
/// Programs on several CPUs can count one event as another's: the budget then is a few events more or less.
#[inline(always)]
pub fn is_spent(netns: u32) -> bool {
    let (written, read) = (EVENTS.query(BPF_RB_PROD_POS.into()), EVENTS.query(BPF_RB_CONS_POS.into()));
    if written.wrapping_sub(read) >= u64::from(RING_SIZE / 2) {
        return true;
    }
    let Some(unread) = UNREAD.get_ptr_mut(&netns) else {
        let _ = UNREAD.insert(&netns, &Unread { count: 1, newest: written }, 0);
        return false;
    };
    // SAFETY: the pointer is into the map.
    let unread = unsafe { &mut *unread };
    if read > unread.newest {
        // Its newest event has been read, and so have all before.
        unread.count = 0;
    }
    if unread.count >= MOST_UNREAD {
        return true;
    }
    unread.count += 1;
    unread.newest = written;
    false
}
