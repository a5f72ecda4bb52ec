//! The types of a program with callbacks. The kernel takes a function as the callback of `bpf_loop` only if the program
//! comes with type information that says that the function is one, and is of this program alone (`static`).
//!
//! All other functions of such a program take three numbers and give one, and are said to be of use to others (`global`).
//! The verifier goes through such a function once, and not at each call (Linux 5.6).
//!
//! The object's own type information is not used, because it describes everything in it and takes longer to load than the
//! program. The kernel is told the least that it takes: that each function is a function.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use aya_obj::generated::{
    BPF_CALL, BPF_DW, BPF_IMM, BPF_JMP, BPF_LD, BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, bpf_func_info, bpf_insn,
};

use super::sys;

/// The types, as in linux/btf.h.
const TYPES: [u32; 22] = [
    // 1: a number, eight bytes, with all 64 bits.
    NUMBER_NAME,
    1 << 24,
    8,
    64,
    // 2: the type of functions that give a number and take what they like.
    0,
    13 << 24,
    1,
    // 3: the type of those that take three numbers, whose names the kernel wants to see.
    0,
    13 << 24 | 3,
    1,
    FUNCTION_NAME,
    1,
    FUNCTION_NAME,
    1,
    FUNCTION_NAME,
    1,
    // 4: a static function of the first type.
    FUNCTION_NAME,
    12 << 24,
    2,
    // 5: a global function of the second.
    FUNCTION_NAME,
    12 << 24 | 1,
    3,
];
/// The names, of which the first is empty; those of a number and of everything else.
const NAMES: [u8; 8] = *b"\0int\0f\0\0";
const NUMBER_NAME: u32 = 1;
const FUNCTION_NAME: u32 = 5;
/// The numbers of the functions' types.
const STATIC: u32 = 4;
const GLOBAL: u32 = 5;

/// What the kernel is told of a program's functions.
pub(super) struct Types {
    pub(super) btf: OwnedFd,
    pub(super) functions: Vec<bpf_func_info>,
}

impl Types {
    /// Loads the types; `None` if the program has no callbacks, and needs none.
    pub(super) fn of(instructions: &[bpf_insn]) -> io::Result<Option<Self>> {
        if !instructions.iter().any(is_reference) {
            return Ok(None);
        }
        let functions = functions(instructions).into_iter();
        Ok(Some(Self {
            btf: sys::load_btf(&described()?)?,
            functions: functions.map(|(insn_off, type_id)| bpf_func_info { insn_off, type_id }).collect(),
        }))
    }
}

/// BTF: a header, the types, and their names.
fn described() -> io::Result<Vec<u8>> {
    const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
    const HEADER: u32 = 24;
    let types = u32::try_from(size_of_val(&TYPES)).map_err(io::Error::other)?;
    let names = u32::try_from(NAMES.len()).map_err(io::Error::other)?;
    // After the header's length: where the types are and how long, and where the names are and how long.
    let header = [MAGIC_AND_VERSION, HEADER, 0, types, types, names];
    let words = header.iter().chain(&TYPES).flat_map(|word| word.to_ne_bytes());
    Ok(words.chain(NAMES).collect())
}

/// Where the program's functions begin, and which type each has: at its start, and wherever it calls or refers to.
fn functions(instructions: &[bpf_insn]) -> BTreeMap<u32, u32> {
    let targets = (1u32..).zip(instructions).filter_map(|(next, instruction)| {
        let kind = if is_call(instruction) {
            GLOBAL
        } else if is_reference(instruction) {
            STATIC
        } else {
            return None;
        };
        Some((next.checked_add_signed(instruction.imm)?, kind))
    });
    std::iter::once((0, STATIC)).chain(targets).collect()
}

fn is_call(instruction: &bpf_insn) -> bool {
    u32::from(instruction.code) == BPF_JMP | BPF_CALL && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
}

fn is_reference(instruction: &bpf_insn) -> bool {
    u32::from(instruction.code) == BPF_LD | BPF_DW | BPF_IMM
        && u32::from(instruction.src_reg()) == BPF_PSEUDO_FUNC
}
