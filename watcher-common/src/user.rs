//! Decoding: bytes from the kernel become records.

use core::mem::size_of;

use crate::{Badge, Descriptor, Event, EventKind, Offsets, Progress, Settings, TraceOffsets, Visit, Walk};

impl EventKind {
    /// The kind with this number; `None` for a number that no kind has.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }
}

/// A plain record of integers: every bit pattern is a value, and there is no padding.
///
/// # Safety
/// The type is `repr(C)`, has only integer fields and no padding.
pub unsafe trait Record: Copy {
    /// Decodes one record from the front of `bytes`; `None` if there are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // An unaligned read may begin at any address.
        // SAFETY: the length was checked, and any bit pattern is a value of a Record.
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
unsafe impl Record for Descriptor {}
// SAFETY: as above.
unsafe impl Record for Progress {}
// SAFETY: as above.
unsafe impl Record for Offsets {}
// SAFETY: as above.
unsafe impl Record for TraceOffsets {}
// SAFETY: as above.
unsafe impl Record for Settings {}
// SAFETY: as above.
unsafe impl Record for Badge {}

const _: () = assert!(size_of::<Event>() == 8 + 8 + 4 * 4 + 16 + 16 + 4 * 2);
const _: () = assert!(size_of::<Descriptor>() == 3 * 8 + 16 + 4 + 6 * 4 + 6 * 2);
const _: () =
    assert!(size_of::<Progress>() == 8 + 10 * 4 + 17 * 8 + size_of::<Walk>() + size_of::<Visit>() + 8 * 64);
const _: () = assert!(size_of::<Walk>() == 12 * 8 + 4 * 4);
const _: () = assert!(size_of::<Visit>() == 7 * 8);
const _: () = assert!(size_of::<Offsets>() == 65 * 4);
const _: () = assert!(size_of::<TraceOffsets>() == 13 * 4);
const _: () = assert!(size_of::<Settings>() == 6 * 4);
const _: () = assert!(size_of::<Badge>() == 8 + 4 * 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gives_its_kind_or_none() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_number(kind.number()), Some(*kind));
        }
        assert_eq!(EventKind::from_number(0), None);
        assert_eq!(EventKind::from_number(u16::MAX), None);
    }
}
