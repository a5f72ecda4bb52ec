//! `iter/task_file`: every descriptor of every process, and of every thread that has a table of its own.
//!
//! The threads matter: when a leader has ended, `/proc/PID/fd` is empty while another thread holds the socket.

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_sock_from_file};
use watcher_common::{Descriptor, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, TCP_CLOSE, TCP_LISTEN, flag};

use crate::current;
use crate::globals::{OFFSETS, SETTINGS, constant, watched_of, zeroed};
use crate::memory::read;
use crate::sock::Sock;

/// The iterator's context (the kernel's `bpf_iter__task_file`).
#[repr(C)]
pub struct TaskFile {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    file: *const u8,
}

/// The kernel's `bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut u8,
    session_id: u64,
    seq_num: u64,
}

/// End each read after this many descriptors, with an empty record if there is nothing to report.
///
/// The kernel holds each file while it is visited. If a process closes the file in that moment, it is the visitor that
/// releases it, but only on its way back to user space (`fput`); until then a listener among them keeps its port.
/// Besides, a read that visits a million objects and has nothing to report fails (`EAGAIN`).
const DESCRIPTORS_PER_READ: u64 = 64;

/// An empty record. A static, because the compiler would call a function of its own to make one at run time.
#[unsafe(no_mangle)]
static EMPTY: Descriptor = zeroed();

/// Writes a [`Descriptor`] for each descriptor of a socket that holds a watched port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn holders(ctx: *const TaskFile) -> i32 {
    // SAFETY: the verifier knows the context's type; a task or file that does not exist is a null pointer.
    let (task, file, fd) = unsafe { ((*ctx).task, (*ctx).file, (*ctx).fd) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: the verifier knows this context's parts as well.
    if unsafe { (*(*ctx).meta).seq_num } % DESCRIPTORS_PER_READ == DESCRIPTORS_PER_READ - 1 {
        write(ctx, &EMPTY);
    }
    // SAFETY: takes a file and gives the socket behind it, or null (Linux 5.11).
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast::<u8>();
    if socket.is_null() {
        return 0;
    }
    // Read directly rather than through a helper, so that the verifier still knows that this is a sock, for which it
    // allows us to ask for the cookie. To the verifier the offset is a constant, because the globals are frozen.
    // SAFETY: the verifier checks that the offset is of a member.
    let sk = unsafe {
        socket.wrapping_add(constant(&OFFSETS.socket_sk) as usize).cast::<*const u8>().read_volatile()
    };
    let sock = Sock::new(sk);
    let (protocol, port) = (sock.protocol(), sock.port());
    let is_known = matches!(protocol, IPPROTO_TCP | IPPROTO_MPTCP | IPPROTO_UDP);
    if !is_known || !watched_of(protocol, port) {
        return 0;
    }
    let netns = sock.netns();
    let scope = constant(&SETTINGS.scope);
    if (scope != 0 && scope != netns) || sock.is_own_in(task) {
        return 0;
    }
    let state = sock.state();
    let options = sock.options();
    let mut flags = 0;
    if options.v6_only() {
        flags |= flag::V6ONLY;
    }
    if protocol == IPPROTO_UDP {
        flags |= flag::UDP;
    }
    if state != TCP_LISTEN && (state != TCP_CLOSE || sock.remote_port() != 0) {
        // A TCP connection that shares the port on SO_REUSEADDR's terms, as accepted ones do, keeps no other socket from
        // the port. Of a UDP socket the port is its own.
        if options.reuses_address() && protocol != IPPROTO_UDP {
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
    let (pid, tid) = current::pid_and_tid(task);
    let family = sock.family();
    let address = sock.address(family);
    let mut descriptor = Descriptor {
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
        uid: sock.uid(),
    };
    // SAFETY: the field is sixteen bytes long and lies at a multiple of eight.
    unsafe { (&raw mut descriptor.address).cast::<[u64; 2]>().write(address.0) };
    write(ctx, &descriptor);
    0
}

#[inline(always)]
fn write(ctx: *const TaskFile, descriptor: &Descriptor) {
    // SAFETY: the context's seq file, and a record of the length given, which is only read.
    unsafe {
        let seq = (*(*ctx).meta).seq;
        bpf_seq_write(
            seq.cast(),
            core::ptr::from_ref(descriptor).cast_mut().cast(),
            core::mem::size_of::<Descriptor>() as u32,
        );
    }
}
