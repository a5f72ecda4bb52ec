//! A real agent, and requests to it as a program would make them.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Gatewatch, Journal, patience, programs, until};

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// A running agent. It ends when this is dropped.
pub struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    /// Starts one that watches these ports, each with more lines for its `[[watch]]`, and waits until it answers.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn watching(ports: &[(u16, &str)]) -> Self {
        Self::with(&config(ports))
    }

    /// Starts one with this configuration.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn with(config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let child = spawn(folder.path());
        let agent = Self { child, folder };
        agent.wait_until_ready();
        agent
    }

    /// Like [`Self::watching`], without a part of the kernel program.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn without(part: &str, ports: &[(u16, &str)]) -> Self {
        Self::with_and_without(&config(ports), part)
    }

    /// Like [`Self::with`], without a part of the kernel program.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn with_and_without(config: &str, part: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let child = command(folder.path()).env("GATEWATCH_WITHOUT", part).spawn().unwrap();
        let agent = Self { child, folder };
        agent.wait_until_ready();
        agent
    }

    /// Like [`Self::with`], started with these limits of descriptors.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn with_descriptors(now: u64, most: u64, config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let mut command = command(folder.path());
        let limit =
            move || nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, now, most);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(move || limit().map_err(Into::into)) };
        let agent = Self { child: command.spawn().unwrap(), folder };
        agent.wait_until_ready();
        agent
    }

    /// Like [`Self::with`], started as a service whose standard error is the journal's; `leads_there` is false for one that was
    /// given another since.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn in_journal(config: &str, leads_there: bool) -> (Self, Journal) {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let journal = Journal::beside(folder.path());
        let plain = command(folder.path());
        let log = fs::metadata(folder.path().join("log")).unwrap();
        let inode = log.ino() + u64::from(!leads_there);
        let mut command = Journal::seen_by(folder.path());
        command.arg(plain.get_program()).args(plain.get_args());
        command.env("JOURNAL_STREAM", format!("{}:{inode}", log.dev())).stdin(Stdio::null());
        command.stderr(fs::File::options().append(true).open(folder.path().join("log")).unwrap());
        let agent = Self { child: command.spawn().unwrap(), folder };
        agent.wait_until_ready();
        (agent, journal)
    }

    /// Like [`Self::with`], run by the user `nobody`.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn as_nobody_with(config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let child = command(folder.path()).uid(NOBODY).gid(NOBODY).spawn().unwrap();
        let agent = Self { child, folder };
        agent.wait_until_ready();
        agent
    }

    /// Like [`Self::with`], as root with these capabilities and no others, as a container is started.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn with_capabilities(capabilities: &[String], config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let plain = command(folder.path());
        let bounding: String =
            capabilities.iter().map(|capability| format!(",+{}", capability.to_lowercase())).collect();
        let mut outer = Command::new("setpriv");
        outer.arg(format!("--bounding-set=-all{bounding}")).args(["--inh-caps=-all", "--no-new-privs", "--"]);
        outer.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        outer.stderr(fs::File::options().append(true).open(folder.path().join("log")).unwrap());
        let agent = Self { child: outer.spawn().unwrap(), folder };
        agent.wait_until_ready();
        agent
    }

    /// Waits until it answers.
    ///
    /// # Panics
    /// When it never does.
    pub fn wait_until_ready(&self) {
        until("the agent answers", || {
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

    /// Changes its configuration and makes it reload.
    ///
    /// # Panics
    /// When that fails.
    pub fn reconfigure(&self, config: &str) {
        fs::write(self.config(), config).unwrap();
        self.signal(Signal::SIGHUP);
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
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
    /// When that fails.
    pub fn replace(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(self.folder.path());
        self.wait_until_ready();
    }

    /// Its log.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A command that asks only this agent.
    pub fn ask(&self, command: &[&str], port: u16) -> Gatewatch {
        self.ask_in_json(command, &port.to_string())
    }

    /// Like [`Self::ask`], of a UDP port.
    pub fn ask_udp(&self, command: &[&str], port: u16) -> Gatewatch {
        self.ask_in_json(command, &format!("{port}/udp"))
    }

    fn ask_in_json(&self, command: &[&str], port: &str) -> Gatewatch {
        Gatewatch::new(command)
            .with(&["--agent", "only", "--socket", self.socket().to_str().unwrap()])
            .with(&["--format", "json", "-p", port])
    }

    /// Like [`Self::ask`], run to its end.
    pub fn answer(&self, command: &[&str], port: u16) -> Answer {
        self.ask(command, port).run()
    }

    /// A request without a body.
    pub fn get(&self, path: &str) -> Reply {
        Connection::new(&self.socket()).ask("GET", path, "")
    }

    /// What its history says, as lines of JSON.
    ///
    /// # Panics
    /// When it refuses.
    pub fn history(&self, query: &str) -> Vec<Value> {
        let reply = self.get(&format!("/v1/history?{query}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.lines()
    }

    /// A request with a body.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        Connection::new(&self.socket()).ask("POST", path, body)
    }

    /// A request by the user `nobody`.
    ///
    /// # Panics
    /// When the thread that makes it can't become that user.
    pub fn as_nobody(&self, method: &str, path: &str, body: &str) -> Reply {
        self.as_user(NOBODY, method, path, body)
    }

    /// A request by any user.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn as_user(&self, uid: u32, method: &str, path: &str, body: &str) -> Reply {
        self.connect_as(uid).ask(method, path, body)
    }

    /// A connection that any user has made.
    ///
    /// # Panics
    /// When that can't be done.
    pub fn connect_as(&self, uid: u32) -> Connection {
        let socket = self.socket();
        as_user(uid, move || Connection::new(&socket))
    }

    /// A connection that a process of its own has made, which is prepared by `prepare`. Both have it. That process runs until it
    /// is killed, or its handle is dropped.
    ///
    /// # Panics
    /// When that can't be done.
    pub fn connect_by_child(&self, prepare: impl FnOnce(&mut Command)) -> (Connection, Child) {
        let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let address = socket2::SockAddr::unix(self.socket()).unwrap();
        let shared = stream.as_raw_fd();
        let connect = move || {
            // SAFETY: the address is read, and has this length.
            let connected = unsafe { libc::connect(shared, address.as_ptr().cast(), address.len()) };
            Errno::result(connected).map(drop).map_err(Into::into)
        };
        // It ends with its standard input.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        prepare(&mut command);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(connect) };
        let child = command.spawn().unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        (Connection(std::os::fd::OwnedFd::from(stream).into()), child)
    }

    /// Waits until this process is connected: the agent has a handle of it.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait_for_client(&self, client: u32) {
        let is_clients = |info: &str| {
            info.lines()
                .any(|line| line.strip_prefix("Pid:").is_some_and(|pid| pid.trim() == client.to_string()))
        };
        until("the process is connected to the agent", || {
            let Ok(entries) = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())) else { return false };
            entries
                .flatten()
                .any(|entry| fs::read_to_string(entry.path()).is_ok_and(|info| is_clients(&info)))
        });
    }

    /// Sets the limit of descriptors, as an administrator can while it runs.
    ///
    /// # Panics
    /// When that can't be done.
    pub fn limit_descriptors(&self, limit: u64) {
        let most = libc::rlimit { rlim_cur: limit, rlim_max: 4096 };
        let pid = self.child.id().try_into().unwrap();
        // SAFETY: the new limit is read, and the old one is not asked for.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const most, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    }

    /// The event stream.
    ///
    /// # Panics
    /// When it is refused.
    pub fn events(&self, query: &str) -> Events {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        write!(stream, "GET /v1/events?{query} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        lines.read_line(&mut head).unwrap();
        assert!(head.contains(" 200 "), "{head}");
        Events { lines, spinning: false }
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
///
/// # Panics
/// When it can't be made.
pub fn folder() -> TempDir {
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

/// Does something as another user.
///
/// # Panics
/// When the thread that does it can't become that user.
pub fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    let acting = || {
        become_user(uid);
        act()
    };
    std::thread::scope(|scope| scope.spawn(acting).join().unwrap())
}

/// This thread only: the libc wrappers would change every thread.
fn become_user(uid: u32) {
    let call = |number: libc::c_long, a: u32, b: u32, c: u32| {
        // SAFETY: these system calls take numbers; setgroups, a count of zero and a null pointer.
        assert_eq!(unsafe { libc::syscall(number, u64::from(a), u64::from(b), u64::from(c)) }, 0);
    };
    call(libc::SYS_setgroups, 0, 0, 0);
    call(libc::SYS_setresgid, uid, uid, uid);
    call(libc::SYS_setresuid, uid, uid, uid);
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
    /// When it isn't JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The body's lines of JSON, without HTTP's lengths of chunks between them.
    ///
    /// # Panics
    /// When one of them isn't JSON.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A connection to an agent, over which a client can also send what no client should.
pub struct Connection(UnixStream);

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        Self(stream)
    }

    /// Connects if there is room in the agent's queue.
    ///
    /// # Panics
    /// When no socket can be made.
    pub fn without_waiting(socket: &Path) -> Option<Self> {
        let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.connect(&socket2::SockAddr::unix(socket).unwrap()).ok()?;
        Some(Self(std::os::fd::OwnedFd::from(stream).into()))
    }

    /// Sends this text, whatever it means; false if the agent has closed the connection.
    pub fn write(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).is_ok()
    }

    /// Ends what is sent over it.
    pub fn say_no_more(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    /// Announces a body, and does not send it.
    pub fn withhold_body(&mut self, path: &str) -> bool {
        self.write(&format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"))
    }

    /// The answer to a request, after which the connection can be used again.
    ///
    /// # Panics
    /// When the answer breaks off.
    pub fn ask_and_stay(&mut self, path: &str) -> Reply {
        assert!(self.write(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")));
        let mut reader = BufReader::new(&self.0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap()];
        reader.read_exact(&mut body).unwrap();
        Reply::new(head.trim_end(), &String::from_utf8_lossy(&body))
    }

    /// Whether anything has come.
    pub fn has_answered(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.0.as_raw_fd(), &mut [0], flags) != Err(Errno::EAGAIN)
    }

    /// Whether the agent has closed the connection, whatever has come before.
    ///
    /// # Panics
    /// When the connection can't be asked.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).unwrap();
        fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// All that comes, until the agent closes the connection.
    pub fn rest(&mut self) -> Reply {
        let mut text = Vec::new();
        let _ = self.0.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Reply::new(head, body)
    }

    fn ask(mut self, method: &str, path: &str, body: &str) -> Reply {
        let length = body.len();
        // An agent that refuses a request may close the connection while we are still writing.
        self.write(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
        self.rest()
    }
}

impl Reply {
    fn new(head: &str, body: &str) -> Self {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// Lines of the event stream.
pub struct Events {
    lines: BufReader<UnixStream>,
    spinning: bool,
}

impl Events {
    /// From now on waits without sleeping; for benchmarks, because a reader that sleeps takes longer to wake up than
    /// what they measure.
    ///
    /// # Panics
    /// When the socket can't be set so.
    pub fn spin(&mut self) {
        self.lines.get_ref().set_nonblocking(true).unwrap();
        self.spinning = true;
    }

    /// The next line.
    ///
    /// # Panics
    /// When none comes.
    pub fn line(&mut self) -> Value {
        serde_json::from_str(&self.text_within(patience()).expect("the stream has ended, or sends nothing"))
            .unwrap()
    }

    /// The next line as it was sent; `None` if none comes within this time, or the stream has ended.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn text_within(&mut self, time: Duration) -> Option<String> {
        self.lines.get_ref().set_read_timeout(Some(time)).unwrap();
        let begun = Instant::now();
        let mut line = String::new();
        loop {
            match self.lines.read_line(&mut line) {
                Ok(0) => return None,
                // Between the events are HTTP's head and the lengths of its chunks.
                Ok(_) if line.starts_with('{') => return Some(line),
                Ok(_) => line.clear(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.spinning || begun.elapsed() > time {
                        return None;
                    }
                    std::hint::spin_loop();
                }
                Err(error) => panic!("the event stream can't be read: {error}"),
            }
        }
    }

    /// The lines up to the first of this event, inclusive.
    pub fn up_to(&mut self, event: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &Value| line["event"] != event) {
            lines.push(self.line());
        }
        lines
    }
}

/// An agent that is started as by a service manager, with its variables and a socket; its notices can be read.
pub struct Managed {
    child: Child,
    notices: std::os::unix::net::UnixDatagram,
    /// The manager's own: clients wait in its queue while there is no agent.
    listener: std::os::unix::net::UnixListener,
    folder: TempDir,
}

impl Managed {
    /// Starts an agent that is given its socket, and must notify that it is alive.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(config: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let notices = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notices.set_read_timeout(Some(patience())).unwrap();
        let socket = folder.path().join("given.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
        let child = Self::spawn(folder.path(), &listener);
        Self { child, notices, listener, folder }
    }

    fn spawn(folder: &Path, listener: &std::os::unix::net::UnixListener) -> Child {
        let fd = listener.as_raw_fd();
        let mut command = Command::new("bash");
        // The manager's protocol names the pid that the descriptor is for.
        command.args(["-c", "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$0\" \"$@\""]);
        command
            .arg(programs().join("gatewatch"))
            .arg("agent")
            .arg("--config")
            .arg(folder.join("config.toml"));
        command.env("LISTEN_FDS", "1").env("WATCHDOG_USEC", "100000");
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        command.env("NOTIFY_SOCKET", folder.join("notify")).stderr(log);
        let take_third = move || Errno::result(dup_to_third(fd)).map(drop).map_err(Into::into);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(take_third) };
        command.spawn().unwrap()
    }

    /// Ends it and starts another one, as an upgrade does.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn replace(&mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
        self.child = Self::spawn(self.folder.path(), &self.listener);
    }

    /// Its log, and that of those before it.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The socket that it was given.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("given.sock")
    }

    /// Changes its configuration.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn configure(&self, config: &str) {
        fs::write(self.folder.path().join("config.toml"), config).unwrap();
    }

    /// Fills the queue of notices, which nobody reads.
    ///
    /// # Panics
    /// When it can't be filled.
    pub fn stop_reading(&self) {
        let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let place = self.folder.path().join("notify");
        let error = loop {
            if let Err(error) = other.send_to(b"X=1", &place) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
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
        Connection::new(&self.socket()).ask("GET", path, "")
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
