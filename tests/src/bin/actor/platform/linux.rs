//! Linux: sockets that are inherited, passed on, left to threads; names that are written over.

#[path = "linux/activated.rs"]
mod activated;
#[path = "linux/hostile.rs"]
mod hostile;

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::wait::wait;
use nix::unistd::{ForkResult, fork, getpid, getppid};
use socket2::{Protocol, Socket};

pub(crate) use self::activated::given;
pub(crate) use super::unix::{Ending, again, go_on_in_a_fork, input};
use crate::{Part, end_with_the_test, play, ready, serve};

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
    /// Hold this many more descriptors
    #[arg(long, default_value_t = 0)]
    descriptors: u64,
    /// Fork this many workers that share the listeners
    #[arg(long, default_value_t = 0)]
    workers: u32,
    /// Leave the listeners to a child, and end
    #[arg(long)]
    orphan: bool,
    /// Leave the listeners to a child of another name, and live on without them
    #[arg(long)]
    heir: Option<String>,
    /// Share the listeners with a child of another name
    #[arg(long)]
    sharer: Option<String>,
    /// Pass the first listener over a socket to a child, and close it here
    #[arg(long)]
    pass: bool,
    /// Send the first listener on its way to nobody, and close it here
    #[arg(long)]
    in_flight: bool,
    /// Leave the first listener in a message that is never taken. One child after another peeks at it, and so holds the
    /// listener: when one has ended, the next one is there
    #[arg(long)]
    nest: bool,
    /// Let every child inherit the listeners, as a server without close-on-exec does
    #[arg(long)]
    leak: bool,
    /// End the main thread; another one goes on
    #[arg(long)]
    dead_leader: bool,
    /// Write this title over the arguments, as Node does
    #[arg(long)]
    title: Option<String>,
    /// Where /proc is an outer pid namespace's: start a child that has, in the own namespace, the number that this process
    /// has in the outer one
    #[arg(long)]
    double: bool,
    /// As a subreaper, run the command below a line of hops that end one after another, from the moment that it has
    /// opened this file; again and again
    #[arg(long, requires = "rounds")]
    vanishing: Option<PathBuf>,
    /// How often
    #[arg(long, default_value_t = 0)]
    rounds: u64,
    /// Set the thread's name only
    #[arg(long)]
    comm: Option<String>,
    #[command(flatten)]
    hostile: hostile::Hostile,
    #[command(flatten)]
    activated: activated::Activated,
}

/// Takes the name and the title that were asked for.
pub(crate) fn dress(own: &Own) {
    if let Some(name) = &own.comm {
        set_name(name);
    }
    if let Some(title) = &own.title {
        set_title(title);
    }
    own.hostile.prepare();
}

/// TCP, or its multipath kind.
pub(crate) fn protocol(own: &Own) -> Protocol {
    if own.multipath { Protocol::MPTCP } else { Protocol::TCP }
}

/// Sets the options that nearly all servers set.
pub(crate) fn reuse(part: &Part, socket: &Socket) -> std::io::Result<()> {
    socket.set_reuse_address(!part.no_reuse)?;
    if let Some(mark) = part.own.hostile.mark {
        socket.set_mark(mark)?;
    }
    socket.set_reuse_port(part.own.reuse_port)
}

/// Lets others of the same user have the port as well, if that was asked for.
pub(crate) fn share(own: &Own, socket: &Socket) -> std::io::Result<()> {
    socket.set_reuse_port(own.reuse_port)
}

/// Shuts it down, if that was asked for.
pub(crate) fn after_listen(part: &Part, socket: &Socket) -> std::io::Result<()> {
    if part.own.shut_down { socket.shutdown(Shutdown::Both) } else { Ok(()) }
}

/// Gives the sockets to the processes that will hold them, and plays the part.
pub(crate) fn act(part: Part, ending: Ending, mut sockets: Vec<Socket>, address: Option<SocketAddr>) -> ! {
    part.own.hostile.gather(&part, &mut sockets);
    if part.own.leak {
        for socket in &sockets {
            socket.set_cloexec(false).unwrap();
        }
    }
    if part.own.orphan {
        leave_to_a_child(&mut sockets);
    }
    let mut holders = vec![std::process::id()];
    let mut _kept: Vec<OwnedFd> = Vec::new();
    if let Some(name) = &part.own.heir {
        holders.push(hand_to_heir(name, &sockets));
        sockets.clear();
    }
    if let Some(name) = &part.own.sharer {
        holders.push(hand_to_heir(name, &sockets));
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
    if part.own.nest {
        let (_here, there) = send_away(&sockets.remove(0));
        sockets.clear();
        nest(&there, &ending, address);
    }
    let _more = descriptors(part.own.descriptors);
    for _ in 0..part.own.workers {
        // SAFETY: the other thread only reads from standard input, so the child may do anything.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // A fork does not copy that thread.
                end_with_the_test();
                if part.own.activated.answers {
                    activated::answer(&ending, &sockets);
                }
                serve(&part, &ending, sockets)
            }
            ForkResult::Parent { child } => holders.push(number(child)),
        }
    }
    part.own.hostile.hand_away(&mut sockets);
    if part.own.double {
        holders = vec![start_double()];
    }
    if let Some(file) = &part.own.vanishing {
        ready(address, &holders);
        for round in 0..part.own.rounds {
            run_below_vanishing_line(&part.command, file, round);
        }
        serve(&part, &ending, sockets);
    }
    if part.own.hostile.acts() {
        ready(address, &holders);
        part.own.hostile.act(&part, &mut sockets);
        serve(&part, &ending, sockets);
    }
    if part.own.activated.answers {
        ready(address, &holders);
        activated::answer(&ending, &sockets);
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
    allow_descriptors();
    let file: OwnedFd = File::open("/dev/null").unwrap().into();
    (0..count).map(|_| file.try_clone().unwrap()).collect()
}

