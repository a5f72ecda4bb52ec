//! `iter/task`: every descriptor of every process, and of every thread that has a table of its own.
//!
//! The threads matter: when a leader has ended, `/proc/PID/fd` is empty while another thread holds the socket.
//!
//! The tables of descriptors are read where they are, and no file is referred to. The kernel's own iterator over descriptors
//! ([`crate::holders_by_file`]) holds each file while it visits it: a listener that its owner closes in that moment keeps
//! its port a little longer.
//!
//! The verifier goes through a loop's body until it knows every state that it can be in, and each choice in it is two of
//! them. So the bodies here make none, and leave all to [`look`]: through a function that takes and gives numbers alone it
//! goes once, if user space has told it that it is one.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use watcher_common::{FILES_AT_ONCE, Progress};

use crate::descriptors::Descriptors;
use crate::globals::{OFFSETS, constant};
use crate::held::{AGAIN, DONE, begun, progress, report, socket_behind};
use crate::hiding::hidden;
use crate::memory::read;
use crate::port_files;

/// The iterator's context (the kernel's `bpf_iter__task`).
#[repr(C)]
pub struct Task {
    meta: *const u8,
    task: *const u8,
}

/// The most rounds that `bpf_loop` makes (`BPF_MAX_LOOPS`).
const MOST_ROUNDS: u32 = 1 << 23;

/// How many pointers a line of memory has.
const FEW: u64 = 8;

/// How many descriptors a word of the bitmap has.
const WORD: u32 = FILES_AT_ONCE as u32;

/// A visit to the descriptors of a task.
#[repr(C)]
struct Visit {
    task: u64,
    descriptors: Descriptors,
    progress: *mut Progress,
    /// The first of those that are looked at together: a word of the bitmap.
    first: u32,
    /// Which of the present word are open and to be looked at.
    open: u64,
    /// Which of the next word are to be looked at: those of the first that were not, then all.
    wanted: u64,
    /// 1 once there was no room for a descriptor, else 0.
    is_full: u64,
}

/// Reports the descriptors of sockets that hold a watched port. If there is no room for one, it asks to be shown the task
/// again at the next read.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn holders(ctx: *const Task) -> i32 {
    // SAFETY: the verifier knows the context's type; after the last task comes a null pointer.
    let task = unsafe { (*ctx).task };
    let Some(progress) = begun(port_files::begin) else { return DONE };
    if task.is_null() {
        port_files::end(progress);
        return DONE;
    }
    let owner = Descriptors::owner(task);
    let leader = read::<u64>(task, constant(&OFFSETS.task_group_leader)) as *const u8;
    let is_leaders = leader != task && Descriptors::owner(leader) == owner;
    if owner.is_null() || is_leaders {
        return DONE;
    }
    let descriptors = Descriptors::of(owner);
    let thread = read(task, constant(&OFFSETS.task_pid));
    let begin = if progress.thread == thread { progress.descriptor } else { 0 };
    let mut visit = Visit {
        // As a number, which is all that a function of its own takes.
        task: read(ctx.cast(), offset_of!(Task, task) as u32),
        descriptors,
        progress,
        first: begin & !(WORD - 1),
        // Two zeros side by side would be a call of memset, which takes more than numbers.
        open: 0,
        wanted: u64::MAX << (begin % WORD),
        is_full: 0,
    };
    let rounds = (descriptors.size().saturating_sub(visit.first) / WORD).min(MOST_ROUNDS);
    // SAFETY: the verifier checks the function with this context.
    unsafe { bpf_loop(rounds, each_word as *mut c_void, (&raw mut visit).cast(), 0) };
    if visit.is_full == 0 {
        if rounds < MOST_ROUNDS {
            return DONE;
        }
        progress.descriptor = visit.first;
    }
    progress.thread = thread;
    AGAIN
}

/// Looks at the descriptors of the next word of the bitmap. 1 ends the loop.
#[unsafe(no_mangle)]
unsafe extern "C" fn each_word(_round: u64, visit: *mut Visit) -> u64 {
    // SAFETY: the context that was given to bpf_loop.
    let at = unsafe { &mut *visit };
    let first = at.first;
    at.open = at.descriptors.word(first / WORD) & at.wanted;
    at.wanted = u64::MAX;
    // All of the files, the first few if no others are open, or none of them. Most processes have few, and the rest of the table
    // lies in other lines of memory.
    let pointers = is_any(at.open) * FEW + is_any(at.open >> FEW) * (FILES_AT_ONCE as u64 - FEW);
    let length = pointers as u32 * size_of::<u64>() as u32;
    // SAFETY: the map's element has this field, and the helper fails on a bad address.
    unsafe {
        let files = (&raw mut (*at.progress).files).cast();
        bpf_probe_read_kernel(files, length, at.descriptors.place(first).cast());
        bpf_loop(WORD, each_descriptor as *mut c_void, visit.cast(), 0);
    }
    at.first = first + WORD;
    hidden(at.is_full) & 1
}

/// Looks at the next descriptor of the word. 1 ends the loop.
#[unsafe(no_mangle)]
unsafe extern "C" fn each_descriptor(index: u64, visit: *mut Visit) -> u64 {
    // SAFETY: the context that was given to bpf_loop.
    let visit = unsafe { &mut *visit };
    let rest = visit.open >> (index % u64::from(WORD));
    let fd = visit.first + index as u32;
    let place = visit.descriptors.place(fd) as u64 * hidden(rest & 1);
    let is_full = look(visit.task, place, fd.into());
    visit.is_full = is_full;
    (hidden(is_full) | is_any(rest) ^ 1) & 1
}

/// 1 if a bit is set, else 0: without a choice.
#[inline(always)]
fn is_any(bits: u64) -> u64 {
    hidden(bits | bits.wrapping_neg()) >> 63
}

/// Looks at the descriptor whose file stands at the place, or at none if there is no place, and reports it if it is of a
/// socket that holds a watched port. 1 if there is no room for it, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look(task: u64, place: u64, fd: u64) -> u64 {
    let Some(progress) = progress() else { return 0 };
    let file = progress.files[fd as usize % FILES_AT_ONCE];
    if place == 0 || file == 0 || progress.filter & port_files::bit(file) == 0 {
        return 0;
    }
    let (fd, file) = (fd as u32, file as *const u8);
    let Some(sock) = socket_behind(file, progress.sockets, progress.any_port) else { return 0 };
    // The kernel gives the memory of a closed file to the next one, whosever that is.
    let is_still = || read::<u64>(place as *const u8, 0) == file as u64;
    if report(task as *const u8, file, fd, sock, is_still) {
        return 0;
    }
    progress.descriptor = fd;
    1
}
