//! Whether a process waits for what comes on a socket: by an epoll that it is registered with, or in a system call of one of
//! its threads. A process that merely inherited the socket does neither.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use nix::libc;

use super::{copy, file, foreign};
use crate::platform::contract::Use;

/// `EPOLLIN` and `EPOLLRDNORM`; `POLLIN` and `POLLRDNORM` are the same.
const READABLE: u32 = 0x41;
/// The longest list of descriptors that is read of a call that waits for several.
const MOST: u64 = 4096;

/// A socket, as /proc tells it from others.
#[derive(Debug, Clone, Copy)]
pub(in crate::platform::linux) struct SocketFile {
    pub(in crate::platform::linux) inode: u64,
    pub(in crate::platform::linux) device: u64,
}

/// What the process does with the socket.
pub(in crate::platform::linux) fn used_by(pid: u32, socket: SocketFile) -> Use {
    if let Some(why) = foreign::why() {
        return Use::Hidden(why);
    }
    let kinds = ["anon_inode:[eventpoll]", "anon_inode:[io_uring]"];
    let (held, [polls, rings]) = match copy::numbers(pid, socket.inode, kinds) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Use::Hidden("its descriptors may not be read by this user");
        }
        Err(_) => return Use::Absent,
    };
    if held.is_empty() && rings.is_empty() {
        return Use::Absent;
    }
    let is_registered = |poll: &u32| {
        let fdinfo = file::text(format!("/proc/{pid}/fdinfo/{poll}").as_ref()).unwrap_or_default();
        fdinfo.lines().any(|line| registers(line, socket, &held))
    };
    if polls.iter().any(is_registered) || waits_in_a_call(pid, &held) {
        Use::Waited
    } else if rings.is_empty() {
        Use::Held
    } else {
        // A ring can have a socket that no descriptor leads to any more.
        Use::Hidden("it uses io_uring, which does not tell what it waits for")
    }
}

/// Whether a line of an epoll's fdinfo registers the socket for what comes in. The file is named since Linux 4.13 or so;
/// before that there is only the number that it had when it was registered.
fn registers(line: &str, socket: SocketFile, held: &[u32]) -> bool {
    let Some(rest) = line.strip_prefix("tfd:") else { return false };
    let mut words = rest.split_whitespace();
    let number = words.next().and_then(|word| word.parse::<u32>().ok());
    let words: Vec<&str> = words.collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| word.starts_with(name))?;
        let word =
            words[at].strip_prefix(name).filter(|rest| !rest.is_empty()).or(words.get(at + 1).copied())?;
        u64::from_str_radix(word, 16).ok()
    };
    let is_it = match (after("ino:"), after("sdev:")) {
        (Some(inode), Some(device)) => inode == socket.inode && device == socket.device,
        _ => number.is_some_and(|number| held.contains(&number)),
    };
    is_it && after("events:").is_some_and(|events| events & u64::from(READABLE) != 0)
}

/// Whether a thread of the process is in a system call that waits for one of these descriptors.
fn waits_in_a_call(pid: u32, held: &[u32]) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let text = file::text(&task.path().join("syscall")).unwrap_or_default();
        Call::parse(&text).is_some_and(|call| call.waits_for(pid, held))
    })
}

/// A system call that a thread is in: its number and its first arguments.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    number: libc::c_long,
    arguments: [u64; 2],
}

impl Call {
    /// /proc/PID/task/TID/syscall; `None` for a thread that runs, or is in no call.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok().filter(|&number| number >= 0)?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some(Self { number, arguments: [argument()?, argument()?] })
    }

    fn waits_for(&self, pid: u32, held: &[u32]) -> bool {
        let [first, second] = self.arguments;
        if ACCEPTS.contains(&self.number) {
            u32::try_from(first).is_ok_and(|number| held.contains(&number))
        } else if POLLS.contains(&self.number) {
            polls(&memory(pid, first, second.min(MOST) * 8), held)
        } else if SELECTS.contains(&self.number) {
            selects(&memory(pid, second, first.min(MOST).div_ceil(8)), held)
        } else {
            false
        }
    }
}

/// The calls that wait for what comes on one descriptor.
const ACCEPTS: [libc::c_long; 5] =
    [libc::SYS_accept, libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg];
