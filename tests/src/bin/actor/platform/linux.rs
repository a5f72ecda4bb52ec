//! Linux: sockets that are inherited, passed on, left to threads; names that are written over.

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::unistd::{ForkResult, fork, getpid, getppid};
use socket2::{Protocol, Socket};

pub(crate) use super::unix::{Ending, again, input};
use crate::{Part, end_with_the_test, play, serve};

/// What only Linux's actors do.
#[derive(clap::Args)]
pub(crate) struct Own {
    /// Listen, then shut the listener down and keep it
    #[arg(long)]
    shut_down: bool,
    #[arg(long)]
    reuse_port: bool,
    /// A multipath socket
    #[arg(long)]
    multipath: bool,
    /// Hold so many more descriptors
    #[arg(long, default_value_t = 0)]
    descriptors: u64,
    /// Fork so many workers that share the listeners
    #[arg(long, default_value_t = 0)]
    workers: u32,
    /// Leave the listeners to a child, and end
    #[arg(long)]
    orphan: bool,
    /// Leave the listeners to a child of another name, and live on without them
    #[arg(long)]
    heir: Option<String>,
    /// Pass the first listener over a socket to a child, and close it here
    #[arg(long)]
    pass: bool,
    /// Send the first listener on its way to nobody, and close it here
    #[arg(long)]
    in_flight: bool,
    /// End the main thread; another one goes on
    #[arg(long)]
    dead_leader: bool,
    /// Write this title over the arguments, as Node does
    #[arg(long)]
    title: Option<String>,
    /// Set the thread's name only
    #[arg(long)]
    comm: Option<String>,
}

/// Takes the name and the title that are asked for.
pub(crate) fn dress(own: &Own) {
    if let Some(name) = &own.comm {
        set_name(name);
    }
    if let Some(title) = &own.title {
        set_title(title);
    }
}

/// TCP, or its multipath kind.
pub(crate) fn protocol(own: &Own) -> Protocol {
    if own.multipath { Protocol::MPTCP } else { Protocol::TCP }
}

/// As nearly all servers do.
pub(crate) fn reuse(part: &Part, socket: &Socket) -> std::io::Result<()> {
    socket.set_reuse_address(!part.no_reuse)?;
    socket.set_reuse_port(part.own.reuse_port)
}

/// Shuts it down, if that is asked for.
pub(crate) fn after_listen(part: &Part, socket: &Socket) -> std::io::Result<()> {
    if part.own.shut_down { socket.shutdown(Shutdown::Both) } else { Ok(()) }
}

/// Hands the sockets to who is to hold them, and plays the part.
pub(crate) fn act(part: Part, ending: Ending, mut sockets: Vec<Socket>, address: Option<SocketAddr>) -> ! {
    if part.own.orphan {
        leave_to_a_child(&mut sockets);
    }
    let mut holders = vec![std::process::id()];
    let mut _kept: Vec<OwnedFd> = Vec::new();
    if let Some(name) = &part.own.heir {
        holders.push(hand_to_heir(name, &mut sockets));
    }
    if part.own.pass || part.own.in_flight {
        let listener = sockets.remove(0);
        let (here, there) = send_away(&listener);
        drop(listener);
        if part.own.pass {
            holders = vec![receive_in_a_child(here, there, &ending)];
        } else {
            _kept.extend([here, there]);
        }
    }
    let _more = descriptors(part.own.descriptors);
    for _ in 0..part.own.workers {
        // SAFETY: the other thread only reads from standard input, so the child may do anything.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // A fork has no such thread of its own.
                end_with_the_test();
                serve(&part, &ending, sockets)
            }
            ForkResult::Parent { child } => holders.push(number(child)),
        }
    }
    if part.own.dead_leader {
        die_as_leader(part, ending, sockets, address);
    }
    play(&part, &ending, sockets, address, &holders)
}

