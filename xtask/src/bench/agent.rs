//! The host agent: queries, cleaning, events to subscribers, many clients at once, and doing nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::load::Load;
use super::{Programs, Samples, clean, monotonic, wall};

const PORT: u16 = 18_789;
const EVENTS_PORT: u16 = 18_794;
const SUBSCRIBERS: usize = 50;
const REQUESTS_A_SECOND: u32 = 100;
const BUSY: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(20);

/// An agent of the benchmark's own; it ends when this is dropped.
struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    fn start(programs: &Programs) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("gatewatch-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let config = folder.join("config.toml");
        fs::write(&config, format!("[[watch]]\nport = {PORT}\n[[watch]]\nport = {EVENTS_PORT}\n"))?;
        let (config, socket) =
            (config.display().to_string(), folder.join("agent.sock").display().to_string());
        let child = programs.gatewatch(&["agent", "--config", &config, "--socket", &socket]).spawn()?;
        let agent = Self { child, folder };
        let begun = Instant::now();
        while UnixStream::connect(agent.socket()).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "the agent does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(agent)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    fn ask(&self, programs: &Programs, command: &str) -> Command {
        let socket = self.socket().display().to_string();
        programs.gatewatch(&[command, "-p", &PORT.to_string(), "--agent", "only", "--socket", &socket])
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn events(&self) -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(self.socket())?;
        write!(stream, "GET /v1/events?port={EVENTS_PORT} HTTP/1.1\r\nhost: x\r\n\r\n")?;
        Ok(BufReader::new(stream))
    }

    /// A number of `/proc/PID/status`.
    fn status(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok(line.trim_start_matches(':').split_whitespace().next().context("a number")?.parse()?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The next line of the event stream that is an event; what lies between is HTTP's.
fn next_event(lines: &mut BufReader<UnixStream>) -> Result<Value> {
    loop {
        let mut line = String::new();
        ensure!(lines.read_line(&mut line)? > 0, "the event stream has ended");
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line)?);
        }
    }
}

pub(super) fn run(programs: &Programs) -> Result<()> {
    let agent = Agent::start(programs)?;
    idle(&agent)?;
    println!("agent: `owners` through it, whole process, idle");
    queries(programs, &agent, 60)?;
    let load = Load::start()?;
    println!("agent: the same with 2000 processes and 20,000 sockets");
    queries(programs, &agent, 40)?;
    drop(load);
    cleans(programs, &agent)?;
    events(&agent)?;
    busy(&agent)
}

fn queries(programs: &Programs, agent: &Agent, rounds: usize) -> Result<()> {
    let _gateway = programs.gateway(PORT)?;
    let (mut asked, mut start) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        asked.push(wall(agent.ask(programs, "owners"))?);
        start.push(wall(programs.gatewatch(&["--version"]))?);
    }
    asked.print("gatewatch owners --agent only", None);
    start.print("gatewatch --version: the process alone", None);
    let less = asked.p50().saturating_sub(start.p50());
    println!("  less the process's start: {:.2} ms", less.as_secs_f64() * 1e3);
    Ok(())
}

fn cleans(programs: &Programs, agent: &Agent) -> Result<()> {
    println!("agent: `clean` through it, whole process (owner obeys SIGTERM)");
    let (mut floor, mut asked) = (Samples::default(), Samples::default());
    for _ in 0..60 {
        floor.push(clean::the_floor(programs)?);
        let _gateway = programs.gateway(PORT)?;
        asked.push(wall(agent.ask(programs, "clean"))?);
        ensure!(clean::can_bind(), "the port is still taken after a clean");
    }
    floor.print("the floor: SIGTERM until a bind succeeds", None);
    asked.print("gatewatch clean --agent only", Some(("the floor", &floor)));
    println!("  above the floor: {:.1} ms", asked.p50().saturating_sub(floor.p50()).as_secs_f64() * 1e3);
    Ok(())
}

fn events(agent: &Agent) -> Result<()> {
    println!("agent: from the kernel's timestamp to a subscriber's socket");
    let mut lines = agent.events()?;
    while next_event(&mut lines)?["event"] != "ready" {}
    // A reader that sleeps would measure its own waking as well.
    lines.get_ref().set_nonblocking(true)?;
    let mut samples = Samples::default();
    let mut next = || -> Result<(Duration, Value)> {
        let mut line = String::new();
        loop {
            match lines.read_line(&mut line) {
                Ok(0) => anyhow::bail!("the event stream has ended"),
                Ok(_) if line.starts_with('{') => return Ok((monotonic(), serde_json::from_str(&line)?)),
                Ok(_) => line.clear(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
    };
    for _ in 0..500 {
        let listener = TcpListener::bind(("127.0.0.1", EVENTS_PORT))?;
        while next()?.1["event"] != "listen" {}
        std::thread::sleep(Duration::from_millis(1));
        drop(listener);
        let (at, line) = next()?;
        let stamped = line["monotonic_ns"].as_u64().context("a timestamp")?;
        samples.push(at.saturating_sub(Duration::from_nanos(stamped)));
        next()?;
    }
    samples.print("until the line can be read", None);
    Ok(())
}

fn busy(agent: &Agent) -> Result<()> {
    println!("agent: {SUBSCRIBERS} subscribers and {REQUESTS_A_SECOND} requests a second for {BUSY:?}");
    let before = agent.status("VmRSS")?;
    let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut answers, mut missed) = (Samples::default(), 0);
    std::thread::scope(|scope| -> Result<()> {
        let mut readers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let mut lines = agent.events()?;
            while next_event(&mut lines)?["event"] != "ready" {}
            lines.get_ref().set_read_timeout(Some(Duration::from_secs(2)))?;
            readers.push(scope.spawn(move || {
                let mut listens = 0u64;
                while let Ok(event) = next_event(&mut lines) {
                    listens += u64::from(event["event"] == "listen");
                }
                listens
            }));
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if TcpListener::bind(("127.0.0.1", EVENTS_PORT)).is_ok() {
                    made.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let begun = Instant::now();
        let mut due = begun;
        while begun.elapsed() < BUSY {
            let asked = Instant::now();
            let answer = agent.get(&format!("/v1/ports/{PORT}"))?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            answers.push(asked.elapsed());
            due += Duration::from_secs(1) / REQUESTS_A_SECOND;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            let seen = reader.join().unwrap_or(0);
            missed += made.load(Ordering::Relaxed).saturating_sub(seen);
        }
        Ok(())
    })?;
    answers.print("an owner query, connection included", None);
    println!(
        "  listens made: {}, times {SUBSCRIBERS} readers; missed: {missed}",
        made.load(Ordering::Relaxed)
    );
    println!("  resident: {before} kB before, {} kB after", agent.status("VmRSS")?);
    Ok(())
}

fn idle(agent: &Agent) -> Result<()> {
    println!("agent: idle for {IDLE:?}");
    let before = agent.status("voluntary_ctxt_switches")?;
    std::thread::sleep(IDLE);
    println!("  wake-ups: {}", agent.status("voluntary_ctxt_switches")? - before);
    println!("  resident: {} kB", agent.status("VmRSS")?);
    Ok(())
}
