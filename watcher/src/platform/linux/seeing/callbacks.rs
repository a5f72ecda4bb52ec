//! The types of a program with callbacks. The kernel takes a function as the callback of `bpf_loop` only if the program
//! comes with type information that says that the function is one, and is of this program alone (`static`).
//!
//! The object's own type information is not used, because it describes everything in it and takes longer to load than the
//! program. The kernel is told the least that it takes: that each function is a function.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use aya_obj::generated::{
    BPF_CALL, BPF_DW, BPF_IMM, BPF_JMP, BPF_LD, BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, bpf_func_info, bpf_insn,
};

use super::sys;

/// BTF as in linux/btf.h: a header, three types, and their names.
const TYPES: [u32; 16] = [
    // The magic number, the version and no flags; the header's length; then where the types are and how long, where the
    // names are and how long.
    0x0001_eb9f,
    24,
    0,
    40,
    40,
    8,
    // 1: `int`, four bytes, with all 32 bits, signed.
    1,
    1 << 24,
    4,
    1 << 24 | 32,
    // 2: the type of functions that give an `int` and take what they like.
    0,
    13 << 24,
    1,
    // 3: a static function of this type.
    5,
    12 << 24,
    2,
];
/// The names, of which the first is empty.
const NAMES: [u8; 8] = *b"\0int\0f\0\0";
/// The number of the function's type.
const FUNCTION: u32 = 3;

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
        let mut bytes: Vec<u8> = TYPES.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(NAMES);
        let functions = starts(instructions).into_iter();
        Ok(Some(Self {
            btf: sys::load_btf(&bytes)?,
            functions: functions.map(|insn_off| bpf_func_info { insn_off, type_id: FUNCTION }).collect(),
        }))
    }
}

/// Where the program's functions begin: at its start, and wherever it calls or refers to.
fn starts(instructions: &[bpf_insn]) -> BTreeSet<u32> {
    let targets = (1u32..).zip(instructions).filter_map(|(next, instruction)| {
        (is_call(instruction) || is_reference(instruction))
            .then(|| next.checked_add_signed(instruction.imm))
            .flatten()
    });
    std::iter::once(0).chain(targets).collect()
}

fn is_call(instruction: &bpf_insn) -> bool {
    u32::from(instruction.code) == BPF_JMP | BPF_CALL && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
}

fn is_reference(instruction: &bpf_insn) -> bool {
    u32::from(instruction.code) == BPF_LD | BPF_DW | BPF_IMM
        && u32::from(instruction.src_reg()) == BPF_PSEUDO_FUNC
}
