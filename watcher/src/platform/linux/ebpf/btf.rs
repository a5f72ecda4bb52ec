//! The running kernel's BTF: the few facts that the kernel program needs, found in one pass.
//!
//! aya parses all of it into its own types before it loads anything, twenty to thirty milliseconds for the hundred
//! and twenty thousand types of a common kernel, and some programs need it twice. A command that answers in a few
//! milliseconds can't wait for that, so this reads just the names it was asked for: the string table is searched for
//! them, and the types are walked once, comparing numbers.
//!
//! The format is that of the kernel's Documentation/bpf/btf.rst.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use memchr::memmem;

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

/// What a name is looked up as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// BTF, with the places of the named types that were asked for.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, by its id less one (0 is `void`).
    places: Vec<u32>,
    named: HashMap<(Kind, &'static str), u32>,
}

/// Reads the running kernel's BTF. It is copied: 5.5 MB in some 2 ms.
pub(super) fn read_running_kernel() -> io::Result<Vec<u8>> {
    let mut file = File::open("/sys/kernel/btf/vmlinux")?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(size + 1);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl<'a> Btf<'a> {
    /// Finds the named types. A name that is not there is no error until it is asked for.
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

        let mut names = HashMap::with_capacity(wanted.len());
        for &(kind, name) in wanted {
            // Each string stands in the table once.
            if let Some(at) = find_string(strings, name) {
                names.insert((kind, at), name);
            }
        }
        let mut named = HashMap::with_capacity(wanted.len());
        let mut places = Vec::with_capacity(types.len() / 20);
        let mut at = 0;
        while at < types.len() {
            let (name_at, info) = (word(types, at)?, word(types, at + 4)?);
            places.push(u32::try_from(at).map_err(|_| BtfError::Malformed(at))?);
            let kind = match info >> 24 & 0x1f {
                KIND_STRUCT => Some(Kind::Struct),
                KIND_TYPEDEF => Some(Kind::Typedef),
                KIND_FUNC => Some(Kind::Func),
                _ => None,
            };
            if let Some(kind) = kind
                && let Some(name) = names.get(&(kind, name_at))
            {
                let id = u32::try_from(places.len()).map_err(|_| BtfError::Malformed(at))?;
                // The first of that name is the kernel's own; modules' types are not in this file.
                named.entry((kind, *name)).or_insert(id);
            }
            at += 12 + trailer(info);
        }
        Ok(Self { types, strings, places, named })
    }

    /// The id of a named type.
    pub(super) fn id(&self, kind: Kind, name: &'static str) -> Result<u32, BtfError> {
        self.named.get(&(kind, name)).copied().ok_or_else(|| BtfError::Missing(name.to_owned()))
    }

    /// The byte offset of a member in a named struct; also of one in an anonymous struct or union inside of it. A bit
    /// field's offset is that of the byte in which it begins.
    pub(super) fn offset(&self, structure: &'static str, member: &str) -> Result<u32, BtfError> {
        let id = self.id(Kind::Struct, structure)?;
        let bits =
            self.member_bits(id, member)?.ok_or_else(|| BtfError::Missing(format!("{structure}.{member}")))?;
        Ok(bits / 8)
    }

    fn member_bits(&self, id: u32, wanted: &str) -> Result<Option<u32>, BtfError> {
        let Some(at) = id.checked_sub(1).and_then(|index| self.places.get(index as usize)) else { return Ok(None) };
        let at = *at as usize;
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
                if let Some(inner) = self.member_bits(kind, wanted)? {
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

/// The bytes that follow a type's three words.
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

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or(BtfError::Malformed(at))
}

/// Where a whole string begins in the table, which starts with an empty one.
fn find_string(strings: &[u8], name: &str) -> Option<u32> {
    let mut needle = Vec::with_capacity(name.len() + 2);
    needle.push(0);
    needle.extend_from_slice(name.as_bytes());
    needle.push(0);
    memmem::find(strings, &needle).and_then(|at| u32::try_from(at + 1).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; union { int b; struct { int c; } } } and a func of the same name as a string's tail.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0xouter\0int\0";
        let at = |name: &str| find_string(strings, name).unwrap();
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
        for word in [24, 0, type_len, type_len, u32::try_from(strings.len()).unwrap()].into_iter().chain(types) {
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
