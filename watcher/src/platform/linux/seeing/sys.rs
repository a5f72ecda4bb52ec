//! The bpf(2) calls that aya does not export: load a program, attach it, read an iterator.
//!
//! Every descriptor is owned: dropping it detaches and unloads.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_insn, bpf_link_info, bpf_prog_info, bpf_prog_type,
    perf_event_attr,
};
use nix::libc;

use super::callbacks::Types;
use crate::platform::linux::fd::own;

/// A program to load.
pub(super) struct Program<'a> {
    /// The kernel shows at most 15 bytes of it.
    pub(super) name: &'a str,
    pub(super) kind: bpf_prog_type,
    pub(super) attach: Option<bpf_attach_type>,
    /// The BTF id that a tracing program attaches to.
    pub(super) target: u32,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    /// Needed if it has callbacks.
    pub(super) types: Option<&'a Types>,
}

/// Why the kernel refused a program: the error, and the verifier's log.
pub(super) struct Refusal {
    pub(super) error: io::Error,
    pub(super) log: String,
}

/// `BPF_PROG_LOAD`. The verifier's log is requested only after a refusal, because writing a log takes time.
pub(super) fn load(program: &Program<'_>) -> Result<OwnedFd, Refusal> {
    match load_patiently(program) {
        Ok(fd) => Ok(fd),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Refusal { error, log: String::new() }),
        Err(error) => {
            let mut log = vec![0; 1 << 20];
            // The second attempt fails as the first did, with the same error.
            let _ = load_once(program, &mut log);
            let length = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            Err(Refusal { error, log: String::from_utf8_lossy(&log[..length]).into_owned() })
        }
    }
}

/// A signal interrupts the verifier, which then answers `EAGAIN`; libbpf tries five times as well.
fn load_patiently(program: &Program<'_>) -> io::Result<OwnedFd> {
    let mut attempts = 5;
    loop {
        attempts -= 1;
        match load_once(program, &mut []) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempts > 0 => {}
            other => return other,
        }
    }
}

fn load_once(program: &Program<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_PROG_LOAD reads; each byte of it is zero or set here.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    let length = program.name.len().min(load.prog_name.len() - 1);
    for (to, from) in load.prog_name.iter_mut().zip(&program.name.as_bytes()[..length]) {
        // Signed on x86-64, unsigned on arm64.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    load.prog_type = program.kind as u32;
    load.expected_attach_type = program.attach.map_or(0, |attach| attach as u32);
    load.attach_btf_id = program.target;
    load.license = program.license.as_ptr().addr() as u64;
    load.insns = program.instructions.as_ptr().addr() as u64;
    load.insn_cnt = u32::try_from(program.instructions.len()).map_err(io::Error::other)?;
    if let Some(Types { btf, functions }) = program.types {
        load.prog_btf_fd = number(btf.as_fd());
        load.func_info_rec_size = u32::try_from(size_of::<bpf_func_info>()).map_err(io::Error::other)?;
        load.func_info = functions.as_ptr().addr() as u64;
        load.func_info_cnt = u32::try_from(functions.len()).map_err(io::Error::other)?;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr().addr() as u64;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    }
    call_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// `BPF_BTF_LOAD`: types for programs to refer to.
pub(super) fn load_btf(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_BTF_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = types.as_ptr().addr() as u64;
    load.btf_size = u32::try_from(types.len()).map_err(io::Error::other)?;
    call_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// `BPF_RAW_TRACEPOINT_OPEN`: attaches to a BTF tracepoint, which was named when the program was loaded.
pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed::<bpf_attr>();
    attr.raw_tracepoint.prog_fd = number(program);
    call_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// `BPF_LINK_CREATE`: to a cgroup, or (with no target) for an iterator.
pub(super) fn link(
    program: BorrowedFd<'_>,
    target: Option<BorrowedFd<'_>>,
    attach: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed::<bpf_attr>();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program);
    attr.link_create.__bindgen_anon_2.target_fd = target.map_or(0, number);
    attr.link_create.attach_type = attach as u32;
    call_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// `BPF_LINK_CREATE`, for an iterator over tasks that is to visit one process alone: Linux 6.1.
pub(super) fn link_to_process(program: BorrowedFd<'_>, pid: u32) -> io::Result<OwnedFd> {
    /// The member `task` of `union bpf_iter_link_info`, linux/bpf.h; 0 is not given.
    #[repr(C)]
    struct Task {
        tid: u32,
        pid: u32,
        pid_fd: u32,
    }
    let task = Task { tid: 0, pid, pid_fd: 0 };
    let mut attr = zeroed::<bpf_attr>();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program);
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    let length = u32::try_from(size_of::<Task>()).map_err(io::Error::other)?;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = (&raw const task).addr() as u64;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = length;
    call_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// `BPF_LINK_CREATE`, for an iterator.
pub(super) fn link_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link(program, None, bpf_attach_type::BPF_TRACE_ITER)
}

/// `BPF_ITER_CREATE`: one run of an iterator, read like a file.
pub(super) fn iterate(link: BorrowedFd<'_>) -> io::Result<File> {
    let mut attr = zeroed::<bpf_attr>();
    attr.iter_create.link_fd = number(link);
    call_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr).map(File::from)
}

/// `BPF_OBJ_PIN`: gives a map or a link a name in a BPF file system, which keeps it.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_OBJ_PIN reads.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr().addr() as u64;
    pin.bpf_fd = number(object);
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// `BPF_OBJ_GET`: what has this name in a BPF file system.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_OBJ_GET reads.
    unsafe { &mut attr.__bindgen_anon_4 }.pathname = path.as_ptr().addr() as u64;
    call_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// `BPF_PROG_TEST_RUN`: runs a program of a raw tracepoint once, here and now, and returns what it answers. Linux 5.10.
pub(super) fn run<T: Copy>(program: BorrowedFd<'_>, context: &T) -> io::Result<u32> {
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_PROG_TEST_RUN reads.
    let test = unsafe { &mut attr.test };
    test.prog_fd = number(program);
    test.ctx_in = core::ptr::from_ref(context).addr() as u64;
    test.ctx_size_in = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel has filled it in; any bytes are a number.
    Ok(unsafe { attr.test.retval })
}

/// Sets the only value of a one-element array; the compiler's data sections are such arrays.
pub(super) fn set_data(map: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut only_element(map, data.as_ptr())).map(drop)
}

