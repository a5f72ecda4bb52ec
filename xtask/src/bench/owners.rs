//! `owners` against the tools that people use today.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::load::Load;
use super::{Samples, gatewatch, gateway, wall};

const PORT: u16 = 18_790;

pub(super) fn run() -> Result<()> {
    let _gateway = gateway(PORT);
    println!("owners: who holds a port, whole process, idle");
    compare(40)?;
    let load = Load::start()?;
    println!("owners: the same with 2000 processes and 20,000 sockets");
    compare(20)?;
    drop(load);
    Ok(())
}

fn compare(rounds: usize) -> Result<()> {
    let (port, filter) = (PORT.to_string(), format!("sport = :{PORT}"));
    let mut samples: [Samples; 5] = Default::default();
    for _ in 0..rounds {
        let commands = [
            gatewatch(&["owners", "-p", &port, "--backend", "ebpf"]),
            gatewatch(&["owners", "-p", &port, "--backend", "poll"]),
            quiet("ss", &["-Hltnp", &filter]),
            quiet("lsof", &["-nP", &format!("-iTCP:{PORT}"), "-sTCP:LISTEN"]),
            gatewatch(&["--version"]),
        ];
        for (samples, command) in samples.iter_mut().zip(commands) {
            samples.push(wall(command)?);
        }
    }
    let [events, poll, ss, lsof, start] = samples;
    let base = Some(("gatewatch owners", &events));
    events.print("gatewatch owners (kernel iterator)", None);
    poll.print("gatewatch owners --backend poll", base);
    ss.print("ss -Hltnp", base);
    lsof.print("lsof -iTCP", base);
    start.print("gatewatch --version: the process alone", None);
    Ok(())
}

fn quiet(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
