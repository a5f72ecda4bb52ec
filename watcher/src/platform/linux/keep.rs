//! Sockets that outlive their processes: copied by pidfd_getfd(2), and handed to a command by the protocol of
//! sd_listen_fds(3).

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};

use super::processes::copy;
use super::processes::waiting::{self, SocketFile};
use crate::model::{Descriptor, Protocol, Socket};
use crate::platform::contract::{KeepError, KeptSocket, Queue, Use};

/// `SD_LISTEN_FDS_START`, sd_listen_fds(3).
const FIRST: RawFd = 3;

/// A copy of another process's socket.
#[derive(Debug)]
pub(super) struct Kept {
    fd: OwnedFd,
    file: SocketFile,
    protocol: Protocol,
}

impl Kept {
    pub(super) fn of(descriptor: &Descriptor, socket: &Socket) -> Result<Self, KeepError> {
        let pid = descriptor.pid;
        let failed = |error: io::Error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSYS) => KeepError::Unsupported,
            Some(Errno::EPERM) => KeepError::NotPermitted { pid },
            Some(Errno::ESRCH | Errno::EBADF) => KeepError::Changed { pid },
            None if error.kind() == io::ErrorKind::NotFound => KeepError::Changed { pid },
            _ => KeepError::Other { pid, error },
        };
        let fd = copy::of(descriptor, socket).map_err(failed)?;
        let status = nix::sys::stat::fstat(&fd).map_err(|error| failed(error.into()))?;
        let file = SocketFile { inode: status.st_ino, device: status.st_dev };
        Ok(Self { fd, file, protocol: socket.protocol })
    }
}

impl KeptSocket for Kept {
    fn serves(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => getsockopt(&self.fd, sockopt::AcceptConn).unwrap_or(false),
            Protocol::Udp => true,
        }
    }

    /// Of a listener, tcp(7)'s `TCP_INFO` has the queue where it has a connection's segments.
    fn queue(&self) -> Option<Queue> {
        /// The beginning of `struct tcp_info`, linux/tcp.h.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            bytes: [u8; 8],
            times: [u32; 4],
            /// `tcpi_unacked`.
            waiting: u32,
            /// `tcpi_sacked`.
            room: u32,
        }
        if self.protocol != Protocol::Tcp || !self.serves() {
            return None;
        }
        let mut info = Info::default();
        let mut length = libc::socklen_t::try_from(size_of::<Info>()).ok()?;
        let to = (&raw mut info).cast();
        // SAFETY: the kernel writes at most `length` bytes, and all of them are numbers.
        let got = unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length)
        };
        Errno::result(got).ok()?;
        Some(Queue { waiting: info.waiting, room: info.room })
    }

    fn listen(&self, room: u32) -> io::Result<()> {
        let room = i32::try_from(room).unwrap_or(i32::MAX);
        // SAFETY: listen(2) takes two numbers. On a socket that listens it sets the room alone.
        Errno::result(unsafe { libc::listen(self.fd.as_raw_fd(), room) })?;
        Ok(())
    }

    fn used_by(&self, pid: u32) -> Use {
        waiting::used_by(pid, self.file)
    }

    fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Lets the command find the descriptors. `LISTEN_PID` is the pid of who may take them, which only the child knows; so the
/// child makes its own environment, and becomes the command by itself.
pub(super) fn hand_on(command: &mut Command, descriptors: &[RawFd], names: &str) -> io::Result<()> {
    let beyond = RawFd::try_from(descriptors.len()).map_err(io::Error::other)? + FIRST;
    let copies: Vec<OwnedFd> = descriptors.iter().map(|&fd| copied(fd, beyond)).collect::<io::Result<_>>()?;
    let mut image = Image::new(command, copies, names)?;
    // The start of a process opens a pipe, by which a failure is told. It must not lie where the sockets will: so all of
    // these numbers are taken until then.
    let mut taken = Vec::new();
    if let Some(&first) = descriptors.first() {
        loop {
            let fd = copied(first, FIRST)?;
            if fd.as_raw_fd() >= beyond {
                break;
            }
            taken.push(fd);
        }
    }
    // As systemd does: a server that accepts in a thread of its own would find a mode that another one has chosen.
    descriptors.iter().try_for_each(|&fd| block(fd))?;
    let become_it = move || {
        let _ = &taken;
        image.become_it()
    };
    // SAFETY: what it does after the fork allocates nothing and takes no lock.
    unsafe { command.pre_exec(become_it) };
    Ok(())
}

/// A copy with the lowest free number from this one on, which no program that is executed inherits.
fn copied(fd: RawFd, from: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) takes numbers here, and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, from) })?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets calls on it wait. The mode is that of the socket, whoever holds it.
fn block(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl(2) takes two numbers here, and changes nothing.
    let flags = Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: fcntl(2) takes numbers here.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) })?;
    Ok(())
}

