//! The host agent.

mod costs;
mod crowds;
mod detached;
mod ending;
mod events;
mod export;
mod false_agents;
mod guard;
mod history;
mod hostile_clients;
mod journal;
mod life;
mod losses;
mod metrics;
mod past;
mod safe_start;
mod serving;
mod udp;
mod upgrade;

use std::fs;
use std::path::Path;

use gatewatch_tests::Gatewatch;

/// What a check says of a configuration with these lines.
fn check(place: &Path, lines: &str) -> (i32, String) {
    let file = place.join("config.toml");
    fs::write(&file, lines).unwrap();
    let answer = Gatewatch::plain(&["agent", "--check-config", "--config", file.to_str().unwrap()]);
    (answer.status, answer.err)
}
