//! A task's table of descriptors (the kernel's `struct fdtable`).

use aya_ebpf::helpers::bpf_get_current_task;

use crate::globals::{OFFSETS, constant};
use crate::memory::read;

/// A table. It may be another one a moment later.
#[derive(Clone, Copy)]
pub struct Descriptors {
    /// The array of pointers to files.
    pub files: *const u8,
    /// The bitmap of the descriptors that are open.
    pub bitmap: *const u8,
    /// How many descriptors there is room for.
    pub size: u32,
}

impl Descriptors {
    /// The `struct files_struct` of a task, which threads share; null once it has ended.
    #[inline(always)]
    pub fn owner(task: *const u8) -> *const u8 {
        read::<u64>(task, constant(&OFFSETS.task_files)) as *const u8
    }

    /// Whether others than the threads of a task's process may share its `struct files_struct`: not 0 if so.
    ///
    /// A thread is counted there before it is counted among those of its process that live, and until after (copy_process() and
    /// do_exit()). So if both counts are the same, it is shared by these threads alone, unless one of them has another.
    #[inline(always)]
    pub fn is_shared(owner: *const u8, task: *const u8) -> u64 {
        let signal = read::<u64>(task, constant(&OFFSETS.task_signal)) as *const u8;
        let live = || read::<u32>(signal, constant(&OFFSETS.signal_live));
        let (before, count, after) = (live(), read::<u32>(owner, constant(&OFFSETS.files_count)), live());
        u64::from((before ^ count) | (after ^ count))
    }

    /// The table of a `struct files_struct`.
    #[inline(always)]
    pub fn of(owner: *const u8) -> Self {
        let table = read::<u64>(owner, constant(&OFFSETS.files_fdt)) as *const u8;
        Self {
            files: read::<u64>(table, constant(&OFFSETS.fdtable_fd)) as *const u8,
            bitmap: read::<u64>(table, constant(&OFFSETS.fdtable_open_fds)) as *const u8,
            size: read(table, constant(&OFFSETS.fdtable_max_fds)),
        }
    }

    /// The file of a descriptor of the current process.
    #[inline(always)]
    pub fn own_file(fd: u32) -> *const u8 {
        // SAFETY: the helper takes nothing and always returns the current task.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        Self::of(Self::owner(task)).file(fd)
    }

    /// The file of a descriptor; null if it is not open.
    #[inline(always)]
    pub fn file(self, fd: u32) -> *const u8 {
        if fd >= self.size {
            return core::ptr::null();
        }
        read::<u64>(self.files, fd * 8) as *const u8
    }
}
