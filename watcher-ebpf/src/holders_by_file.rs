//! `iter/task_file`: the kernel's own iterator over descriptors, for kernels without `bpf_loop` (before Linux 5.17).

use core::mem::offset_of;

use aya_ebpf::helpers::generated::bpf_seq_write;

use crate::held::{AGAIN, DONE, begun, report, socket_behind};
use crate::memory::read;

/// The iterator's context (the kernel's `bpf_iter__task_file`).
#[repr(C)]
pub struct TaskFile {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    file: *const u8,
}

/// The kernel's `bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut u8,
    session_id: u64,
    seq_num: u64,
}

/// End each read after this many descriptors, with one byte.
///
/// The kernel holds each file while it is visited. If a process closes the file in that moment, it is the visitor that
/// releases it, but only on its way back to user space (`fput`); until then a listener among them keeps its port.
const DESCRIPTORS_PER_READ: u64 = 64;

/// Reports each descriptor of a socket that holds a watched port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn holders_by_file(ctx: *const TaskFile) -> i32 {
    // SAFETY: the verifier knows the context's type; a task that does not exist is a null pointer.
    let (task, fd) = unsafe { ((*ctx).task, (*ctx).fd) };
    // As a number, because the addresses of files are summed up, and the verifier adds no number to a pointer that could be any.
    let file = read::<u64>(ctx.cast(), offset_of!(TaskFile, file) as u32) as *const u8;
    let Some(progress) = begun(|_| ()) else { return DONE };
    if task.is_null() || file.is_null() {
        return DONE;
    }
    if let Some(sock) = socket_behind(file, progress.sockets, progress.any_port)
        && !report(progress, task, file, fd, sock, 0)
    {
        return AGAIN;
    }
    // SAFETY: the verifier knows this context's parts as well; the byte is only read.
    unsafe {
        let meta = (*ctx).meta;
        if (*meta).seq_num % DESCRIPTORS_PER_READ == DESCRIPTORS_PER_READ - 1 {
            let byte = 0u8;
            bpf_seq_write((*meta).seq.cast(), (&raw const byte).cast_mut().cast(), 1);
        }
    }
    DONE
}
