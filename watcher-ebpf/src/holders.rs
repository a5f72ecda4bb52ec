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
use watcher_common::{FILES_AT_ONCE, Progress, Visit};

use crate::current;
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
    if progress.makers != u64::MAX && makers(task) & progress.makers == 0 {
        return DONE;
    }
    let owner = Descriptors::owner(task);
    if owner.is_null() {
        return DONE;
    }
    let leader = read::<u64>(task, constant(&OFFSETS.task_group_leader)) as *const u8;
    let is_not_leader = is_any(leader as u64 ^ task_number(ctx));
    // Its table is looked at with the leader.
    if is_not_leader & (is_any(Descriptors::owner(leader) as u64 ^ owner as u64) ^ 1) != 0 {
        return DONE;
    }
    let thread = read(task, constant(&OFFSETS.task_pid));
    let (met, rounds) =
        (progress.met, begin_visit(progress, task_number(ctx), thread, Descriptors::of(owner)));
    // SAFETY: the verifier checks the function, which takes no context.
    unsafe { bpf_loop(rounds, each_word as *mut c_void, core::ptr::null_mut(), 0) };
    if progress.visit.is_full == 0 {
        if rounds < MOST_ROUNDS {
            if progress.met == met {
                return DONE;
            }
            progress.is_shared |= Descriptors::is_shared(owner, task);
            return hidden(port_files::settle(0, 0, 0)) as i32 & AGAIN;
        }
        progress.descriptor = progress.visit.first as u32;
    }
    // Who shares a table that is looked at in parts is not asked.
    progress.is_shared = 1;
    progress.thread = thread;
    AGAIN
}

/// The address of the task. As a number, which is all that a function of its own takes.
#[inline(always)]
fn task_number(ctx: *const Task) -> u64 {
    read(ctx.cast(), offset_of!(Task, task) as u32)
}

/// Begins a visit to a table: anew, or where the one before had to leave it. Returns how many words of the bitmap are left.
#[inline(always)]
fn begin_visit(progress: &mut Progress, task: u64, thread: u32, table: Descriptors) -> u32 {
    let is_again = is_any(u64::from(progress.thread ^ thread)) ^ 1;
    let begin = u64::from(progress.descriptor) * is_again;
    let first = begin & !u64::from(WORD - 1);
    progress.visit = Visit {
        task,
        files: table.files as u64,
        bitmap: table.bitmap as u64,
        first,
        // Two zeros side by side would be a call of memset, which takes more than numbers.
        open: hidden(0),
        wanted: u64::MAX << (begin % u64::from(WORD)),
        is_full: hidden(0),
    };
    // A table never shrinks, but a process that runs another program gets a new one, which may be smaller.
    let words = u64::from(table.size).saturating_sub(first) / u64::from(WORD);
    words.min(MOST_ROUNDS.into()) as u32
}

/// The bits of a task's own credentials and of its parent's.
///
/// A file keeps the credentials of who made it, and no process has the same ones as another: only threads share them (clone(2)).
#[inline(always)]
fn makers(task: *const u8) -> u64 {
    let of = |task: *const u8| port_files::bit(read(task, constant(&OFFSETS.task_cred)));
    of(task) | of(current::parent(task))
}

/// Looks at the descriptors of the next word of the bitmap. 1 ends the loop.
#[unsafe(no_mangle)]
unsafe extern "C" fn each_word(_round: u64, _context: *mut c_void) -> u64 {
    let Some(progress) = progress() else { return 1 };
    let at = &mut progress.visit;
    let first = at.first as u32;
    at.open = read::<u64>(at.bitmap as *const u8, first / 8) & at.wanted;
    at.wanted = u64::MAX;
    // All of the files, the first few if no others are open, or none of them. Most processes have few, and the rest of the table
    // lies in other lines of memory.
    let pointers = is_any(at.open) * FEW + is_any(at.open >> FEW) * (FILES_AT_ONCE as u64 - FEW);
    let length = pointers as u32 * size_of::<u64>() as u32;
    // SAFETY: the map's element has this field, and the helper fails on a bad address.
    unsafe {
        let files = (&raw mut progress.files).cast();
        bpf_probe_read_kernel(files, length, place(at, first.into()) as *const c_void);
        bpf_loop(WORD, each_descriptor as *mut c_void, core::ptr::null_mut(), 0);
    }
    progress.visit.first = u64::from(first) + u64::from(WORD);
    hidden(progress.visit.is_full) & 1
}

/// Looks at the next descriptor of the word. 1 ends the loop.
#[unsafe(no_mangle)]
unsafe extern "C" fn each_descriptor(index: u64, _context: *mut c_void) -> u64 {
    let Some(progress) = progress() else { return 1 };
    let visit = &mut progress.visit;
    let rest = visit.open >> (index % u64::from(WORD));
    let fd = visit.first + index;
    let is_full = look(visit.task, place(visit, fd) * hidden(rest & 1), fd);
    visit.is_full = is_full;
    (hidden(is_full) | is_any(rest) ^ 1) & 1
}

/// Where the pointer to the file of a descriptor stands; it is null if it is not open.
#[inline(always)]
fn place(visit: &Visit, fd: u64) -> u64 {
    visit.files.wrapping_add(fd * size_of::<u64>() as u64)
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
    if report(progress, task as *const u8, file, fd, sock, place) {
        return 0;
    }
    progress.descriptor = fd;
    1
}
