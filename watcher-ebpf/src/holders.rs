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

/// The most rounds that `bpf_loop` makes (`BPF_MAX_LOOPS`).
const MOST_ROUNDS: u32 = 1 << 23;

/// A visit to the descriptors of a task.
#[repr(C)]
struct Visit {
    descriptors: Descriptors,
    /// The next descriptor.
    next: u32,
    /// As in [`watcher_common::Progress`].
    sockets: u64,
    any_port: u32,
    /// Whether the descriptor before the next is to be reported: 1 or 0.
    is_found: u32,
}

/// Reports a descriptor of a socket that holds a watched port, and asks to be shown the task again at the next read.
///
/// To report all in one go would be quicker where a process has very many. But the verifier goes through a loop's body until
/// it knows every state that it can be in, so what stands in the loop makes each start longer.
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
    let descriptors = Descriptors::of(owner);
    let thread = read(task, constant(&OFFSETS.task_pid));
    let begin = if progress.thread == thread { progress.descriptor } else { 0 };
    let mut visit = Visit {
        descriptors,
        next: begin,
        sockets: progress.sockets,
        any_port: progress.any_port,
        is_found: 0,
    };
    let rounds = descriptors.size().min(MOST_ROUNDS);
    // SAFETY: the verifier checks the function with this context.
    unsafe { bpf_loop(rounds, find as *mut c_void, (&raw mut visit).cast(), 0) };
    if visit.is_found == 0 {
        if visit.next >= descriptors.size() {
            return DONE;
        }
        // That were all rounds.
        (progress.thread, progress.descriptor) = (thread, visit.next);
        return AGAIN;
    }
    let fd = visit.next - 1;
    let file = descriptors.file_of_open(fd);
    // The kernel gives the memory of a closed file to the next one, whosever that is.
    let is_still = || descriptors.file_of_open(fd) == file;
    let has_room = match socket_behind(file, visit.sockets, visit.any_port) {
        Some(sock) => report(task, file, fd, sock, is_still),
        None => true,
    };
    (progress.thread, progress.descriptor) = (thread, if has_room { visit.next } else { fd });
    AGAIN
}

/// Looks at the next descriptor. One that is not open costs one round, and so do all that come after the last open one of a
/// word.
#[unsafe(no_mangle)]
unsafe extern "C" fn find(_round: u64, visit: *mut Visit) -> i64 {
    // SAFETY: the context that was given to bpf_loop.
    let visit = unsafe { &mut *visit };
    let fd = visit.next;
    if fd >= visit.descriptors.size() {
        return STOP;
    }
    let rest = visit.descriptors.word(fd / 64) >> (fd % 64);
    if rest == 0 {
        visit.next = (fd | 63) + 1;
        return GO_ON;
    }
    visit.next = fd + 1;
    if rest & 1 == 0 {
        return GO_ON;
    }
    let file = visit.descriptors.file_of_open(fd);
    if socket_behind(file, visit.sockets, visit.any_port).is_none() {
        return GO_ON;
    }
    visit.is_found = 1;
    STOP
}