/// Those that wait as poll(2) and as select(2) do. Newer architectures don't have the first of each.
#[cfg(target_arch = "x86_64")]
const POLLS: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_ppoll];
#[cfg(target_arch = "x86_64")]
const SELECTS: &[libc::c_long] = &[libc::SYS_select, libc::SYS_pselect6];
#[cfg(not(target_arch = "x86_64"))]
const POLLS: &[libc::c_long] = &[libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const SELECTS: &[libc::c_long] = &[libc::SYS_pselect6];

/// What a process has there; nothing where that can't be read.
fn memory(pid: u32, from: u64, length: u64) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// Whether an array of `struct pollfd` asks for what comes in on one of these descriptors.
fn polls(array: &[u8], held: &[u32]) -> bool {
    array.as_chunks::<8>().0.iter().any(|&[a, b, c, d, e, f, ..]| {
        let events = u16::from_ne_bytes([e, f]);
        held.contains(&u32::from_ne_bytes([a, b, c, d])) && u32::from(events) & READABLE != 0
    })
}

/// Whether an `fd_set` has one of these descriptors: an array of longs, which on little-endian machines is one of bytes.
fn selects(set: &[u8], held: &[u32]) -> bool {
    held.iter().any(|&number| {
        let byte = usize::try_from(number / 8).ok().and_then(|at| set.get(at));
        byte.is_some_and(|byte| byte & (1 << (number % 8)) != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    const SOCKET: SocketFile = SocketFile { inode: 0x2bf, device: 8 };

    #[test]
    fn an_epoll_registers_a_socket_for_what_comes_in() {
        let of = |line: &str| registers(line, SOCKET, &[3]);
        assert!(of("tfd:        9 events:       19 data: ffff  pos:0 ino:2bf sdev:8"));
        // for other events, another file, another device of the same number
        assert!(!of("tfd:        9 events:       18 data: ffff  pos:0 ino:2bf sdev:8"));
        assert!(!of("tfd:        3 events:       19 data: ffff  pos:0 ino:2be sdev:8"));
        assert!(!of("tfd:        3 events:       19 data: ffff  pos:0 ino:2bf sdev:9"));
        // before files were named
        assert!(of("tfd:        3 events:        1 data: ffff"));
        assert!(!of("tfd:        4 events:        1 data: ffff"));
        for other in ["", "pos:\t0", "tfd:", "tfd: 3", "tfd: 3 events:"] {
            assert!(!of(other), "{other:?}");
        }
    }

    #[test]
    fn a_call_is_read_with_its_arguments() {
        let call = Call::parse("288 0x3 0x7ffd 0x7ffe 0x80000 0x0 0x0 0x7ffd 0x7f");
        assert_eq!(call, Some(Call { number: 288, arguments: [3, 0x7ffd] }));
        for other in ["running\n", "-1 0x7ffd 0x7f", "", "288", "288 3 4"] {
            assert_eq!(Call::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_set_and_a_list_say_what_is_waited_for() {
        assert!(selects(&[0b1000], &[3]));
        assert!(selects(&[0, 1], &[8]));
        assert!(!selects(&[0b1000], &[4, 99]));
        let list = |fd: i32, events: u16| [&fd.to_ne_bytes()[..], &events.to_ne_bytes(), &[0; 2]].concat();
        assert!(polls(&[list(7, 4), list(3, 1)].concat(), &[3]));
        assert!(!polls(&[list(-1, 1), list(3, 4)].concat(), &[3]));
    }

    #[test]
    fn a_thread_that_accepts_is_seen_to_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let status = nix::sys::stat::fstat(&listener).unwrap();
        let socket = SocketFile { inode: status.st_ino, device: status.st_dev };
        let own = std::process::id();
        assert_eq!(used_by(own, socket), Use::Held);
        let address = listener.local_addr().unwrap();
        let number = listener.as_raw_fd();
        let thread = std::thread::spawn(move || {
            listener.accept().unwrap();
        });
        while used_by(own, socket) != Use::Waited {
            std::thread::yield_now();
        }
        std::net::TcpStream::connect(address).unwrap();
        thread.join().unwrap();
        assert!(number > 2);
        assert_eq!(used_by(own, socket), Use::Absent);
        // of a process with a ring that can't be told, whatever descriptors it has
        let mut parameters = [0_u32; 30];
        // SAFETY: io_uring_setup(2) reads and writes 120 bytes.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        if let Ok(ring) = i32::try_from(ring)
            && ring >= 0
        {
            assert!(matches!(used_by(own, socket), Use::Hidden(_)));
            // SAFETY: the kernel has just created this descriptor, and nothing else has it.
            unsafe { libc::close(ring) };
        }
    }
}
