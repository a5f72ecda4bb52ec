//! Decoding: bytes from the kernel become records.

use core::mem::size_of;

use crate::{Event, Holder, Offsets, Scope, TraceOffsets};

/// A plain record of integers: every bit pattern is a value, and there is no padding.
///
/// # Safety
/// The type is `repr(C)`, has only integer fields and no padding.
pub unsafe trait Record: Copy {
    /// Decodes one record from the front of `bytes`; `None` when there are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // SAFETY: the length was checked, any bit pattern is a value of a Record, and an unaligned read makes no
        // demand on where the bytes lie.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The record's bytes, as the kernel program reads them.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a Record has no padding, so each of its bytes is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

// SAFETY: repr(C), integers only; the sizes asserted below leave no room for padding.
unsafe impl Record for Event {}
// SAFETY: as above.
unsafe impl Record for Holder {}
// SAFETY: as above.
unsafe impl Record for Offsets {}
// SAFETY: as above.
unsafe impl Record for TraceOffsets {}
// SAFETY: as above.
unsafe impl Record for Scope {}

const _: () = assert!(size_of::<Event>() == 8 + 8 + 4 * 4 + 16 + 16 + 4 + 2 * 6);
const _: () = assert!(size_of::<Holder>() == 8 + 8 + 4 * 4 + 16 + 4 + 2 * 4 + 2 * 2);
const _: () = assert!(size_of::<Offsets>() == 32 * 4);
const _: () = assert!(size_of::<TraceOffsets>() == 13 * 4);
const _: () = assert!(size_of::<Scope>() == 3 * 4);
