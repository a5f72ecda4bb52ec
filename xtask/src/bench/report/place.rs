//! Where a contest is held: a port, its owner, an agent that watches it, and a load.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Agent, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::loads::Held;
use crate::bench::gatewatch;

/// The port that everything is asked about.
pub(super) const PORT: u16 = 18_789;

/// A command of gatewatch about it, by this backend.
///
/// # Errors
/// None: it is one of the ways, of which others have some.
pub(super) fn asking(command: &str, backend: &str) -> Result<Command> {
    Ok(gatewatch(&[command, "-p", &PORT.to_string(), "--backend", backend]))
}

/// The same by kernel events, by a command that loads its program into the kernel as the first after a boot does.
///
/// # Errors
/// None, as above.
pub(super) fn loading(command: &str) -> Result<Command> {
    let mut asked = asking(command, "ebpf")?;
    asked.env("GATEWATCH_WITHOUT", "kept");
    Ok(asked)
}

/// The surroundings of a contest.
pub(super) struct Place {
    pub(super) agent: Agent,
    _load: Option<Held>,
}

impl Place {
    /// Without any load.
    pub(super) fn idle() -> Self {
        Self::new(&[(PORT, "")], None)
    }

    /// An agent that watches these ports, beside a load.
    pub(super) fn new(ports: &[(u16, &str)], load: Option<Held>) -> Self {
        Self { agent: Agent::watching(ports), _load: load }
    }

    /// The same with another load, one that needs the agent.
    pub(super) fn with(self, load: Held) -> Self {
        Self { agent: self.agent, _load: Some(load) }
    }
}

/// A gateway that obeys SIGTERM, and is reaped the moment it ends, as a supervisor would: some tools wait until its pid is
/// gone, zombies included. It ends when this is dropped.
pub(super) struct Owner {
    pid: Pid,
    stdin: Option<ChildStdin>,
    reaper: Option<JoinHandle<()>>,
}

impl Owner {
    /// Starts it and waits until it listens.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new(program("actor"));
        command.arg0("openclaw-gateway").args(["--on", &format!("127.0.0.1:{PORT}")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let out = child.stdout.take().context("piped")?;
        let pid = Pid::from_raw(child.id().try_into()?);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let reaper = std::thread::spawn(move || {
            let _ = child.wait();
        });
        // Made before the check, so that a child that isn't ready is reaped as well.
        let owner = Self { pid, stdin, reaper: Some(reaper) };
        ensure!(line.starts_with("ready "), "the owner of the port does not get ready");
        Ok(owner)
    }

    /// Sends SIGTERM. Only for an owner that nobody has ended yet, so that the pid is its own.
    pub(super) fn ask_to_end(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGTERM)?)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.stdin.take());
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}
