//! The host agent while it exports what happens to a real NATS server: what that costs, how fast it catches up after the
//! server was away, and how long a message is.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Agent, NatsServer, folder, nats_server, until};

use super::history::{cpu, measure};

const STREAM: &str = "gatewatch";

pub(super) fn run() -> Result<()> {
    ensure!(nats_server().exists(), "there is no NATS server: `cargo xtask test` fetches one");
    // After a server was away for long, the agent tries again every 30 s only.
    gatewatch_tests::be_more_patient(6);
    let mut server = NatsServer::start();
    let folder = folder();
    let config = format!(
        "[history]\npath = {:?}\n[export.nats]\nurl = {:?}\ncreate_stream = {{}}\n",
        folder.path().join("history.sqlite"),
        server.url()
    );
    let agent = measure("every port, with a history and an export", &config)?;
    let begun = Instant::now();
    until("all is sent", || waiting(&agent) == Some(0));
    println!("  the rest was sent after {:.1} s", begun.elapsed().as_secs_f64());
    let mut lengths: Vec<usize> =
        server.messages(STREAM).iter().map(|message| message.payload.to_string().len()).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).context("nothing arrived")?;
    let state = server.state(STREAM);
    let count = state["messages"].as_u64().context("the stream has no count")?;
    let bytes = state["bytes"].as_u64().context("the stream has no size")?;
    println!(
        "  messages: {count}; JSON of one: {median} bytes (median); in the stream: {} each",
        bytes / count
    );
    // The server is away while as much happens again.
    server.kill();
    drop(agent);
    let agent = measure("the same, and the server is away", &config)?;
    let waited = waiting(&agent).context("nothing waits")?;
    let before = cpu(&agent)?;
    server.start_again();
    let sent = || metric(&agent, "gatewatch_export_sent_total").unwrap_or(0);
    until("it is connected again", || sent() > 0);
    let begun = (Instant::now(), sent());
    until("all is sent", || waiting(&agent) == Some(0));
    let took = begun.0.elapsed();
    let rate = (sent() - begun.1) as f64 / took.as_secs_f64();
    let used = cpu(&agent)?.saturating_sub(before);
    println!("  {waited} events that waited are sent: {rate:.0} a second, for {took:.1?}");
    println!("  CPU of the agent: {:.0} µs an event", used.as_secs_f64() * 1e6 / sent().max(1) as f64);
    let dropped = metric(&agent, "gatewatch_export_dropped_total");
    ensure!(dropped == Some(0), "{dropped:?} events were dropped");
    Ok(())
}

fn waiting(agent: &Agent) -> Option<u64> {
    metric(agent, "gatewatch_export_waiting_events")
}

fn metric(agent: &Agent, name: &str) -> Option<u64> {
    let metrics = agent.get("/metrics").body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
