//! An actor: plays every kind of owner that a port can have.
//!
//! It says `ready {…}` on standard output once it is what it was asked to be, so that nobody has to wait for a guessed
//! time, and ends when its standard input is closed, so that no actor outlives its test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "an actor that can't play its part must fail loudly")]

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use clap::Parser;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    SockaddrIn, SockaddrIn6, SockaddrStorage, accept, bind, getsockname, listen, recvmsg, sendmsg,
    setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getpid, getppid};

#[derive(Parser)]
struct Part {
    /// Addresses to bind; port 0 takes any, and the next ones take the same
    #[arg(long = "on")]
    addresses: Vec<SocketAddr>,
    /// Bind and do not listen
    #[arg(long)]
    bound: bool,
    /// Listen, then shut the listener down and keep it
    #[arg(long)]
    shut_down: bool,
    #[arg(long)]
    no_reuse: bool,
    #[arg(long)]
    reuse_port: bool,
    /// A multipath socket
    #[arg(long)]
    multipath: bool,
    /// What to do on SIGTERM: exit, ignore, close (the listener, and live on), or drain:MILLISECONDS
    #[arg(long, default_value = "exit")]
    on_term: String,
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
    /// When the owner ends, another takes its place at once: a supervisor
    #[arg(long)]
    respawn: bool,
    /// Accept a connection and close it first, which leaves TIME_WAIT on this side
    #[arg(long)]
    accept_and_close: bool,
    /// Be a client: bind the address and connect here
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Touch so many MiB of memory
    #[arg(long, default_value_t = 0)]
    memory: usize,
    /// Hold so many more sockets
    #[arg(long, default_value_t = 0)]
    sockets: usize,
    /// Bind and close again so many times before being ready
    #[arg(long, default_value_t = 0)]
    churn: u32,
    /// Hold the port for so many microseconds each time
    #[arg(long, default_value_t = 0)]
    churn_for: u64,
    /// Try to bind once more after being ready, and say how that went
    #[arg(long)]
    try_again: bool,
    /// Go on when standard input ends: for a service manager, which gives none
    #[arg(long)]
    stay: bool,
    /// So many processes between this one and the command
    #[arg(long, default_value_t = 0)]
    hops: u32,
    /// Once ready, run this command as a descendant, and say how it ended
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() {
    let part = Part::parse();
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().unwrap();
    if !part.stay {
        end_with_the_test();
    }
    if let Some(name) = &part.comm {
        set_name(name);
    }
    if let Some(title) = &part.title {
        set_title(title);
    }
    let _memory = vec![1u8; part.memory << 20];
    let _spare: Vec<OwnedFd> = (0..part.sockets).map(|_| stream(AddressFamily::Inet, false)).collect();
    if part.respawn {
        supervise(&part, &term);
    }
    for _ in 0..part.churn {
        let begun = std::time::Instant::now();
        let sockets = open_all(&part);
        while begun.elapsed() < Duration::from_micros(part.churn_for) {
            std::hint::spin_loop();
        }
        drop(sockets);
    }
    let mut sockets = open_all(&part);
    let address = sockets.first().map(|socket| address_of(socket.as_raw_fd()));
    let mut pids = vec![getpid().as_raw()];
    let mut _kept: Vec<OwnedFd> = Vec::new();
    if part.orphan {
        leave_to_a_child(&mut sockets);
        pids = vec![getpid().as_raw()];
    }
    if let Some(name) = &part.heir {
        pids.push(hand_to_heir(name, &mut sockets));
    }
    if part.pass || part.in_flight {
        let listener = sockets.remove(0);
        let (here, there) = send_away(&listener);
        drop(listener);
        if part.pass {
            pids = vec![receive_in_a_child(here, there, &term)];
        } else {
            _kept.extend([here, there]);
        }
    }
    for _ in 0..part.workers {
        // SAFETY: this process has one thread, so the child may do anything.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                end_with_the_test();
                serve(&part, &term, sockets)
            }
            ForkResult::Parent { child } => pids.push(child.as_raw()),
        }
    }
    if part.accept_and_close {
        ready(address, &pids);
        close_first(sockets[0].as_raw_fd());
        println!("closed");
    } else if part.dead_leader {
        die_as_leader(part, term, sockets, address);
    } else {
        ready(address, &pids);
    }
    if part.try_again {
        let answer = match open(&part, address.unwrap()) {
            Ok(_) => "0".to_owned(),
            Err(errno) => (errno as i32).to_string(),
        };
        println!("errno {answer}");
    }
    if !part.command.is_empty() {
        run(&part);
    }
    serve(&part, &term, sockets);
}

fn ready(address: Option<SocketAddr>, pids: &[i32]) {
    let address = address.map_or_else(|| "null".to_owned(), |address| format!("\"{address}\""));
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {{\"address\":{address},\"pids\":{pids:?}}}").unwrap();
    out.flush().unwrap();
}

/// A thread that ends the process when standard input does. A fork has no such thread: it asks for a signal instead.
fn end_with_the_test() {
    std::thread::spawn(|| {
        let mut nothing = [0; 1];
        while nix::unistd::read(std::io::stdin(), &mut nothing).is_ok_and(|length| length > 0) {}
        // SAFETY: ends all threads at once, whatever they do.
        unsafe { libc::_exit(0) };
    });
}

fn open_all(part: &Part) -> Vec<OwnedFd> {
    let mut port = 0;
    let mut sockets = Vec::new();
    for address in &part.addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(port);
        }
        let mut opened = open(part, address);
        // The kernel's iterator over descriptors holds each for a moment while it looks at it: a listener that is closed
        // in that moment goes only when the iterator has passed on.
        while part.churn_for > 0 && opened.as_ref().is_err_and(|error| *error == Errno::EADDRINUSE) {
            opened = open(part, address);
        }
        let socket = opened.unwrap_or_else(|error| panic!("{address} can't be opened: {error}"));
        port = address_of(socket.as_raw_fd()).port();
        sockets.push(socket);
    }
    sockets
}

