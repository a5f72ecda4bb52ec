//! `iter/task`: every descriptor of every process, and of every thread that has a table of its own.
//!
//! The threads matter: when a leader has ended, `/proc/PID/fd` is empty while another thread holds the socket.
//!
//! The tables of descriptors are read where they are, and no file is referred to. The kernel's own iterator over descriptors
//! ([`crate::holders_by_file`]) holds each file while it visits it: a listener that its owner closes in that moment keeps
//! its port a little longer.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use crate::descriptors::Descriptors;
use crate::globals::{OFFSETS, constant};
use crate::held::{AGAIN, DONE, progress, report, socket_behind};
use crate::memory::read;

/// The iterator's context (the kernel's `bpf_iter__task`).
#[repr(C)]
pub struct Task {
    meta: *const u8,
    task: *const u8,
}

/// What a callback of `bpf_loop` answers.
const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// A visit to the descriptors of a task.
#[repr(C)]
struct Visit {
    task: *const u8,
    descriptors: Descriptors,
    /// The word of the bitmap that is visited, and the descriptor of its first bit.
    word: u64,
    first: u32,
    /// The descriptor to begin with: those below were reported at the last read.
    begin: u32,
    /// As in [`watcher_common::Progress`].
    sockets: u64,
    any_port: u32,
    /// Whether a descriptor found no room, and which.
    is_full: u32,
    full_at: u32,
}

/// Reports each descriptor of a socket that holds a watched port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn holders(ctx: *const Task) -> i32 {
    // SAFETY: the verifier knows the context's type; after the last task comes a null pointer.
    let task = unsafe { (*ctx).task };
    let Some(progress) = progress() else { return DONE };
    if task.is_null() {
        return DONE;
    }
    let owner = Descriptors::owner(task);
    let leader = read::<u64>(task, constant(&OFFSETS.task_group_leader)) as *const u8;
    let is_leaders = leader != task && Descriptors::owner(leader) == owner;
    if owner.is_null() || is_leaders {
        return DONE;
    }
    let thread = read(task, constant(&OFFSETS.task_pid));
    let mut visit = Visit {
        task,
        descriptors: Descriptors::of(owner),
        word: 0,
        first: 0,
        begin: if progress.thread == thread { progress.descriptor } else { 0 },
        sockets: progress.sockets,
        any_port: progress.any_port,
        is_full: 0,
        full_at: 0,
    };
    each(visit.descriptors.words(), visit_word, &mut visit);
    if visit.is_full == 0 {
        return DONE;
    }
    (progress.thread, progress.descriptor) = (thread, visit.full_at);
    AGAIN
}

/// Calls a function with each number below `count`, until it answers [`STOP`].
#[inline(always)]
fn each(count: u32, function: unsafe extern "C" fn(u64, *mut Visit) -> i64, visit: &mut Visit) {
    // SAFETY: the verifier checks the function with this context.
    unsafe { bpf_loop(count, function as *mut c_void, core::ptr::from_mut(visit).cast(), 0) };
}

/// Visits the descriptors of one word of the bitmap.
#[unsafe(no_mangle)]
unsafe extern "C" fn visit_word(index: u64, visit: *mut Visit) -> i64 {
    // SAFETY: the context that was given to bpf_loop.
    let visit = unsafe { &mut *visit };
    visit.word = visit.descriptors.word(index as u32);
    visit.first = index as u32 * 64;
    // Most words are empty, or have their lowest bits alone.
    let count = match visit.word {
        0 => return GO_ON,
        word if word >> 16 == 0 => 16,
        _ => 64,
    };
    each(count, visit_descriptor, visit);
    // The verifier must see that this is one of the two.
    i64::from(visit.is_full & 1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn visit_descriptor(bit: u64, visit: *mut Visit) -> i64 {
    // SAFETY: as above.
    let visit = unsafe { &mut *visit };
    let fd = visit.first + bit as u32;
    if visit.word >> (bit & 63) & 1 == 0 || fd < visit.begin {
        return GO_ON;
    }
    let file = visit.descriptors.file_of_open(fd);
    let Some(sock) = socket_behind(file, visit.sockets, visit.any_port) else { return GO_ON };
    // The kernel gives the memory of a closed file to the next one, whosever that is.
    let is_still = || visit.descriptors.file_of_open(fd) == file;
    if report(visit.task, file, fd, sock, is_still) {
        return GO_ON;
    }
    (visit.is_full, visit.full_at) = (1, fd);
    STOP
}
