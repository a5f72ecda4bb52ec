//! The running kernel's BTF: finds the few types that the kernel program needs, in one pass.
//!
//! aya parses all of it into its own types before it loads anything: twenty to thirty milliseconds for the hundred and
//! twenty thousand types of a common kernel, and twice for some programs. A command that answers in a few milliseconds
//! can't wait for that, so this module walks the types once and looks only for the few names that it is given.
//!
//! The format is that of the kernel's Documentation/bpf/btf.rst.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// The kinds of type that can be looked up by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Struct,
    Typedef,
    Func,
}

/// Why the BTF could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BtfError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is malformed at byte {0}")]
    Malformed(usize),
    #[error("it has no {0}")]
    Missing(String),
}

/// BTF, with the positions of the wanted types.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where every [`STRIDE`]th type begins. All positions would need much memory; a walk between two takes little time.
    milestones: Vec<usize>,
    /// The id of each wanted type that was found, and where it begins.
    named: Vec<(Kind, &'static str, u32, usize)>,
}

/// How many types lie between two milestones.
const STRIDE: usize = 64;

/// The running kernel's BTF file: mapped where the kernel can (since Linux 6.16), otherwise copied a page at a time.
pub(super) enum KernelBtf {
    Mapped(NonNull<c_void>, usize),
    Copied(Vec<u8>),
}

impl KernelBtf {
    pub(super) fn open() -> io::Result<Self> {
        let mut file = File::open("/sys/kernel/btf/vmlinux")?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        let length = NonZeroUsize::new(size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping where the kernel chooses; the file is the kernel's own memory and never changes.
        match unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, &file, 0) } {
            Ok(at) => Ok(Self::Mapped(at, size)),
            Err(_) => {
                let mut bytes = Vec::with_capacity(size + 1);
                file.read_to_end(&mut bytes)?;
                Ok(Self::Copied(bytes))
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: the mapping has this length, is readable, and stays until self is dropped.
            Self::Mapped(at, length) => unsafe { std::slice::from_raw_parts(at.as_ptr().cast(), *length) },
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Drop for KernelBtf {
    fn drop(&mut self) {
        if let Self::Mapped(at, length) = self {
            // SAFETY: the mapping is ours, and no slice of it outlives self.
            let _ = unsafe { munmap(*at, *length) };
        }
    }
}

impl<'a> Btf<'a> {
    /// Finds the wanted types. A missing type is an error only when it is looked up.
    pub(super) fn parse(bytes: &'a [u8], wanted: &[(Kind, &'static str)]) -> Result<Self, BtfError> {
        let header = |at: usize| word(bytes, at).map(|word| word as usize);
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed(0));
        }
        let (length, type_at, type_len) = (header(4)?, header(8)?, header(12)?);
        let (string_at, string_len) = (header(16)?, header(20)?);
        let part = |at: usize, len: usize| {
            let from = length.checked_add(at).ok_or(BtfError::Malformed(at))?;
            let to = from.checked_add(len).ok_or(BtfError::Malformed(at))?;
            bytes.get(from..to).ok_or(BtfError::Malformed(from))
        };
        let types = part(type_at, type_len)?;
        let strings = part(string_at, string_len)?;