/// Descriptors of one file that holds nothing.
fn descriptors(count: u64) -> Vec<OwnedFd> {
    if count == 0 {
        return Vec::new();
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let file: OwnedFd = File::open("/dev/null").unwrap().into();
    (0..count).map(|_| file.try_clone().unwrap()).collect()
}

fn number(pid: nix::unistd::Pid) -> u32 {
    pid.as_raw().try_into().unwrap()
}

/// Forks; the parent ends, and the child goes on when it has a new parent.
fn leave_to_a_child(sockets: &mut Vec<Socket>) {
    let parent = getpid();
    // SAFETY: the other thread only reads from standard input.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { .. } => {
            sockets.clear();
            // SAFETY: no destructor is to run: the child needs what they would undo.
            unsafe { libc::_exit(0) };
        }
        ForkResult::Child => {
            end_with_the_test();
            while getppid() == parent {
                std::thread::yield_now();
            }
        }
    }
}

/// A child with another command line that holds the sockets.
fn hand_to_heir(name: &str, sockets: &mut Vec<Socket>) -> u32 {
    for socket in sockets.iter() {
        socket.set_cloexec(false).unwrap();
    }
    let arguments = [CString::new(name).unwrap(), c"1000".to_owned()];
    // SAFETY: the child only executes another program.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: the heir dies with its parent's test.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            SigSet::all().thread_unblock().unwrap();
            let Err(error) = nix::unistd::execv(c"/bin/sleep", &arguments);
            panic!("the heir can't be executed: {error}");
        }
        ForkResult::Parent { child } => {
            // The name changes when the heir has become what it is to be.
            let wanted = format!("{name}\0");
            let path = format!("/proc/{child}/cmdline");
            while !std::fs::read(&path).is_ok_and(|line| line.starts_with(wanted.as_bytes())) {
                std::thread::yield_now();
            }
            sockets.clear();
            number(child)
        }
    }
}

fn send_away(socket: &Socket) -> (OwnedFd, OwnedFd) {
    let (here, there) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    let fds = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    (here, there)
}

fn receive_in_a_child(here: OwnedFd, there: OwnedFd, ending: &Ending) -> u32 {
    let (told, tell) = nix::unistd::pipe().unwrap();
    // SAFETY: the other thread only reads from standard input.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            end_with_the_test();
            let mut byte = [0; 1];
            let mut space = nix::cmsg_space!(RawFd);
            let mut slices = [IoSliceMut::new(&mut byte)];
            let message =
                recvmsg::<()>(there.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
            let received =
                message.cmsgs().unwrap().any(|part| matches!(part, ControlMessageOwned::ScmRights(_)));
            assert!(received);
            nix::unistd::write(&tell, b"x").unwrap();
            ending.wait();
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop((here, there));
            nix::unistd::read(&told, &mut [0; 1]).unwrap();
            number(child)
        }
    }
}

/// The main thread ends; its entry stays as a zombie while the other thread holds the sockets.
fn die_as_leader(part: Part, ending: Ending, sockets: Vec<Socket>, address: Option<SocketAddr>) -> ! {
    std::thread::spawn(move || {
        let stat = format!("/proc/{}/stat", getpid());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        play(&part, &ending, sockets, address, &[std::process::id()]);
    });
    // SAFETY: ends this thread alone; it owns nothing that another thread uses.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

fn set_name(name: &str) {
    let name = CString::new(name).unwrap();
    // SAFETY: prctl(PR_SET_NAME) reads at most 16 bytes of a string that ends.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Writes over the arguments' memory, whose place /proc/self/stat tells (fields 48 and 49, proc(5)).
fn set_title(title: &str) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<usize> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let (start, end) = (fields[44], fields[45]);
    let room = std::ptr::with_exposed_provenance_mut::<u8>(start);
    for at in 0..end - start {
        let byte = title.as_bytes().get(at).copied().filter(|_| at + 1 < end - start).unwrap_or(0);
        // SAFETY: the kernel put the arguments there, writable, and nothing here reads them any more.
        unsafe { room.wrapping_add(at).write(byte) };
    }
    set_name(title);
}
