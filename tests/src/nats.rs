//! A real NATS server, and what its streams hold, read by its own protocol without any client library.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{folder, nats_server, patience, until, unused_port};

/// A running server, whose streams lie in a folder of its own. It ends when this is dropped.
pub struct NatsServer {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    monitor: u16,
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Message {
    /// What it is filed under.
    pub subject: String,
    /// By what the server knows a repeat.
    pub id: String,
    /// What it says.
    pub payload: Value,
}

impl NatsServer {
    /// One that has a place, and is not started yet.
    pub fn absent() -> Self {
        Self { child: None, folder: folder(), port: unused_port(), monitor: unused_port() }
    }

    /// Starts one.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start() -> Self {
        let mut server = Self::absent();
        server.start_again();
        server
    }

    /// Starts it where it was, with what it has on disk.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_again(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(nats_server());
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--http_port", &self.monitor.to_string(), "--jetstream", "--store_dir"]);
        command.arg(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        self.child = Some(command.spawn().unwrap());
        until("the NATS server answers", || {
            let Ok(mut connection) = self.try_connect() else { return false };
            connection.api("INFO", &json!({}))["error"].is_null()
        });
    }

    /// Kills it; what it has confirmed is on disk.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Its address, as a configuration has it.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// What its own page of this name says of its clients.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn page(&self, name: &str) -> Value {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.monitor)).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        write!(stream, "GET /{name} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Creates a stream with these settings, as an administrator does.
    ///
    /// # Panics
    /// When it refuses.
    pub fn create_stream(&self, name: &str, settings: &Value) {
        let answer = self.connect().api(&format!("STREAM.CREATE.{name}"), settings);
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// What it says of the stream's state; null if there is no such stream.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn state(&self, stream: &str) -> Value {
        self.connect().api(&format!("STREAM.INFO.{stream}"), &json!({}))["state"].take()
    }

    /// How many messages the stream has; `None` if there is no such stream.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn count(&self, stream: &str) -> Option<u64> {
        self.state(stream)["messages"].as_u64()
    }

    /// Whether the stream has a message under this subject. It costs the server little, unlike [`Self::messages`].
    ///
    /// # Panics
    /// When it does not answer.
    pub fn has(&self, stream: &str, subject: &str) -> bool {
        let filter = json!({"subjects_filter": subject});
        let answer = self.connect().api(&format!("STREAM.INFO.{stream}"), &filter);
        answer["state"]["subjects"][subject].is_u64()
    }

    /// All that the stream has, in its order; nothing if there is no such stream. It is for once in a while, because the server
    /// keeps what it makes for it some seconds: asked for without a pause, it has no time left to confirm anything.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn messages(&self, stream: &str) -> Vec<Message> {
        let Some(count) = self.count(stream) else { return Vec::new() };
        // Of each call its own: the server goes on for a while to send to whoever was there before.
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let here = format!("all.here.{}", CALLS.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect();
        connection.write(&format!("SUB {here} 2\r\n"));
        let consumer = json!({"stream_name": stream, "config": {
            "deliver_subject": here, "deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant"}});
        let mut answer = Value::Null;
        let mut messages = Vec::new();
        connection.ask(&format!("CONSUMER.CREATE.{stream}"), &consumer);
        while answer.is_null() || (messages.len() as u64) < count {
            let (subscription, message) = connection.message();
            if subscription == ANSWERS {
                answer = message.payload;
                assert!(answer["error"].is_null(), "{answer}");
            } else {
                messages.push(message);
            }
        }
        messages
    }

    fn connect(&self) -> Client {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> std::io::Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(patience()))?;
        let mut client = Client { lines: BufReader::new(stream) };
        let mut info = String::new();
        client.lines.read_line(&mut info)?;
        let options = json!({"verbose": false, "headers": true, "no_responders": true, "name": "test", "lang": "rust",
            "version": "0", "protocol": 1, "pedantic": false});
        client.write(&format!("CONNECT {options}\r\nSUB answers.here {ANSWERS}\r\n"));
        Ok(client)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The subscription to answers.
const ANSWERS: u64 = 1;

/// A connection of the test's own.
struct Client {
    lines: BufReader<TcpStream>,
}

impl Client {
    fn write(&mut self, text: &str) {
        self.lines.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// A request to JetStream, without waiting for its answer.
    fn ask(&mut self, what: &str, body: &Value) {
        let mut body = body.clone();
        if let Some(name) = what.strip_prefix("STREAM.CREATE.") {
            body["name"] = name.into();
        }
        let body = body.to_string();
        self.write(&format!("PUB $JS.API.{what} answers.here {}\r\n{body}\r\n", body.len()));
    }

    fn api(&mut self, what: &str, body: &Value) -> Value {
        self.ask(what, body);
        self.message().1.payload
    }

    /// The next message, and the subscription that it is for.
    fn message(&mut self) -> (u64, Message) {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.lines.read_line(&mut line).unwrap(),
                0,
                "the NATS server has closed the connection"
            );
            let words: Vec<&str> = line.split_whitespace().collect();
            let (head, total) = match words.as_slice() {
                ["PING"] => {
                    self.write("PONG\r\n");
                    continue;
                }
                ["MSG", .., total] => (0, total.parse::<usize>().unwrap()),
                ["HMSG", .., head, total] => {
                    (head.parse::<usize>().unwrap(), total.parse::<usize>().unwrap())
                }
                ["-ERR", ..] => panic!("the NATS server says {line}"),
                _ => continue,
            };
            let (subject, subscription) = (words[1].to_owned(), words[2].parse().unwrap());
            let mut bytes = vec![0; total + 2];
            self.lines.read_exact(&mut bytes).unwrap();
            let headers = String::from_utf8_lossy(&bytes[..head]).into_owned();
            let id = headers.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id:"));
            let id = id.unwrap_or_default().trim().to_owned();
            // Where nobody answers, there is no body.
            let payload = serde_json::from_slice(&bytes[head..total]).unwrap_or(json!({"error": headers}));
            return (subscription, Message { subject, id, payload });
        }
    }
}