/// All that execve(2) takes, laid out before the fork.
struct Image {
    copies: Vec<OwnedFd>,
    program: CString,
    /// What the pointers point to.
    _words: Vec<CString>,
    /// `LISTEN_PID=`, and room for the longest pid and its end.
    listen_pid: Box<[u8; 24]>,
    argv: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are to what the value owns, and what moves with it; nothing else has them.
unsafe impl Send for Image {}
// SAFETY: nothing can be done with a shared one.
unsafe impl Sync for Image {}

/// What sd_listen_fds(3) reads.
const PROTOCOL: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

const LISTEN_PID: &[u8] = b"LISTEN_PID=";

impl Image {
    fn new(command: &Command, copies: Vec<OwnedFd>, names: &str) -> io::Result<Self> {
        let program = word(command.get_program())?;
        let argv: Vec<CString> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(word)
            .collect::<io::Result<_>>()?;
        // What a service manager has given to this program is not the command's.
        let is_ours = |name: &OsStr| PROTOCOL.iter().any(|ours| name == *ours);
        let inherited = std::env::vars_os().filter(|(name, _)| !is_ours(name)).map(|(name, value)| {
            let mut variable = name.into_vec();
            variable.push(b'=');
            variable.extend(value.into_vec());
            OsString::from_vec(variable)
        });
        let count = copies.len();
        let said = [format!("LISTEN_FDS={count}"), format!("LISTEN_FDNAMES={names}")];
        let variables: Vec<CString> =
            inherited.chain(said.map(OsString::from)).map(|it| word(&it)).collect::<io::Result<_>>()?;
        let mut listen_pid = Box::new([0; 24]);
        listen_pid[..LISTEN_PID.len()].copy_from_slice(LISTEN_PID);
        let pointers = |words: &[CString]| words.iter().map(|word| word.as_ptr()).collect::<Vec<_>>();
        let (mut arguments, mut environment) = (pointers(&argv), pointers(&variables));
        arguments.push(ptr::null());
        environment.extend([listen_pid.as_ptr().cast(), ptr::null()]);
        let words = argv.into_iter().chain(variables).collect();
        Ok(Self { copies, program, _words: words, listen_pid, argv: arguments, environment })
    }

    /// In the child: puts the descriptors in their places, and becomes the program. Returns only if that fails.
    fn become_it(&mut self) -> io::Result<()> {
        for (place, copy) in (FIRST..).zip(&self.copies) {
            // SAFETY: dup2(2) takes two numbers. What had the place was this process's copy of something of its parent.
            Errno::result(unsafe { libc::dup2(copy.as_raw_fd(), place) })?;
        }
        write_number(std::process::id(), &mut self.listen_pid[LISTEN_PID.len()..]);
        let (program, argv, environment) =
            (self.program.as_ptr(), self.argv.as_ptr(), self.environment.as_ptr());
        // SAFETY: all of these are strings, and lists of strings that end with a null, and live in `self`.
        unsafe { libc::execvpe(program, argv, environment) };
        Err(io::Error::last_os_error())
    }
}

fn word(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Writes the number in decimal to the beginning of zeros that have room for it.
fn write_number(number: u32, to: &mut [u8]) {
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut left = number;
    for byte in to[..digits].iter_mut().rev() {
        *byte = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_number_is_written_in_decimal() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut text = [0; 12];
            write_number(number, &mut text);
            assert_eq!(text.split(|&byte| byte == 0).next().unwrap(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_command_gets_the_sockets_from_number_3_on_and_its_own_pid() {
        let listeners = [(); 9].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        listeners[0].set_nonblocking(true).unwrap();
        let script =
            "echo $LISTEN_PID $$ $LISTEN_FDS $LISTEN_FDNAMES; readlink /proc/self/fd/3 /proc/self/fd/11";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        hand_on(&mut command, &listeners.each_ref().map(AsRawFd::as_raw_fd), "a:b").unwrap();
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        let inode = |listener: &TcpListener| nix::sys::stat::fstat(listener).unwrap().st_ino;
        let pid = child.id();
        let (first, last) = (inode(&listeners[0]), inode(&listeners[8]));
        // and they wait, whatever the old owner had chosen
        // SAFETY: fcntl(2) takes two numbers.
        let flags = unsafe { libc::fcntl(listeners[0].as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        assert_eq!(said, format!("{pid} {pid} 9 a:b\nsocket:[{first}]\nsocket:[{last}]\n"));
    }

    #[test]
    fn a_command_that_can_not_be_executed_is_an_error_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new("/no/such/program");
        hand_on(&mut command, &[listener.as_raw_fd()], "a").unwrap();
        assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_queue_of_a_listener_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let status = nix::sys::stat::fstat(&listener).unwrap();
        let file = SocketFile { inode: status.st_ino, device: status.st_dev };
        let kept = Kept { fd: listener.into(), file, protocol: Protocol::Tcp };
        kept.listen(7).unwrap();
        assert_eq!(kept.queue(), Some(Queue { waiting: 0, room: 7 }));
        let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        assert_eq!(kept.queue(), Some(Queue { waiting: 2, room: 7 }));
        // when somebody shuts it down, it can listen again
        // SAFETY: shutdown(2) takes two numbers.
        unsafe { libc::shutdown(kept.fd.as_raw_fd(), libc::SHUT_RDWR) };
        assert!(!kept.serves());
        kept.listen(8).unwrap();
        assert!(kept.serves());
    }
}
