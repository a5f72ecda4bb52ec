//! Reading the kernel's memory and the tracepoints' records.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::programs::TracePointContext;

/// Reads kernel memory at an address plus an offset; zero where it can't be read.
#[inline(always)]
pub fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    // SAFETY: the helper checks the memory and fails on a bad address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.unwrap_or_default()
}

/// Reads a field of a plain tracepoint's record, at the offset that its format file gives; `None` where it can't be
/// read.
#[inline(always)]
pub fn field<T: Copy>(ctx: &TracePointContext, offset: u32) -> Option<T> {
    // SAFETY: the context reads through a helper that checks the memory and fails on a bad address.
    unsafe { ctx.read_at(offset as usize) }.ok()
}
