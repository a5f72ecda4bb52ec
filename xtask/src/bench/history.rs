//! The host agent while it follows every port and writes its history: what a thousand listens and closes a second cost.

use std::fs;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Agent, folder, until};
use nix::unistd::{SysconfVar, sysconf};

const A_SECOND: u32 = 1000;
const LASTING: Duration = Duration::from_secs(30);
const PORTS: u32 = 500;
const FIRST: u16 = 21_000;

pub(super) fn run() -> Result<()> {
    let none = measure("every port, no history", "")?;
    let folder = folder();
    let path = folder.path().join("history.sqlite");
    let config = format!("[history]\npath = {path:?}\n");
    let before = Instant::now();
    let agent = measure("every port, with a history", &config)?;
    drop(none);
    // Each makes a bind, a listen, a release and a free.
    let mut lines = 0;
    until("all of it is in the history", || {
        let told = agent.history(&format!("since={}s", before.elapsed().as_secs() + 1));
        let ours = told.iter().filter(|line| {
            let port = line["port"].as_u64().unwrap_or(0);
            (u64::from(FIRST)..u64::from(FIRST) + u64::from(PORTS)).contains(&port)
        });
        lines = ours.filter(|line| line["event"] == "release" || line["event"] == "listen").count();
        lines as u64 >= u64::from(2 * made())
    });
    let status = agent.get("/v1/status").json();
    ensure!(lines as u64 == u64::from(2 * made()), "{lines} records of {} listens and closes", made());
    ensure!(status["lost"] == 0, "{status}");
    let written: u64 = ["history.sqlite", "history.sqlite-wal"]
        .iter()
        .filter_map(|name| fs::metadata(folder.path().join(name)).ok())
        .map(|file| file.len())
        .sum();
    println!("  listens and releases recorded: {lines} of {}; lost: 0", 2 * made());
    println!("  bytes on disk, log included: {written}, {} a record", written / u64::from(4 * made()));
    let begun = Instant::now();
    agent.history(&format!("port={FIRST}&since=10m"));
    println!("  the history of one port: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn made() -> u32 {
    A_SECOND * u32::try_from(LASTING.as_secs()).unwrap_or(0)
}

/// An agent that has seen it all, and what that cost.
pub(super) fn measure(what: &str, config: &str) -> Result<Agent> {
    let agent = Agent::with(&format!("[agent]\nwatch = \"all\"\n{config}"));
    let before = cpu(&agent)?;
    let begun = Instant::now();
    for round in 0..made() {
        let port = FIRST + u16::try_from(round % PORTS)?;
        // Fails while anybody's look at the descriptors keeps the one before open.
        until("the port can be bound", || TcpListener::bind(("127.0.0.1", port)).is_ok());
        sleep((begun + Duration::from_secs(1) / A_SECOND * round).saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed();
    let used = cpu(&agent)?.saturating_sub(before);
    println!("agent: {A_SECOND} listens and closes a second for {took:.0?}; {what}");
    println!("  CPU of the agent: {:.1} % of one", used.as_secs_f64() / took.as_secs_f64() * 100.0);
    println!("  resident: {} kB", super::agent::status(&agent, "VmRSS")?);
    Ok(agent)
}

/// What an agent has used of the processors.
pub(super) fn cpu(agent: &Agent) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let (_, after) = text.rsplit_once(')').context("no name")?;
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    let per_second =
        sysconf(SysconfVar::CLK_TCK)?.and_then(|number| u64::try_from(number).ok()).unwrap_or(100);
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}
