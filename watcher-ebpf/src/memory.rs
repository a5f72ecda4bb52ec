//! Reading the kernel's memory and the tracepoints' records.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated;
use aya_ebpf::programs::TracePointContext;

/// Reads kernel memory at an address plus an offset; zero where it can't be read.
///
/// The helper itself writes the zeros (Linux 5.5). To ask whether it failed would be two ways through all that follows, and
/// the verifier goes through each.
#[inline(always)]
pub fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let (size, from) = (size_of::<T>() as u32, base.wrapping_add(offset as usize));
    // SAFETY: the helper checks the memory and fails on a bad address; it fills all of the value either way, and each T that
    // is read here is an integer.
    unsafe {
        generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, from.cast());
        value.assume_init()
    }
}

/// Reads a field of a plain tracepoint's record, at the offset that its format file gives; `None` where it can't be
/// read.
#[inline(always)]
pub fn field<T: Copy>(ctx: &TracePointContext, offset: u32) -> Option<T> {
    // SAFETY: the context reads through a helper that checks the memory and fails on a bad address.
    unsafe { ctx.read_at(offset as usize) }.ok()
}