/// Takes as many descriptors as this user may have.
fn allow_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
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
            // SAFETY: no destructor may run: the child needs what they would undo.
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
fn hand_to_heir(name: &str, sockets: &[Socket]) -> u32 {
    for socket in sockets {
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
            // The name changes once the heir runs its own program.
            let wanted = format!("{name}\0");
            let path = format!("/proc/{child}/cmdline");
            while !std::fs::read(&path).is_ok_and(|line| line.starts_with(wanted.as_bytes())) {
                std::thread::yield_now();
            }
            number(child)
        }
    }
}

/// A child with the number that /proc shows for this process; that number.
fn start_double() -> u32 {
    let outside: i32 = std::fs::read_link("/proc/self").unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: all fields are numbers, and 0 means that nothing is asked for (clone(2)).
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
    clone.set_tid = (&raw const outside).expose_provenance() as u64;
    clone.set_tid_size = 1;
    // SAFETY: without flags this is a fork, and the structure outlives it.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut clone, size_of::<libc::clone_args>()) };
    if nix::errno::Errno::result(pid).unwrap() == 0 {
        // It dies with its parent, and holds nothing.
        set_pdeathsig(Signal::SIGKILL).unwrap();
        // By number, because musl has no function for it.
        // SAFETY: nothing here uses a descriptor any more.
        unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
        SigSet::all().thread_unblock().unwrap();
        loop {
            nix::unistd::pause();
        }
    }
    outside.try_into().unwrap()
}

/// How many processes are between the subreaper and the command.
const HOPS: u32 = 20;

/// Runs the command below a line of hops, and reaps every child at once until none is left.
fn run_below_vanishing_line(command: &[String], file: &Path, round: u64) {
    set_child_subreaper(true).unwrap();
    // SAFETY: the other thread only reads from standard input, so the child may do anything.
    if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() {
        while wait().is_ok() {}
        return;
    }
    let opened = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    opened.add_watch(file, AddWatchFlags::IN_OPEN).unwrap();
    for hop in 0..HOPS {
        // Each hop ends with the one above it.
        set_pdeathsig(Signal::SIGKILL).unwrap();
        // SAFETY: as above.
        if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() {
            if hop == 0 {
                // Until the command opens the file.
                drop(opened.read_events().unwrap());
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(round * 13 % 500) {
                    std::hint::spin_loop();
                }
                // SAFETY: no destructor may run: they are the subreaper's.
                unsafe { libc::_exit(0) };
            }
            loop {
                nix::unistd::pause();
            }
        }
    }
    let error = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).exec();
    panic!("the command can't be run: {error}");
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
            receive(&there, MsgFlags::empty());
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

/// One child after another that holds what is on its way.
fn nest(there: &OwnedFd, ending: &Ending, address: Option<SocketAddr>) -> ! {
    for is_first in std::iter::successors(Some(true), |_| Some(false)) {
        // SAFETY: the other thread only reads from standard input.
        if let ForkResult::Child = unsafe { fork() }.unwrap() {
            // It ends with this process, or, where that has ended already, with its input.
            set_pdeathsig(Signal::SIGKILL).unwrap();
            end_with_the_test();
            receive(there, MsgFlags::MSG_PEEK);
            if is_first {
                ready(address, &[std::process::id()]);
            }
            ending.wait();
            std::process::exit(0);
        }
        wait().unwrap();
    }
    unreachable!("there is always a next one")
}

/// Receives a descriptor, which stays open because nobody closes it.
fn receive(from: &OwnedFd, flags: MsgFlags) {
    let mut byte = [0; 1];
    let mut space = nix::cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), flags).unwrap();
    assert!(message.cmsgs().unwrap().any(|part| matches!(part, ControlMessageOwned::ScmRights(_))));
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
    // SAFETY: prctl(PR_SET_NAME) reads at most 16 bytes of a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Writes over the arguments' memory; /proc/self/stat says where it is (fields 48 and 49, proc(5)).
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