/// Reads the only value of a one-element array into `data`, which has the value's length.
pub(super) fn get_data(map: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<()> {
    call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut only_element(map, data.as_mut_ptr())).map(drop)
}

/// What a call about the only value of a one-element array is given: where the value is, or is to be put.
fn only_element(map: BorrowedFd<'_>, value: *const u8) -> bpf_attr {
    static KEY: u32 = 0;
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_MAP_UPDATE_ELEM and BPF_MAP_LOOKUP_ELEM read.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = number(map);
    element.key = (&raw const KEY).addr() as u64;
    element.__bindgen_anon_1.value = value.addr() as u64;
    attr
}

/// `BPF_MAP_FREEZE`: from now on the verifier treats the values as constants.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed::<bpf_attr>();
    // SAFETY: this is the member of the union that BPF_MAP_FREEZE reads.
    unsafe { &mut attr.__bindgen_anon_2 }.map_fd = number(map);
    call(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// The id of a loaded program, by which aya-log finds its map.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.id)
}

/// How many instructions the verifier looked at, each as often as it did; 0 before Linux 5.16.
pub(super) fn verified_instructions(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.verified_insns)
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    let mut info = zeroed::<bpf_prog_info>();
    let mut attr = zeroed::<bpf_attr>();
    attr.info.bpf_fd = number(program);
    attr.info.info = (&raw mut info).addr() as u64;
    attr.info.info_len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Whether a link to a cgroup is still attached: any administrator can detach it (`bpftool link detach`), after which it
/// has no cgroup. Links to tracepoints and for iterators can't be detached.
pub(super) fn is_attached_to_cgroup(link: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = zeroed::<bpf_link_info>();
    let mut attr = zeroed::<bpf_attr>();
    attr.info.bpf_fd = number(link);
    attr.info.info = (&raw mut info).addr() as u64;
    attr.info.info_len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: this is the member of the union that the kernel fills in for such a link; any bytes are numbers.
    Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id } != 0)
}

/// Attaches a program to a plain tracepoint, for every process and CPU. `id` is its number in tracefs.
pub(super) fn attach_tracepoint(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    /// `_IOW('$', 8, __u32)` and `_IO('$', 0)`, linux/perf_event.h.
    const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
    const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;

    let mut attr = perf_event_attr { type_: PERF_TYPE_TRACEPOINT, config: id, ..zeroed() };
    attr.size = u32::try_from(size_of_val(&attr)).map_err(io::Error::other)?;
    let (any_process, first_cpu, no_group) = (-1, 0, -1);
    // The program runs on every CPU, because a tracepoint's programs belong to the event itself, not to the descriptor's
    // CPU.
    // SAFETY: perf_event_open(2) reads the attributes and returns a new descriptor.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            any_process,
            first_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = own(fd)?;
    // SAFETY: this command takes the program's descriptor by value.
    let set = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    nix::errno::Errno::result(set)?;
    // SAFETY: this command takes no argument.
    let enabled = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
    nix::errno::Errno::result(enabled)?;
    Ok(event)
}

/// Mounts tracefs so that no other process sees it: fsopen(2), fsconfig(2), fsmount(2), Linux 5.2.
pub(super) fn mount_tracefs() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: fsopen reads the name and returns a new descriptor.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, nothing, nothing, 0)
    };
    nix::errno::Errno::result(made)?;
    // SAFETY: fsmount takes only numbers and returns a new descriptor.
    own(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// One of the kernel's records, all zero.
fn zeroed<T: Copy>() -> T {
    // The kernel requires fields that it does not know to be zero.
    // SAFETY: used only for the kernel's plain records, for which all zero is a valid value.
    unsafe { std::mem::zeroed() }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor is never negative.
    fd.as_raw_fd().cast_unsigned()
}

fn call_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    call(command, attr).and_then(own)
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    let length = size_of::<bpf_attr>();
    // SAFETY: the attributes have this length, and their pointers were set above, to memory that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
