//! The host agent: queries, cleaning, events to subscribers, many clients at once, and doing nothing.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Agent, Events};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::load::Load;
use super::{Samples, clean, gatewatch, gateway, monotonic, wall};

const PORT: u16 = 18_789;
const EVENTS_PORT: u16 = 18_794;
const SUBSCRIBERS: usize = 50;
const REQUESTS_A_SECOND: u32 = 100;
const BUSY: Duration = Duration::from_secs(60);
const CROWD: u16 = 1000;
const IDLE: Duration = Duration::from_secs(20);

/// A number of the agent's `/proc/PID/status`.
pub(super) fn status(agent: &Agent, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    Ok(line.trim_start_matches(':').split_whitespace().next().context("a number")?.parse()?)
}

/// The event stream, past its `ready`.
fn subscribe(agent: &Agent) -> Events {
    let mut events = agent.events(&format!("port={EVENTS_PORT}"));
    events.up_to("ready");
    events
}

pub(super) fn run() -> Result<()> {
    let agent = Agent::watching(&[(PORT, ""), (EVENTS_PORT, "")]);
    idle(&agent)?;
    println!("agent: `owners` through it, whole process, idle");
    queries(&agent, 60)?;
    let load = Load::start()?;
    println!("agent: the same with 2000 processes and 20,000 sockets");
    queries(&agent, 40)?;
    drop(load);
    cleans(&agent)?;
    events(&agent)?;
    busy(&agent)?;
    crowd()
}

fn queries(agent: &Agent, rounds: usize) -> Result<()> {
    let _gateway = gateway(PORT);
    let (mut asked, mut start) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        asked.push(wall(agent.ask(&["owners"], PORT).into_quiet_command())?);
        start.push(wall(gatewatch(&["--version"]))?);
    }
    asked.print("gatewatch owners --agent only", None);
    start.print("gatewatch --version: the process alone", None);
    let less = asked.p50().saturating_sub(start.p50());
    println!("  less the process's start: {:.2} ms", less.as_secs_f64() * 1e3);
    Ok(())
}

fn cleans(agent: &Agent) -> Result<()> {
    println!("agent: `clean` through it, whole process (owner obeys SIGTERM)");
    let (mut floor, mut asked) = (Samples::default(), Samples::default());
    for _ in 0..60 {
        floor.push(clean::the_floor());
        let _gateway = gateway(PORT);
        asked.push(wall(agent.ask(&["clean"], PORT).into_quiet_command())?);
        ensure!(clean::can_bind(), "the port is still taken after a clean");
    }
    floor.print("the floor: SIGTERM until a bind succeeds", None);
    asked.print("gatewatch clean --agent only", Some(("the floor", &floor)));
    println!("  above the floor: {:.1} ms", asked.p50().saturating_sub(floor.p50()).as_secs_f64() * 1e3);
    Ok(())
}

fn events(agent: &Agent) -> Result<()> {
    println!("agent: from the kernel's timestamp to a subscriber's socket");
    let mut events = subscribe(agent);
    events.spin();
    let mut samples = Samples::default();
    let mut next = || -> Result<(Duration, Value)> {
        let line = events.text_within(Duration::from_secs(20)).context("no event has come")?;
        Ok((monotonic(), serde_json::from_str(&line)?))
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
    let before = status(agent, "VmRSS")?;
    let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut answers, mut missed) = (Samples::default(), 0);
    std::thread::scope(|scope| -> Result<()> {
        let mut readers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            let mut events = subscribe(agent);
            readers.push(scope.spawn(move || {
                let mut listens = 0u64;
                while let Some(line) = events.text_within(Duration::from_secs(2)) {
                    let event: Value = serde_json::from_str(&line).unwrap_or_default();
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
            let answer = agent.get(&format!("/v1/ports/{PORT}"));
            ensure!(answer.status == 200, "{answer:?}");
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
    println!("  resident: {before} kB before, {} kB after", status(agent, "VmRSS")?);
    Ok(())
}

/// A thousand watched ports with a listener each, after more events than the ring holds.
fn crowd() -> Result<()> {
    println!("agent: {CROWD} watched ports, each with a listener");
    let first = 20_000;
    let ports = first..first + CROWD;
    let agent = Agent::watching(&ports.clone().map(|port| (port, "")).collect::<Vec<_>>());
    let mut listeners: Vec<TcpListener> =
        ports.skip(1).map(|port| TcpListener::bind(("127.0.0.1", port))).collect::<Result<_, _>>()?;
    let (mut right, mut known) = (Samples::default(), Samples::default());
    for _ in 0..10 {
        agent.signal(Signal::SIGSTOP);
        for _ in 0..3000 {
            // Fails while anybody's look at the descriptors keeps the one before open.
            drop(TcpListener::bind(("127.0.0.1", first)));
        }
        drop(listeners.pop());
        agent.signal(Signal::SIGCONT);
        let begun = Instant::now();
        let answer = agent.get("/v1/ports").json();
        right.push(begun.elapsed());
        let held = answer["ports"].as_array().context("ports")?.iter().filter(|port| port["held"] == true);
        ensure!(held.count() == listeners.len(), "what is known after a loss is wrong");
        let begun = Instant::now();
        agent.get("/v1/ports");
        known.push(begun.elapsed());
    }
    ensure!(agent.get("/v1/status").json()["lost"].as_u64() > Some(0), "no event was lost");
    known.print("/v1/ports from memory", None);
    right.print("/v1/ports after events were lost", None);
    Ok(())
}

fn idle(agent: &Agent) -> Result<()> {
    println!("agent: idle for {IDLE:?}");
    let before = status(agent, "voluntary_ctxt_switches")?;
    std::thread::sleep(IDLE);
    println!("  wake-ups: {}", status(agent, "voluntary_ctxt_switches")? - before);
    println!("  resident: {} kB", status(agent, "VmRSS")?);
    Ok(())
}
