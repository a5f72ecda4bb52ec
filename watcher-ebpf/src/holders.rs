//! `iter/task_file`: every descriptor of every process, and of every thread that has a table of its own. The last
//! matters: when a leader has ended, `/proc/PID/fd` is empty while another thread holds the socket.

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_sock_from_file};
use watcher_common::{Holder, IPPROTO_MPTCP, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN, flag};

use crate::current;
use crate::globals::{OFFSETS, SCOPE, constant, watched, zeroed};
use crate::sock::{Sock, read};

/// The iterator's context (the kernel's `bpf_iter__task_file`).
#[repr(C)]
pub struct TaskFile {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    file: *const u8,
}

#[repr(C)]
struct Meta {
    seq: *mut u8,
    session_id: u64,
    seq_num: u64,
}

/// After so many descriptors a read ends, if need be with an empty record.
///
/// The kernel holds each file while it is visited. A file that is closed in that moment is let go by the visitor, but
/// only on its way back to user space (`fput`); until then a listener among them keeps its port. Besides, a read that
/// visits a million objects and has nothing to show fails (`EAGAIN`).
const PAUSE: u64 = 64;

/// An empty record, not made at run time: for that the compiler would call a function of its own.
#[unsafe(no_mangle)]
static NOTHING: Holder = zeroed();

/// Writes a [`Holder`] for each descriptor of a socket that holds a watched port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn holders(ctx: *const TaskFile) -> i32 {
    // SAFETY: the verifier knows the context's type; a task or file that is not there is a null pointer.
    let (task, file, fd) = unsafe { ((*ctx).task, (*ctx).file, (*ctx).fd) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: the verifier knows this context's parts as well.
    if unsafe { (*(*ctx).meta).seq_num } % PAUSE == PAUSE - 1 {
        write(ctx, &NOTHING);
    }
    // SAFETY: takes a file and gives the socket behind it, or null (Linux 5.11).
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast::<u8>();
    if socket.is_null() {
        return 0;
    }
    // A direct read rather than a helper's, so that the verifier goes on knowing that this is a sock, for which
    // it lets us ask for the cookie. The offset is a constant to it, since the globals are frozen.
    // SAFETY: the verifier checks that the offset is of a member.
    let sk = unsafe {
        socket.wrapping_add(constant(&OFFSETS.socket_sk) as usize).cast::<*const u8>().read_volatile()
    };
    let sock = Sock::new(sk);
    let port = sock.port();
    if !watched(port) {
        return 0;
    }
    let protocol = sock.protocol();
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return 0;
    }
    let netns = sock.netns();
    if (constant(&SCOPE.netns) != 0 && constant(&SCOPE.netns) != netns) || sock.is_own() {
        return 0;
    }
    let state = sock.state();
    let mut flags = sock.flags();
    if state != TCP_LISTEN && (state != TCP_CLOSE || sock.remote_port() != 0) {
        // A connection that shares the port on SO_REUSEADDR's terms, as accepted ones do, keeps nobody from it.
        if flags & flag::REUSEADDR != 0 {
            return 0;
        }
        flags |= flag::CONNECTED;
    }
    let cookie = if protocol == IPPROTO_MPTCP {
        flags |= flag::MPTCP;
        sock.first_subflow().stored_cookie()
    } else {
        // SAFETY: a sock that the verifier knows as one.
        unsafe { bpf_get_socket_cookie(sock.as_ptr()) }
    };
    let inode: u64 = read(file, constant(&OFFSETS.file_inode));
    let (pid, tid) = current::of_task(task);
    let family = sock.family();
    let [low, high] = sock.address(family).words();
    let mut holder = Holder {
        cookie,
        inode: read(inode as *const u8, constant(&OFFSETS.inode_ino)),
        pid,
        tid,
        fd,
        netns,
        address: [0; 16],
        interface: sock.interface(),
        state,
        flags,
        family,
        port,
        reserved: [0; 2],
    };
    // SAFETY: the field is sixteen bytes long and lies at a multiple of eight.
    unsafe { (&raw mut holder.address).cast::<[u64; 2]>().write([low, high]) };
    write(ctx, &holder);
    0
}

#[inline(always)]
fn write(ctx: *const TaskFile, holder: &Holder) {
    // SAFETY: the context's seq file, and a record of the length given, which is only read.
    unsafe {
        let seq = (*(*ctx).meta).seq;
        bpf_seq_write(
            seq.cast(),
            core::ptr::from_ref(holder).cast_mut().cast(),
            core::mem::size_of::<Holder>() as u32,
        );
    }
}