fn stream(family: AddressFamily, multipath: bool) -> OwnedFd {
    let protocol = if multipath { 262 } else { 0 };
    // SAFETY: socket(2) takes three numbers and gives a new descriptor.
    let fd = unsafe { libc::socket(family as i32, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(Errno::result(fd).unwrap()) }
}

fn open(part: &Part, address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = stream(family, part.multipath);
    setsockopt(&socket, sockopt::ReuseAddr, &!part.no_reuse)?;
    if part.reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    let raw = socket.as_raw_fd();
    match address {
        SocketAddr::V4(v4) => bind(raw, &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(raw, &SockaddrIn6::from(v6))?,
    }
    if let Some(to) = part.connect {
        nix::sys::socket::connect(raw, &SockaddrStorage::from(to))?;
    } else if !part.bound {
        listen(&socket, Backlog::MAXCONN)?;
    }
    if part.shut_down {
        shutdown(raw, Shutdown::Both)?;
    }
    Ok(socket)
}

fn address_of(socket: RawFd) -> SocketAddr {
    let address = getsockname::<SockaddrStorage>(socket).unwrap();
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::from((v4.ip(), v4.port())),
        (_, Some(v6)) => SocketAddr::from((v6.ip(), v6.port())),
        _ => panic!("no internet address"),
    }
}

/// Does the actor's part on SIGTERM, until the end.
fn serve(part: &Part, term: &SigSet, mut sockets: Vec<OwnedFd>) -> ! {
    loop {
        term.wait().unwrap();
        match part.on_term.as_str() {
            "exit" => std::process::exit(0),
            "ignore" => {}
            "close" => sockets.clear(),
            other => {
                let milliseconds = other.strip_prefix("drain:").and_then(|text| text.parse().ok()).unwrap();
                std::thread::sleep(Duration::from_millis(milliseconds));
                std::process::exit(0);
            }
        }
    }
}

/// Forks; the parent ends, and the child goes on when it has a new parent.
fn leave_to_a_child(sockets: &mut Vec<OwnedFd>) {
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
fn hand_to_heir(name: &str, sockets: &mut Vec<OwnedFd>) -> i32 {
    for socket in sockets.iter() {
        nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
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
            child.as_raw()
        }
    }
}

fn send_away(socket: &OwnedFd) -> (OwnedFd, OwnedFd) {
    let (here, there) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    let fds = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    (here, there)
}

fn receive_in_a_child(here: OwnedFd, there: OwnedFd, term: &SigSet) -> i32 {
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
            term.wait().unwrap();
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop((here, there));
            nix::unistd::read(&told, &mut [0; 1]).unwrap();
            child.as_raw()
        }
    }
}

/// The main thread ends; its entry stays as a zombie while the other thread holds the sockets.
fn die_as_leader(part: Part, term: SigSet, sockets: Vec<OwnedFd>, address: Option<SocketAddr>) -> ! {
    std::thread::spawn(move || {
        let stat = format!("/proc/{}/stat", getpid());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        ready(address, &[getpid().as_raw()]);
        serve(&part, &term, sockets);
    });
    // SAFETY: ends this thread alone; it owns nothing that another thread uses.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Runs one owner after another.
fn supervise(part: &Part, term: &SigSet) -> ! {
    let mut first = true;
    loop {
        // SAFETY: the other thread only reads from standard input.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // SAFETY: the owner dies with its supervisor.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let sockets = open_all(part);
                if first {
                    ready(Some(address_of(sockets[0].as_raw_fd())), &[getpid().as_raw()]);
                } else {
                    println!("respawned {}", getpid());
                }
                serve(part, term, sockets);
            }
            ForkResult::Parent { child } => {
                waitpid(child, None).unwrap();
                first = false;
            }
        }
    }
}

fn close_first(listener: RawFd) {
    let accepted = accept(listener).unwrap();
    // SAFETY: accept(2) has just made this descriptor.
    let mut connection = TcpStream::from(unsafe { OwnedFd::from_raw_fd(accepted) });
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    // Until the client has closed its side too, this one is not in TIME_WAIT.
    std::io::copy(&mut connection, &mut std::io::sink()).unwrap();
}

/// Runs the command below a chain of processes, and says how it ended.
fn run(part: &Part) {
    fn below(hops: u32, command: &[String]) -> i32 {
        if hops == 0 {
            let status = std::process::Command::new(&command[0]).args(&command[1..]).status().unwrap();
            return status.code().unwrap_or(255);
        }
        // SAFETY: each process in the chain has one thread of its own making.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => std::process::exit(below(hops - 1, command)),
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                nix::sys::wait::WaitStatus::Exited(_, code) => code,
                _ => 255,
            },
        }
    }
    let status = below(part.hops, &part.command);
    println!("status {status}");
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
