//! The owner ends while `clean` runs, and its pid is given to a bystander in the same moment: the bystander never gets a
//! signal.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gatewatch_tests::{Backend, Gatewatch, can_bind, patience, unused_port};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause};

use super::{Busy, Rounds};

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let [port, other] = [(); 2].map(|()| unused_port());
    let mut swapper = Helper::start("swap-pids", &other.to_string())?;
    let ready = swapper.line()?;
    if ready != "ready" {
        rounds.skip(&format!("pids can't be chosen here ({ready})"));
        return Ok(());
    }
    let _busy = Busy::begin();
    // About how long a clean takes, so that the pid changes hands at any moment of it.
    let mut usual = Duration::from_millis(20);
    while rounds.go_on() {
        let held = rounds.round(|random| {
            let backend = *random.of(&[Backend::Ebpf, Backend::Poll]);
            let ending = *random.of(&["kill", "kill", "obey", "same"]);
            let after = random.shorter(usual.mul_f64(1.3));
            swapper.say(&format!("{ending} {port} {}", after.as_micros()))?;
            let owner = swapper.line()?;
            let scene = || format!("{ending} after {after:?} by {backend:?}: {owner}");
            let begun = Instant::now();
            let clean = Gatewatch::on(backend, &["clean"], port);
            let clean =
                clean.with(&["--term-timeout", "18s", "--kill-timeout", "15s", "--free-timeout", "15s"]);
            let clean = clean.spawn();
            swapper.say("go")?;
            let answer = clean.finish();
            usual = (usual * 7 + begun.elapsed()) / 8;
            let free = can_bind(([127, 0, 0, 1], port).into());
            let swapped = swapper.line()?;
            swapper.say("check")?;
            let checked = swapper.line()?;
            ensure!(checked == "unharmed", "the bystander is {checked}: {}: {answer:?}", scene());
            if swapped == "taken" {
                return Ok("pids that another process took first".to_owned());
            }
            let outcome = answer.outcome();
            let fine = match (ending, outcome.as_str()) {
                // The bystander takes the port itself, as soon as it is free.
                ("same", "cleaned" | "respawned") => true,
                ("same", _) => false,
                (_, outcome) => answer.status == 0 && free && matches!(outcome, "cleaned" | "free"),
            };
            ensure!(fine, "{}: free: {free}, {answer:?}", scene());
            Ok(format!("{ending}/{outcome}"))
        });
        if !held {
            // Whatever went wrong, the next round begins anew.
            swapper = Helper::start("swap-pids", &other.to_string())?;
            ensure!(swapper.line()? == "ready", "pids can't be chosen any more");
        }
    }
    Ok(())
}

/// A hidden task of this program, which looks like a gateway and is told what to do line by line.
pub(super) struct Helper {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Helper {
    pub(super) fn start(task: &str, first: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0("openclaw-gateway").arg(task).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("piped")?;
        let out = BufReader::new(child.stdout.take().context("piped")?);
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut helper = Self { child, input, lines };
        helper.say(first)?;
        Ok(helper)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("the helper has ended")
    }

    pub(super) fn line(&self) -> Result<String> {
        self.lines.recv_timeout(patience()).context("the helper says nothing")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The task: owners and bystanders that have the same pid, one after the other.
///
/// # Errors
/// When it can't go on.
pub(crate) fn swap_pids() -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let mut next = move || lines.next().transpose().map(Option::unwrap_or_default);
    // Holds another port, as its bystanders do.
    let _other = listen(next()?.parse()?)?;
    // Blocked in bystanders, so that a signal would stay and be seen.
    SigSet::from(Signal::SIGTERM).thread_block()?;
    let mut pid = unused_pid()?;
    match child_with(pid, None) {
        Ok(()) => end(pid)?,
        Err(error) => {
            println!("{error}");
            return Ok(());
        }
    }
    println!("ready");
    loop {
        let line = next()?;
        let [ending, port, after] = line.split(' ').collect::<Vec<_>>()[..] else { return Ok(()) };
        let (port, after) = (port.parse::<u16>()?, Duration::from_micros(after.parse()?));
        let listener = listen(port)?;
        while let Err(error) = child_with(pid, Some(Signal::SIGTERM)) {
            // Another process has this pid by now.
            ensure!(error == Errno::EEXIST, "no child can have the pid {pid}: {error}");
            pid = unused_pid()?;
        }
        drop(listener);
        println!("owner {pid}");
        next()?;
        if ending == "kill" {
            let begun = Instant::now();
            while begun.elapsed() < after {
                std::hint::spin_loop();
            }
            kill(pid, Signal::SIGKILL)?;
        }
        waitpid(pid, None)?;
        let mut again = None;
        let taken = if ending == "same" {
            // The bystander inherits the port from us; ours goes once it has it.
            again = listen(port).ok();
            child_with(pid, None)
        } else {
            child_with(pid, None)
        };
        drop(again);
        println!("{}", if taken.is_ok() { "swapped" } else { "taken" });
        next()?;
        if taken.is_ok() {
            println!("{}", harm(pid)?);
            end(pid)?;
        } else {
            println!("unharmed");
        }
    }
}

/// A listener, tried until a `clean` that proves the port in this moment is done with it.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if begun.elapsed() > patience() => bail!("port {port} can't be bound: {error}"),
            Err(_) => {}
        }
    }
}

/// A pid that has just been used.
fn unused_pid() -> Result<Pid> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        // SAFETY: ends at once, without a word to the pipes.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(child)
        }
    }
}

/// A child with this pid, which waits for its end; unblocks a signal there.
fn child_with(pid: Pid, unblock: Option<Signal>) -> Result<(), Errno> {
    let number = pid.as_raw();
    // SAFETY: all fields are numbers, and 0 means that nothing is asked for (clone(2)).
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    clone.set_tid = (&raw const number).expose_provenance() as u64;
    clone.set_tid_size = 1;
    // SAFETY: without flags this is a fork, and the structure outlives it.
    let made = unsafe { libc::syscall(libc::SYS_clone3, &raw mut clone, size_of::<libc::clone_args>()) };
    if Errno::result(made)? != 0 {
        return Ok(());
    }
    // SAFETY: takes two numbers; the child ends with this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if let Some(signal) = unblock {
        let _ = SigSet::from(signal).thread_unblock();
    }
    loop {
        pause();
    }
}

/// What was done to a bystander.
fn harm(pid: Pid) -> Result<&'static str> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let pending = |name| field(name).is_some_and(|set| set.chars().any(|digit| digit != '0'));
    Ok(if field("State:").is_some_and(|state| state.starts_with('Z')) {
        "ended"
    } else if pending("SigPnd:") || pending("ShdPnd:") {
        "signalled"
    } else {
        "unharmed"
    })
}

fn end(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGKILL)?;
    waitpid(pid, None)?;
    Ok(())
}
