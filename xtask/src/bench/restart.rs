//! `restart`: for how long nobody has the port, beside what the new server itself needs to listen.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Gatewatch, Watch, program};
use serde_json::Value;

use super::{LSOF_AND_KILL, Samples, gatewatch, monotonic};
use crate::debian;

const PORT: u16 = 18_792;

/// How long a server takes to start, besides its program's own start, and how often it is restarted.
const SERVERS: [(&str, &str, usize); 3] = [("0 ms", "0", 60), ("20 ms", "0.02", 60), ("300 ms", "0.3", 15)];

pub(super) fn run() -> Result<()> {
    debian::install(&[("lsof", "lsof")])?;
    println!("restart: from the old server's release of the port until the new one listens");
    let mut watch =
        Gatewatch::new(&["watch", "--backend", "ebpf", "--format", "json", "-p", &PORT.to_string()]).watch();
    for (name, delay, rounds) in SERVERS {
        println!("  a server that takes {name} to start, beside its program's own start");
        let server = server(delay);
        let port = PORT.to_string();
        let restart = |more: &[&str]| {
            let mut command = gatewatch(&["restart", "-p", &port]);
            command.args(more).arg("--").args(&server);
            command
        };
        let by_hand = || {
            let mut command = Command::new("bash");
            command
                .args(["-c", &format!("{LSOF_AND_KILL}\"$@\" &"), &port])
                .args(&server)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            command.stderr(Stdio::null());
            command
        };
        let mut samples: [Samples; 4] = Default::default();
        for _ in 0..rounds {
            samples[0].push(alone(&server, &mut watch)?);
            let ways = [restart(&["--until", "released"]), restart(&[]), by_hand()];
            for (samples, mut way) in samples[1..].iter_mut().zip(ways) {
                way.status().with_context(|| format!("{way:?} can't be run"))?;
                samples.push(downtime(&mut watch)?);
            }
            end(&mut watch)?;
        }
        let [alone, released, gone, by_hand] = samples;
        alone.print("the server alone: from its start", None);
        released.print("gatewatch restart --until released", Some(("alone", &alone)));
        gone.print("gatewatch restart", Some(("alone", &alone)));
        by_hand.print("lsof, kill, lsof each 50 ms", Some(("alone", &alone)));
        let above = released.p50().as_secs_f64() - alone.p50().as_secs_f64();
        println!("  above the server's own time: {:.2} ms with --until released", above * 1e3);
    }
    Ok(())
}

/// A gateway that obeys, and goes on when whoever started it has ended.
fn server(delay: &str) -> Vec<String> {
    let actor = program("actor");
    let script = format!(r#"sleep {delay}; exec -a openclaw-gateway "$0" --stay --on 127.0.0.1:{PORT}"#);
    ["bash", "-c", &script, &Path::to_string_lossy(&actor)].map(str::to_owned).to_vec()
}

/// Starts the server where nobody has the port: the time until it listens.
fn alone(server: &[String], watch: &mut Watch) -> Result<Duration> {
    let begun = monotonic();
    let mut command = Command::new(&server[0]);
    command.args(&server[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Whoever ends it is waited for by nobody else, as under gatewatch.
    let mut child = command.spawn()?;
    std::thread::spawn(move || child.wait());
    let listens = watch.up_to("listen");
    Ok(at(listens.last())?.saturating_sub(begun))
}

/// How long nobody had the port, in the restart that was just done.
fn downtime(watch: &mut Watch) -> Result<Duration> {
    let freed = at(watch.up_to("free").last())?;
    Ok(at(watch.up_to("listen").last())?.saturating_sub(freed))
}

fn end(watch: &mut Watch) -> Result<()> {
    let status = gatewatch(&["clean", "-p", &PORT.to_string()]).status()?;
    ensure!(status.success(), "the last server can't be ended");
    watch.up_to("free");
    Ok(())
}

/// When the line's event happened, by the kernel.
fn at(line: Option<&Value>) -> Result<Duration> {
    let stamp = line.and_then(|line| line["monotonic_ns"].as_u64()).context("the event has no timestamp")?;
    Ok(Duration::from_nanos(stamp))
}
