//! Actors: processes that own a port in every possible way.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::patience;
use crate::platform::{self, Life};

/// The part that an actor plays.
pub struct Part {
    pub(crate) command: Command,
}

impl Part {
    /// An owner with this name: its first argument, or the name of its program's file.
    pub fn named(name: &str) -> Self {
        Self { command: platform::named(name) }
    }

    /// An owner whose title makes it a gateway.
    pub fn gateway() -> Self {
        Self::named("openclaw-gateway")
    }

    /// An owner that is not a gateway.
    pub fn other() -> Self {
        Self::named("some-server")
    }

    /// A different program, which prints `ready {…}` itself.
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

    /// In this working directory.
    pub fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// With more arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs a command as its child once it is ready.
    pub fn running(self, command: &[String]) -> Self {
        let mut part = self.with(&["--"]);
        part.command.args(command);
        part
    }

    /// Starts the actor and waits until it is ready.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start(self) -> Actor {
        self.try_to_start().expect("the actor is not ready")
    }

    /// Like [`Self::start`]; `None` if the actor does not get ready.
    ///
    /// # Panics
    /// When it can't be run at all.
    pub fn try_to_start(mut self) -> Option<Actor> {
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
        let line = lines.recv_timeout(patience()).unwrap_or_default();
        let Some(ready) = line.strip_prefix("ready ") else {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        };
        let ready: Value = serde_json::from_str(ready).unwrap();
        let pids: Vec<u32> = ready["pids"].as_array().unwrap().iter().map(number).collect();
        let address = ready["address"].as_str().map(|address| address.parse().unwrap());
        let lives = pids.iter().map(|&pid| Life::of(pid)).collect();
        let program = self.command.get_program().into();
        Some(Actor { program, child, stdin, lines, pids, address, lives })
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap()
}

/// A running actor. It ends when this is dropped.
pub struct Actor {
    program: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The processes that hold its sockets.
    pub pids: Vec<u32>,
    address: Option<SocketAddr>,
    lives: Vec<Life>,
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

    /// Its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The name of its program's file.
    ///
    /// # Panics
    /// When it has none.
    pub fn file_name(&self) -> String {
        self.program.file_name().unwrap().to_str().unwrap().to_owned()
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

    /// Its next line; empty after the last one.
    ///
    /// # Panics
    /// When it prints nothing for long.
    pub fn line(&mut self) -> String {
        self.next_line().unwrap_or_default()
    }

    /// All lines that are left.
    ///
    /// # Panics
    /// When it prints nothing for long.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_line()).collect()
    }

    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(patience()) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the actor prints nothing"),
        }
    }

    /// Whether each holder is alive. A zombie is not.
    pub fn alive(&self) -> Vec<bool> {
        self.lives.iter().map(|life| !life.ends_within(Duration::ZERO)).collect()
    }

    /// Whether all are alive.
    pub fn is_alive(&self) -> bool {
        self.alive().into_iter().all(|alive| alive)
    }

    /// Whether all have ended.
    pub fn is_gone(&self) -> bool {
        self.alive().into_iter().all(|alive| !alive)
    }

    /// Whether all have ended, or end within this time.
    pub fn end_within(&self, time: Duration) -> bool {
        let begun = std::time::Instant::now();
        self.lives.iter().all(|life| life.ends_within(time.saturating_sub(begun.elapsed())))
    }

    /// Closes its input, upon which it ends by itself.
    pub fn end(&mut self) {
        drop(self.stdin.take());
    }

    /// Closes its input, and says whether it ended by itself upon that: one that was killed before has not.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ends_by_itself(&mut self) -> bool {
        self.end();
        assert!(Life::of(self.child.id()).ends_within(patience()), "the actor does not end");
        self.child.wait().unwrap().success()
    }

    /// Replaces the holders.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "elsewhere a pid is the same for everybody")
    )]
    pub(crate) fn replace_holders(&mut self, pids: Vec<u32>) {
        self.lives = pids.iter().map(|&pid| Life::of(pid)).collect();
        self.pids = pids;
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // All of the actor's processes end when its standard input does.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a package named `name`, whose script listens like a gateway, to a folder.
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
          // Wine's socket table names no process for a listener until the process asks about it.\n\
          if (process.platform === 'win32') server._handle.setNoDelay(true);\n\
          console.log('ready ' + JSON.stringify({ address: '127.0.0.1:' + port, pids: [process.pid] }));\n\
        });\n";
    std::fs::write(folder.join("dist/index.js"), script).unwrap();
}
