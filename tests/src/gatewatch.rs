//! The real gatewatch, run as a script would run it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::platform::{self, Life};
use crate::{patience, program};

/// How gatewatch observes ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// By kernel events.
    Ebpf,
    /// By polling, as the user who runs the tests.
    Poll,
}

impl Backend {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Poll => "poll",
        }
    }
}

/// A call of gatewatch.
pub struct Gatewatch {
    pub(crate) command: Command,
}

/// What gatewatch answered.
#[derive(Debug)]
pub struct Answer {
    /// The exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// The answer's JSON.
    ///
    /// # Panics
    /// When it isn't JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The answers, where each is a line.
    ///
    /// # Panics
    /// When one isn't JSON.
    pub fn lines(&self) -> Vec<Value> {
        let read = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}\n{self:?}"))
        };
        self.out.lines().map(read).collect()
    }

    /// The outcome.
    pub fn outcome(&self) -> String {
        self.json()["outcome"].as_str().unwrap_or_else(|| panic!("no outcome: {self:?}")).to_owned()
    }

    /// The owner with this pid.
    ///
    /// # Panics
    /// When there is none.
    pub fn owner(&self, pid: u32) -> Value {
        let json = self.json();
        let owners = json["owners"].as_array().unwrap();
        let found = owners.iter().find(|owner| owner["pid"] == pid).cloned();
        found.unwrap_or_else(|| panic!("no owner {pid}: {self:?}"))
    }

    /// The pids that were ended.
    pub fn killed(&self) -> Vec<u64> {
        let mut pids: Vec<u64> =
            self.json()["killed"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        pids.sort_unstable();
        pids
    }
}

impl Gatewatch {
    /// A command with its arguments, nothing else set.
    pub fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(program("gatewatch"));
        platform::interruptible(&mut command);
        command.args(arguments);
        for variable in [
            "OPENCLAW_GATEWAY_PORT",
            "OPENCLAW_GATEWAY_SERVICE_PID",
            "OPENCLAW_PROFILE",
            "GATEWATCH_SOCKET",
            "GATEWATCH_WITHOUT",
            "NO_COLOR",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(variable);
        }
        // Scenarios must not ask an agent that serves this machine.
        command.env("GATEWATCH_SOCKET", "/nonexistent/agent.sock");
        Self { command }
    }

    /// A command on a port, observed in one way, answered in JSON.
    pub fn on(backend: Backend, command: &[&str], port: u16) -> Self {
        Self::in_json(backend, command, &port.to_string())
    }

    /// A command on a UDP port, observed in one way, answered in JSON.
    pub fn on_udp(backend: Backend, command: &[&str], port: u16) -> Self {
        Self::in_json(backend, command, &format!("{port}/udp"))
    }

    fn in_json(backend: Backend, command: &[&str], port: &str) -> Self {
        let flags = ["--backend", crate::run().flag(backend), "--format", "json", "-p", port];
        Self::new(command).with(&flags)
    }

    /// A command on a port, observed in one way, answered in text.
    pub fn in_text(backend: Backend, command: &[&str], port: u16) -> Self {
        Self::new(command).with(&["--backend", crate::run().flag(backend), "-p", &port.to_string()])
    }

    /// Runs a command with its arguments.
    pub fn plain(arguments: &[&str]) -> Answer {
        Self::new(arguments).run()
    }

    /// With more arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The whole command line, to be run by something else.
    pub fn words(&self) -> Vec<String> {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    /// The command itself, its output thrown away; for benchmarks, which run it in their own way.
    pub fn into_quiet_command(mut self) -> Command {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn run(self) -> Answer {
        self.spawn().finish()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Running {
        // Files, because what gatewatch starts may share them, and a pipe would then stay open after gatewatch's end.
        let [out, err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        self.command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let child = self.command.spawn().unwrap();
        Running { child, out, err }
    }

    /// Starts a watch, and waits until it is ready.
    ///
    /// # Panics
    /// When it never is.
    pub fn watch(mut self) -> Watch {
        let err = tempfile::tempfile().unwrap();
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err.try_clone().unwrap());
        let mut child = self.command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap();
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut watch = Watch { child, lines, err, held: Vec::new() };
        loop {
            let line = watch.line();
            if line["event"] == "ready" {
                return watch;
            }
            watch.held.push(line);
        }
    }
}

/// A running command.
pub struct Running {
    child: Child,
    out: File,
    err: File,
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish(mut self) -> Answer {
        if self.is_running() && !Life::of(self.child.id()).ends_within(patience()) {
            let _ = self.child.kill();
            panic!("gatewatch does not end");
        }
        let status = self.child.wait().unwrap().code().unwrap_or(-1);
        Answer { status, out: text(&self.out), err: text(&self.err) }
    }
}

/// All that was written to a file.
fn text(mut file: &File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A running watch.
pub struct Watch {
    child: Child,
    lines: Receiver<Value>,
    err: File,
    /// The lines before `ready`.
    pub held: Vec<Value>,
}

impl Watch {
    /// The next line.
    ///
    /// # Panics
    /// When none comes.
    pub fn line(&mut self) -> Value {
        self.lines.recv_timeout(patience()).unwrap_or_else(|_| panic!("no watch line: {}", text(&self.err)))
    }

    /// The next line, which must be of this event.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect(&mut self, event: &str) -> Value {
        let line = self.line();
        assert_eq!(line["event"], event, "{line}");
        line
    }

    /// The next lines up to the first of this event, inclusive.
    pub fn up_to(&mut self, event: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line());
            if lines.last().is_some_and(|line| line["event"] == event) {
                return lines;
            }
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Interrupts it as a person at its terminal would.
    pub fn interrupt(&self) {
        platform::interrupt(&self.child);
    }

    /// Stops reading its lines.
    pub fn stop_reading(&mut self) {
        let (_, nothing) = channel();
        self.lines = nothing;
    }

    /// Whether it has ended, or ends within this time.
    pub fn ends_within(&self, time: Duration) -> bool {
        Life::of(self.child.id()).ends_within(time)
    }

    /// Waits for its end; its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self) -> i32 {
        assert!(self.ends_within(patience()), "the watch does not end");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits for its end; what it wrote to standard error.
    ///
    /// # Panics
    /// When it does not end.
    pub fn err(mut self) -> String {
        self.end();
        text(&self.err)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
