//! Actors: processes that own a port in every way there is.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::{PATIENCE, programs};

/// What an actor is to play.
pub struct Part {
    command: Command,
}

impl Part {
    /// An owner with this as its first argument.
    pub fn named(name: &str) -> Self {
        let mut command = Command::new(programs().join("actor"));
        command.arg0(name);
        Self { command }
    }

    /// An owner that is a gateway by its title.
    pub fn gateway() -> Self {
        Self::named("openclaw-gateway")
    }

    /// An owner that is none.
    pub fn other() -> Self {
        Self::named("some-server")
    }

    /// Another program altogether, which says `ready {…}` itself.
    pub fn program(command: Command) -> Self {
        Self { command }
    }

    /// Bound to an address.
    pub fn on(self, address: SocketAddr) -> Self {
        self.with(&["--on", &address.to_string()])
    }

    /// Bound to a port of 127.0.0.1.
    pub fn on_port(self, port: u16) -> Self {
        self.on(([127, 0, 0, 1], port).into())
    }

    /// With more arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// As an ordinary user.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(65_534).gid(65_534);
        self
    }

    /// In a network namespace of its own, whose loopback is up.
    pub fn in_own_network(mut self) -> Self {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            self.command.pre_exec(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        self
    }

    /// Raises the curtain in a pid namespace of its own, where it is PID 1. Its pid here is that of the outer namespace.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_as_init(self) -> Actor {
        let name = "openclaw-gateway";
        let mut outer = Command::new("unshare");
        outer.args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c"]);
        outer.arg(format!("exec -a {name} \"$0\" \"$@\"")).arg(self.command.get_program());
        outer.args(self.command.get_args());
        let mut actor = Self { command: outer }.start();
        let outer = actor.started_pid();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        let pid = children.trim().parse().unwrap();
        actor.pids = vec![pid];
        actor.handles = vec![open(pid)];
        actor
    }

    /// Raises the curtain, and says whether the actor could become what it is to be.
    ///
    /// # Panics
    /// When it can't even be run.
    pub fn starts(mut self) -> bool {
        // Its standard input stays open meanwhile: an actor whose input ends is gone before it has tried anything.
        let mut child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let _open = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let _ = child.kill();
        let _ = child.wait();
        line.starts_with("ready ")
    }

    /// Raises the curtain, and waits until the actor is what it is to be.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn start(mut self) -> Actor {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        let stdin = child.stdin.take();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line.trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        let line = lines.recv_timeout(PATIENCE).unwrap_or_default();
        let ready = line.strip_prefix("ready ").unwrap_or_else(|| panic!("the actor is not ready: {line:?}"));
        let ready: Value = serde_json::from_str(ready).unwrap();
        let pids: Vec<u32> = ready["pids"].as_array().unwrap().iter().map(number).collect();
        let address = ready["address"].as_str().map(|address| address.parse().unwrap());
        let handles = pids.iter().map(|&pid| open(pid)).collect();
        Actor { child, stdin, lines, pids, address, handles }
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap()
}

fn open(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open(2) takes two numbers and gives a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(nix::errno::Errno::result(fd).unwrap()).unwrap();
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An actor on the stage. It ends when this is dropped.
pub struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The processes that hold its sockets.
    pub pids: Vec<u32>,
    address: Option<SocketAddr>,
    handles: Vec<OwnedFd>,
}

impl Actor {
    /// The first holder.
    pub fn pid(&self) -> u32 {
        self.pids[0]
    }

    /// The process that was started: the supervisor, where there is one.
    pub fn started_pid(&self) -> u32 {
        self.child.id()
    }

    /// Its first address.
    ///
    /// # Panics
    /// When it has none.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Its next line; empty when it has said its last.
    ///
    /// # Panics
    /// When it says nothing for long.
    pub fn line(&mut self) -> String {
        self.next_line().unwrap_or_default()
    }

    /// All lines that are left.
    ///
    /// # Panics
    /// When it says nothing for long.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_line()).collect()
    }

    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the actor says nothing"),
        }
    }

    /// Whether each of the holders lives. A zombie does not.
    pub fn alive(&self) -> Vec<bool> {
        let ended = |fd: &OwnedFd| {
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(fd), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
        };
        self.handles.iter().map(|fd| !ended(fd)).collect()
    }

    /// Whether all live.
    pub fn is_alive(&self) -> bool {
        self.alive().into_iter().all(|alive| alive)
    }

    /// Whether all have ended.
    pub fn is_gone(&self) -> bool {
        self.alive().into_iter().all(|alive| !alive)
    }

    /// Asks the first holder to end.
    pub fn ask_to_end(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Its network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Every process of the actor's ends with its standard input.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A package named `name` whose script listens as a gateway would, in a folder of its own.
///
/// # Panics
/// When it can't be written.
pub fn node_package(name: &str, folder: &Path) {
    std::fs::create_dir_all(folder.join("dist")).unwrap();
    std::fs::write(folder.join("package.json"), format!("{{\"name\":\"{name}\",\"type\":\"commonjs\"}}"))
        .unwrap();
    let script = "const net = require('net');\n\
        const port = Number(process.argv[process.argv.indexOf('--port') + 1]);\n\
        if (process.argv.includes('--titled')) process.title = 'openclaw-gateway';\n\
        process.stdin.on('end', () => process.exit(0)).resume();\n\
        const server = net.createServer(() => {});\n\
        server.listen(port, '127.0.0.1', () => {\n\
          console.log('ready ' + JSON.stringify({ address: '127.0.0.1:' + port, pids: [process.pid] }));\n\
        });\n";
    std::fs::write(folder.join("dist/index.js"), script).unwrap();
}
