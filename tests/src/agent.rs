//! A real agent, and requests to it as a program would make them.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Gatewatch, PATIENCE, programs, until};

/// The user and group that is nobody's in particular.
const NOBODY: u32 = 65_534;

/// An agent under way. It ends when this is dropped.
pub struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    /// Starts one that watches these ports, each with more lines of its `[[watch]]`, and waits until it is armed.
    ///
    /// # Panics
    /// When it can't be.
    pub fn watching(ports: &[(u16, &str)]) -> Self {
        Self::with(&config(ports))
    }

    /// Starts one with this configuration.
    ///
    /// # Panics
    /// When it can't be.
    pub fn with(config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let child = spawn(folder.path());
        let agent = Self { child, folder };
        agent.wait_until_armed();
        agent
    }

    /// As [`Self::with`], run by nobody.
    ///
    /// # Panics
    /// When it can't be.
    pub fn as_nobody_with(config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let child = command(folder.path()).uid(NOBODY).gid(NOBODY).spawn().unwrap();
        let agent = Self { child, folder };
        agent.wait_until_armed();
        agent
    }

    /// Waits until it answers.
    ///
    /// # Panics
    /// When it never does.
    pub fn wait_until_armed(&self) {
        until("the agent is armed", || {
            UnixStream::connect(self.socket()).is_ok() && self.get("/healthz").status == 200
        });
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Changes its configuration and has it read again.
    ///
    /// # Panics
    /// When that can't be.
    pub fn reconfigure(&self, config: &str) {
        fs::write(self.folder.path().join("config.toml"), config).unwrap();
        self.signal(Signal::SIGHUP);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end; its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self) -> Option<i32> {
        until("the agent has ended", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }

    /// Kills it and starts another in its place.
    ///
    /// # Panics
    /// When that can't be.
    pub fn replace(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(self.folder.path());
        self.wait_until_armed();
    }

    /// What it has said.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A command that asks this agent, and it alone.
    pub fn ask(&self, command: &[&str], port: u16) -> Gatewatch {
        Gatewatch::new(command)
            .with(&["--agent", "only", "--socket", self.socket().to_str().unwrap()])
            .with(&["--format", "json", "-p", &port.to_string()])
    }

    /// As [`Self::ask`], run to its end.
    pub fn answer(&self, command: &[&str], port: u16) -> Answer {
        self.ask(command, port).run()
    }

    /// A request without a body.
    pub fn get(&self, path: &str) -> Reply {
        Call::new(&self.socket()).send("GET", path, "")
    }

    /// A request with a body.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        Call::new(&self.socket()).send("POST", path, body)
    }

    /// As nobody.
    ///
    /// # Panics
    /// When the thread that becomes nobody can't.
    pub fn as_nobody(&self, method: &str, path: &str, body: &str) -> Reply {
        let socket = self.socket();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    become_nobody();
                    Call::new(&socket).send(method, path, body)
                })
                .join()
                .unwrap()
        })
    }

    /// The event stream.
    ///
    /// # Panics
    /// When it is refused.
    pub fn events(&self, query: &str) -> Events {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /v1/events?{query} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        lines.read_line(&mut head).unwrap();
        assert!(head.contains(" 200 "), "{head}");
        Events(lines)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration that watches these ports.
pub fn config(ports: &[(u16, &str)]) -> String {
    let mut text = String::new();
    for (port, more) in ports {
        let _ = writeln!(text, "[[watch]]\nport = {port}\n{more}");
    }
    text
}

/// A folder that everybody can reach.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn spawn(folder: &Path) -> Child {
    command(folder).spawn().unwrap()
}

fn command(folder: &Path) -> Command {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(programs().join("gatewatch"));
    command.arg("agent").arg("--config").arg(folder.join("config.toml"));
    command.arg("--socket").arg(folder.join("agent.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Only this thread: the kernel knows credentials by thread, and the C library's calls would change all.
fn become_nobody() {
    let call = |number: libc::c_long, a: u32, b: u32, c: u32| {
        // SAFETY: these system calls take numbers; setgroups, a count of zero and a null pointer.
        assert_eq!(unsafe { libc::syscall(number, u64::from(a), u64::from(b), u64::from(c)) }, 0);
    };
    call(libc::SYS_setgroups, 0, 0, 0);
    call(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY);
    call(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
}

/// What the agent answered.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The head.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

struct Call(UnixStream);

impl Call {
    fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(mut self, method: &str, path: &str, body: &str) -> Reply {
        let length = body.len();
        // An agent that has heard enough closes while we still write.
        let _ = write!(
            self.0,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut text = Vec::new();
        let _ = self.0.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// Lines of the event stream.
pub struct Events(BufReader<UnixStream>);

impl Events {
    /// The next line.
    ///
    /// # Panics
    /// When none comes.
    pub fn line(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            // Between the lines are the head, and the lengths of the chunks that they come in.
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    /// The lines up to the first of this event, which is the last.
    pub fn up_to(&mut self, event: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &Value| line["event"] != event) {
            lines.push(self.line());
        }
        lines
    }
}

/// Has a service manager's variables and socket given to an agent: what it says to the manager comes back.
pub struct Managed {
    child: Child,
    notices: std::os::unix::net::UnixDatagram,
    folder: TempDir,
}

impl Managed {
    /// Starts an agent that is given its socket, and asked for signs of life.
    ///
    /// # Panics
    /// When it can't be.
    pub fn start(config: &str) -> Self {
        use std::os::fd::AsRawFd;
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let notices = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("given.sock")).unwrap();
        let fd = listener.as_raw_fd();
        let mut command = Command::new("bash");
        // The manager's protocol names the pid that the descriptor is for.
        command.args(["-c", "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$0\" \"$@\""]);
        command
            .arg(programs().join("gatewatch"))
            .arg("agent")
            .arg("--config")
            .arg(folder.path().join("config.toml"));
        command.env("LISTEN_FDS", "1").env("WATCHDOG_USEC", "100000");
        command.env("NOTIFY_SOCKET", folder.path().join("notify")).stderr(Stdio::null());
        let take_third = move || nix::errno::Errno::result(dup_to_third(fd)).map(drop).map_err(Into::into);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(take_third) };
        let child = command.spawn().unwrap();
        Self { child, notices, folder }
    }

    /// Waits for a notice that contains this.
    ///
    /// # Panics
    /// When none comes.
    pub fn notice(&self, text: &str) -> String {
        loop {
            let mut notice = [0; 512];
            let length = self.notices.recv(&mut notice).unwrap();
            let notice = String::from_utf8_lossy(&notice[..length]).into_owned();
            if notice.contains(text) {
                return notice;
            }
        }
    }

    /// A request on the socket that it was given.
    pub fn get(&self, path: &str) -> Reply {
        Call::new(&self.folder.path().join("given.sock")).send("GET", path, "")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dup_to_third(fd: i32) -> i32 {
    // SAFETY: takes two numbers.
    unsafe { libc::dup2(fd, 3) }
}