        let mut btf = Self {
            types,
            strings,
            milestones: Vec::with_capacity(types.len() / (16 * STRIDE)),
            named: Vec::with_capacity(wanted.len()),
        };
        btf.walk(wanted)?;
        Ok(btf)
    }

    /// Records the milestones and finds the wanted names. At each start of the program this visits a hundred thousand
    /// types, so each costs only a few comparisons of numbers: a name's first four bytes decide nearly all.
    fn walk(&mut self, wanted: &[(Kind, &'static str)]) -> Result<(), BtfError> {
        let beginnings = |kind: Kind| -> Vec<(u32, &'static str)> {
            let of_kind = wanted.iter().filter(|(of, _)| *of == kind);
            of_kind.map(|(_, name)| (beginning(name.as_bytes()).unwrap_or(0), *name)).collect()
        };
        let by_kind = [Kind::Struct, Kind::Typedef, Kind::Func].map(|kind| (kind, beginnings(kind)));
        let (mut at, mut id) = (0, 1u32);
        while let Some(header) = self.types.get(at..at + 12) {
            if (id as usize - 1).is_multiple_of(STRIDE) {
                self.milestones.push(at);
            }
            let info = beginning(&header[4..]).unwrap_or(0);
            let slot = match info >> 24 & 0x1f {
                KIND_STRUCT => Some(0),
                KIND_TYPEDEF => Some(1),
                KIND_FUNC => Some(2),
                _ => None,
            };
            if let Some(slot) = slot {
                let name_at = beginning(header).unwrap_or(0);
                let begins = self.strings.get(name_at as usize..).and_then(beginning);
                let (kind, names) = &by_kind[slot];
                for (_, name) in names.iter().filter(|(start, _)| begins == Some(*start)) {
                    // Of several types with one name, the first is the kernel's own.
                    if self.string_is(name_at, name) && self.find(*kind, name).is_none() {
                        self.named.push((*kind, name, id, at));
                    }
                }
            }
            at += 12 + trailer(info);
            id += 1;
        }
        if at == self.types.len() { Ok(()) } else { Err(BtfError::Malformed(at)) }
    }

    fn find(&self, kind: Kind, name: &str) -> Option<(u32, usize)> {
        self.named.iter().find(|found| found.0 == kind && found.1 == name).map(|found| (found.2, found.3))
    }

    /// The id of a named type.
    pub(super) fn id(&self, kind: Kind, name: &'static str) -> Result<u32, BtfError> {
        self.find(kind, name).map(|(id, _)| id).ok_or_else(|| BtfError::Missing(name.to_owned()))
    }

    /// The byte offset of a member in a named struct, or in an anonymous struct or union inside it. A bit field's offset
    /// is that of the byte in which it begins.
    pub(super) fn offset(&self, structure: &'static str, member: &str) -> Result<u32, BtfError> {
        let at = self.structure(structure)?;
        let bits = self.member_bits(at, member)?;
        let bits = bits.ok_or_else(|| BtfError::Missing(format!("{structure}.{member}")))?;
        Ok(bits / 8)
    }

    /// How many bytes a named struct has.
    pub(super) fn size(&self, structure: &'static str) -> Result<u32, BtfError> {
        word(self.types, self.structure(structure)? + 8)
    }

    fn structure(&self, name: &'static str) -> Result<usize, BtfError> {
        let found = self.find(Kind::Struct, name).map(|(_, at)| at);
        found.ok_or_else(|| BtfError::Missing(name.to_owned()))
    }

    /// Where a type begins; `None` for `void` and for ids out of range.
    fn place(&self, id: u32) -> Result<Option<usize>, BtfError> {
        let Some(index) = id.checked_sub(1).map(|index| index as usize) else { return Ok(None) };
        let Some(&milestone) = self.milestones.get(index / STRIDE) else { return Ok(None) };
        let mut at = milestone;
        for _ in 0..index % STRIDE {
            at += 12 + trailer(word(self.types, at + 4)?);
        }
        Ok(Some(at))
    }

    fn member_bits(&self, at: usize, wanted: &str) -> Result<Option<u32>, BtfError> {
        let info = word(self.types, at + 4)?;
        if !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        let bit_fields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let member = at + 12 + index * 12;
            let (name_at, kind, offset) =
                (word(self.types, member)?, word(self.types, member + 4)?, word(self.types, member + 8)?);
            let offset = if bit_fields { offset & 0x00ff_ffff } else { offset };
            if name_at == 0 {
                let inner =
                    self.place(kind)?.map(|place| self.member_bits(place, wanted)).transpose()?.flatten();
                if let Some(inner) = inner {
                    return Ok(Some(offset + inner));
                }
            } else if self.string_is(name_at, wanted) {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    fn string_is(&self, at: u32, wanted: &str) -> bool {
        let at = at as usize;
        let end = at + wanted.len();
        self.strings.get(at..end) == Some(wanted.as_bytes()) && self.strings.get(end) == Some(&0)
    }
}

/// The number of bytes that follow a type's first three words.
fn trailer(info: u32) -> usize {
    let count = (info & 0xffff) as usize;
    match info >> 24 & 0x1f {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
        KIND_ENUM | KIND_FUNC_PROTO => count * 8,
        _ => 0,
    }
}

/// The first four bytes, as a number; a shorter name includes the NUL after it.
fn beginning(bytes: &[u8]) -> Option<u32> {
    match bytes.first_chunk() {
        Some(first) => Some(u32::from_ne_bytes(*first)),
        None if bytes.len() == 3 => Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], 0])),
        None => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or(BtfError::Malformed(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; union { int b; struct { int c; } } }, and a func whose name ends in the struct's name.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0xouter\0int\0";
        let text = String::from_utf8_lossy(strings);
        let at = |name: &str| u32::try_from(text.find(&format!("\0{name}\0")).unwrap() + 1).unwrap();
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("int"), KIND_INT << 24, 4, 32]);
        types.extend([0, KIND_STRUCT << 24 | 1, 4, at("c"), 1, 0]);
        types.extend([0, KIND_UNION << 24 | 2, 8, at("b"), 1, 0, 0, 2, 32]);
        types.extend([at("outer"), KIND_STRUCT << 24 | 2, 16, at("a"), 1, 0, 0, 3, 32]);
        types.extend([at("xouter"), KIND_FUNC << 24, 1]);
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let type_len = u32::try_from(types.len() * 4).unwrap();
        for word in
            [24, 0, type_len, type_len, u32::try_from(strings.len()).unwrap()].into_iter().chain(types)
        {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_structs_and_unions() {
        let bytes = sample();
        let btf = Btf::parse(&bytes, &[(Kind::Struct, "outer"), (Kind::Func, "xouter")]).unwrap();
        assert_eq!(btf.offset("outer", "a").unwrap(), 0);
        assert_eq!(btf.offset("outer", "b").unwrap(), 4);
        assert_eq!(btf.offset("outer", "c").unwrap(), 8);
        assert_eq!(btf.id(Kind::Func, "xouter").unwrap(), 5);
    }

    #[test]
    fn what_is_not_there_is_missing_and_not_zero() {
        let bytes = sample();
        let btf = Btf::parse(&bytes, &[(Kind::Struct, "outer"), (Kind::Func, "outer")]).unwrap();
        assert!(matches!(btf.offset("outer", "d"), Err(BtfError::Missing(_))));
        assert!(matches!(btf.id(Kind::Func, "outer"), Err(BtfError::Missing(_))));
    }

    #[test]
    fn a_truncated_file_is_malformed() {
        let bytes = sample();
        for length in [0, 1, 10, 24, 40, 60] {
            assert!(Btf::parse(&bytes[..length], &[]).is_err(), "{length} bytes");
        }
    }
}
