//! Process and thread ids, in gatewatch's own pid namespace.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};

use crate::globals::{OFFSETS, SETTINGS, constant};
use crate::memory::read;

/// The kernel's `PIDTYPE_TGID`: the index of the thread group's pid in `signal_struct.pids`.
const PIDTYPE_TGID: u32 = 1;
/// A pid namespace nests at most 32 deep (pid_namespaces(7)).
const MAX_LEVEL: u32 = 32;
/// `sizeof(struct upid)`: a number, padding, and the namespace that the number belongs to.
const UPID_SIZE: u32 = 16;

/// The process that runs now; 0 where it is not visible from gatewatch.
#[inline(always)]
pub fn pid() -> u32 {
    if constant(&SETTINGS.pidns) == 0 {
        return (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    // SAFETY: the helper takes nothing and always returns the current task.
    in_own_namespace(group(unsafe { bpf_get_current_task() } as *const u8))
}

/// Process and thread id of a `struct task_struct`; 0 and 0 where it is not visible from gatewatch.
#[inline(always)]
pub fn pid_and_tid(task: *const u8) -> (u32, u32) {
    if constant(&SETTINGS.pidns) == 0 {
        return (read(task, constant(&OFFSETS.task_tgid)), read(task, constant(&OFFSETS.task_pid)));
    }
    let thread: u64 = read(task, constant(&OFFSETS.task_thread_pid));
    (in_own_namespace(group(task)), in_own_namespace(thread as *const u8))
}

/// The inode number of the file that a task runs, its lower half; 0 where there is none.
#[inline(always)]
pub fn file_number(task: *const u8) -> u32 {
    read::<u64>(inode(file(task)), constant(&OFFSETS.inode_ino)) as u32
}

/// Whether the current process runs a file with the number of gatewatch's own.
#[inline(always)]
pub fn runs_gatewatch() -> bool {
    // SAFETY: the helper takes nothing and always returns the current task.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    constant(&SETTINGS.own_file) != 0 && file_number(task) == constant(&SETTINGS.own_file)
}

/// The file that a task runs; null where there is none.
#[inline(always)]
pub fn file(task: *const u8) -> *const u8 {
    let mm: u64 = read(task, constant(&OFFSETS.task_mm));
    read::<u64>(mm as *const u8, constant(&OFFSETS.mm_exe_file)) as *const u8
}

/// The numbers of a file's device and of its inode; 0 and 0 where there is no file.
#[inline(always)]
pub fn numbers(file: *const u8) -> (u32, u64) {
    let inode = inode(file);
    let file_system: u64 = read(inode, constant(&OFFSETS.inode_sb));
    let device = read(file_system as *const u8, constant(&OFFSETS.super_dev));
    (device, read(inode, constant(&OFFSETS.inode_ino)))
}

#[inline(always)]
fn inode(file: *const u8) -> *const u8 {
    read::<u64>(file, constant(&OFFSETS.file_inode)) as *const u8
}

/// A task's parent; null for the first of all, whose parent is itself.
#[inline(always)]
pub fn parent(task: *const u8) -> *const u8 {
    read::<u64>(task, constant(&OFFSETS.task_real_parent)) as *const u8
}

/// A task's process, whichever pid namespace gatewatch is in.
#[inline(always)]
pub fn process(task: *const u8) -> u32 {
    if constant(&SETTINGS.pidns) == 0 {
        return read(task, constant(&OFFSETS.task_tgid));
    }
    in_own_namespace(group(task))
}

/// The `struct pid` of a task's thread group.
#[inline(always)]
fn group(task: *const u8) -> *const u8 {
    let signal: u64 = read(task, constant(&OFFSETS.task_signal));
    let group: u64 = read(signal as *const u8, constant(&OFFSETS.signal_pids) + PIDTYPE_TGID * 8);
    group as *const u8
}

/// The number that a `struct pid` has in gatewatch's namespace; 0 if it has none.
#[inline(always)]
fn in_own_namespace(pid: *const u8) -> u32 {
    let level: u32 = read(pid, constant(&OFFSETS.pid_level));
    number_in(pid as u64, level.into(), constant(&SETTINGS.pidns).into()) as u32
}

/// The number that a `struct pid` has in a namespace: it has one for each level down to its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn number_in(pid: u64, level: u64, namespace: u64) -> u64 {
    let (pid, namespace) = (pid as *const u8, namespace as u32);
    let mut i: u32 = 0;
    while i < MAX_LEVEL {
        // Hides the counter from the compiler, which would otherwise count to `level` with `!=`: a bound that the
        // verifier does not see ("the sequence of 8193 jumps is too complex"). The verifier itself looks through an
        // empty line.
        // SAFETY: the line does nothing.
        unsafe { asm!("/* {0} */", inout(reg) i) };
        if u64::from(i) > level {
            break;
        }
        let upid = constant(&OFFSETS.pid_numbers) + i * UPID_SIZE;
        let ns: u64 = read(pid, upid + 8);
        if read::<u32>(ns as *const u8, constant(&OFFSETS.pidns_inum)) == namespace {
            return read::<u32>(pid, upid).into();
        }
        i += 1;
    }
    0
}
