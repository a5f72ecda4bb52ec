//! What a machine can have much of: processes, descriptors, network namespaces, listeners, subscribers of the agent. A process
//! holds all of a load, and lets go of it when its standard input ends, so that nothing is left however the report ends.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause};

/// Which load to hold.
#[derive(clap::Subcommand)]
pub(crate) enum Kind {
    /// Processes that pause
    Processes { count: usize },
    /// Descriptors of one file, spread over processes
    Descriptors { count: usize },
    /// Network namespaces, each with a process that listens on the port
    Namespaces { count: usize, port: u16 },
    /// Listeners on the ports from this one on
    Listeners { count: usize, first: u16 },
    /// Readers of an agent's event stream, about one port
    Subscribers { count: usize, port: u16, socket: PathBuf },
}

/// Descriptors and listeners are spread over so many processes, so that each has fewer than most limits allow.
const SPREAD: usize = 100;
/// What a process says once it has made its part.
const READY: u8 = b'.';

/// A load that is held; it is gone when this is dropped.
pub(super) struct Held {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Held {
    /// Starts its holder and waits until all of it is there.
    ///
    /// # Errors
    /// When not all of it can be made.
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold-load").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, out) = (child.stdin.take(), child.stdout.take().context("piped")?);
        let held = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line == "ready\n", "this load can't be made: {}", arguments.join(" "));
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Holds a load until standard input ends.
///
/// # Errors
/// When it can't be made.
pub(crate) fn hold(kind: &Kind) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match kind {
        Kind::Processes { count } => fork_all(*count, |_| Ok(())),
        Kind::Descriptors { count } => fork_all(SPREAD.min(*count), |at| descriptors(share(*count, at))),
        Kind::Namespaces { count, port } => fork_all(*count, |_| namespace(*port)),
        Kind::Listeners { count, first } => fork_all(SPREAD.min(*count), |at| listeners(*count, *first, at)),
        Kind::Subscribers { count, port, socket } => subscribers(*count, *port, socket),
    }
}

/// How many of `count` the process at this place has.
fn share(count: usize, at: usize) -> usize {
    count / SPREAD + usize::from(at < count % SPREAD)
}

fn descriptors(count: usize) -> Result<Vec<OwnedFd>> {
    let file = File::open("/dev/null")?;
    // The file itself is one of them.
    let mut all = (1..count).map(|_| Ok(file.try_clone()?.into())).collect::<Result<Vec<OwnedFd>>>()?;
    all.push(file.into());
    Ok(all)
}

fn namespace(port: u16) -> Result<TcpListener> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)
}

fn listeners(count: usize, first: u16, at: usize) -> Result<Vec<TcpListener>> {
    let places = (at..count).step_by(SPREAD);
    places.map(|place| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, first + u16::try_from(place)?))?)).collect()
}

/// Forks processes that each make their part and then pause.
fn fork_all<T>(count: usize, make: impl Fn(usize) -> Result<T>) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut children = Vec::with_capacity(count);
    let made = make_all(count, &make, &reader, writer, &mut children);
    let ended = made.and_then(|()| until_input_ends());
    for &child in &children {
        let _ = kill(child, Signal::SIGKILL);
    }
    for &child in &children {
        let _ = waitpid(child, None);
    }
    ended
}

fn make_all<T>(
    count: usize,
    make: &impl Fn(usize) -> Result<T>,
    mut reader: &PipeReader,
    writer: PipeWriter,
    children: &mut Vec<Pid>,
) -> Result<()> {
    for at in 0..count {
        // SAFETY: this process has one thread, so the child may do whatever it likes.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => children.push(child),
            ForkResult::Child => {
                if let Err(error) = pause_with(make(at), &writer) {
                    eprintln!("{error:#}");
                    let _ = (&writer).write_all(b"!");
                }
                std::process::exit(1);
            }
        }
    }
    drop(writer);
    let mut said = vec![0; count];
    reader.read_exact(&mut said)?;
    let failed = said.iter().filter(|&&byte| byte != READY).count();
    ensure!(failed == 0, "{failed} of {count} parts of the load can't be made");
    Ok(())
}

/// Says that its part is there, and pauses until it is killed.
fn pause_with<T>(part: Result<T>, mut writer: &PipeWriter) -> Result<()> {
    let _part = part?;
    // However its parent ends, it ends as well.
    set_pdeathsig(Signal::SIGKILL)?;
    writer.write_all(&[READY])?;
    loop {
        pause();
    }
}

fn subscribers(count: usize, port: u16, socket: &Path) -> Result<()> {
    for _ in 0..count {
        let mut stream = UnixStream::connect(socket)?;
        write!(stream, "GET /v1/events?port={port} HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        lines.read_line(&mut head)?;
        ensure!(head.contains(" 200 "), "the agent refuses a subscriber: {head}");
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
        })?;
    }
    until_input_ends()
}

fn until_input_ends() -> Result<()> {
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
