//! What a process can do to those that look at it, without any privilege.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::Socket;

use crate::Part;
use crate::sockets::{address_of, open};

/// Hostile deeds.
#[derive(clap::Args)]
pub(crate) struct Hostile {
    /// Make the own command line so many MiB long
    #[arg(long, default_value_t = 0)]
    long_command_line: usize,
    /// Have this command line, with | between the arguments
    #[arg(long)]
    command_line: Option<String>,
    /// Once ready, bind the address and close it again without end
    #[arg(long)]
    flood: bool,
    /// Once ready, try so many times to bind the address, which is in use, and say when that is done
    #[arg(long, default_value_t = 0)]
    conflicts: u32,
    /// Take a write lease on this file, and never give it back
    #[arg(long)]
    lease: Option<PathBuf>,
    /// Send the first listener to the server at this Unix socket, and close it here
    #[arg(long)]
    hand_to: Option<PathBuf>,
    /// Leave the first listener to an io_uring, and close it here
    #[arg(long)]
    in_ring: bool,
    /// Receive a message at this Unix socket, and keep what comes with it: a daemon that takes messages
    #[arg(long)]
    take_at: Option<PathBuf>,
    /// Open the address so many times more, which takes `--reuse-port`
    #[arg(long, default_value_t = 0)]
    crowd: usize,
    /// Set this firewall mark on the sockets
    #[arg(long)]
    pub(super) mark: Option<u32>,
}

impl Hostile {
    /// What comes before the sockets.
    pub(super) fn prepare(&self) {
        if self.long_command_line > 0 {
            let mut text = vec![b'x'; self.long_command_line << 20];
            text[..2].copy_from_slice(b"a\0");
            set_command_line(text);
        }
        if let Some(text) = &self.command_line {
            set_command_line(text.replace('|', "\0").into_bytes());
        }
        if let Some(path) = &self.lease {
            // Who wants the file is told by this signal.
            // SAFETY: no handler is set.
            unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.unwrap();
            let file = File::options().write(true).open(path).unwrap();
            // SAFETY: fcntl(2) with numbers.
            let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
            nix::errno::Errno::result(taken).unwrap();
            std::mem::forget(file);
        }
    }

    /// Opens the address as often as was asked for, with as many descriptors as this user may have.
    pub(super) fn gather(&self, part: &Part, sockets: &mut Vec<Socket>) {
        if self.crowd > 0 {
            super::allow_descriptors();
            sockets.extend(
                (0..self.crowd).map(|_| open(part, address_of(&sockets[0])).unwrap()).collect::<Vec<_>>(),
            );
        }
    }

    /// Gives the listener to somebody else.
    pub(super) fn hand_away(&self, sockets: &mut Vec<Socket>) {
        if self.in_ring {
            leave_to_a_ring(&sockets.remove(0));
        }
        if let Some(path) = &self.hand_to {
            let listener = sockets.remove(0);
            send_over(&UnixStream::connect(path).unwrap(), &listener);
        }
    }

    /// Whether there is something to do once ready.
    pub(super) fn acts(&self) -> bool {
        self.flood || self.conflicts > 0 || self.take_at.is_some()
    }

    pub(super) fn act(&self, part: &Part, sockets: &mut Vec<Socket>) {
        for _ in 0..self.conflicts {
            assert!(open(part, part.addresses[0]).is_err());
        }
        if self.conflicts > 0 {
            println!("done");
        }
        if let Some(path) = &self.take_at {
            take_at(path);
        }
        if self.flood {
            sockets.clear();
            loop {
                drop(open(part, part.addresses[0]));
            }
        }
    }
}

/// Sends a socket as a message (unix(7), `SCM_RIGHTS`).
fn send_over(to: &UnixStream, socket: &Socket) {
    let fds = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
}

/// Registers a socket as a file of an io_uring of our own (io_uring_register(2)), which holds it without a descriptor.
fn leave_to_a_ring(socket: &Socket) {
    const REGISTER_FILES: libc::c_uint = 2;
    // The kernel's `struct io_uring_params`: zeros ask for nothing in particular.
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes the structure, which is as large as it expects.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let ring = nix::errno::Errno::result(ring).unwrap();
    let files = [socket.as_raw_fd()];
    // SAFETY: the kernel reads one number. The ring's descriptor stays open, because nobody closes it.
    let registered =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_FILES, files.as_ptr(), 1) };
    nix::errno::Errno::result(registered).unwrap();
}

/// Receives messages, and keeps what comes with them.
fn take_at(path: &Path) {
    let server = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    println!("takes");
    let (from, _) = server.accept().unwrap();
    let mut byte = [0; 1];
    let mut space = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    // The descriptor stays open, because nobody closes it.
    assert!(message.cmsgs().unwrap().any(|part| matches!(part, ControlMessageOwned::ScmRights(_))));
    println!("taken");
}

/// The kernel's `struct prctl_mm_map` (linux/prctl.h).
#[repr(C)]
struct MemoryMap {
    addresses: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Tells the kernel that the arguments lie in other memory (prctl(2), `PR_SET_MM_MAP`), which takes no capability.
fn set_command_line(mut text: Vec<u8>) {
    const PR_SET_MM_MAP: libc::c_int = 14;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<u64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // The numbers of proc(5), of which the first after the name is 3.
    let field = |number: usize| fields[number - 3];
    text.push(0);
    let length = text.len();
    let text = text.leak();
    let start = text.as_ptr().expose_provenance() as u64;
    // SAFETY: sbrk(2) with zero changes nothing.
    let brk = unsafe { libc::sbrk(0) }.expose_provenance() as u64;
    let map = MemoryMap {
        addresses: [
            field(26),
            field(27),
            field(45),
            field(46),
            field(47),
            brk,
            field(28),
            start,
            start + length as u64,
            field(50),
            field(51),
        ],
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    // SAFETY: the kernel reads the structure, whose size is given.
    let set = unsafe { libc::prctl(libc::PR_SET_MM, PR_SET_MM_MAP, &raw const map, size_of_val(&map), 0) };
    nix::errno::Errno::result(set).unwrap();
}
