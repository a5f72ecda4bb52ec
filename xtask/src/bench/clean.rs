//! `clean` of an owner that obeys, whole process, against the floor.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::{Programs, Samples, wall};

const ROUNDS: usize = 60;
const PORT: u16 = 18_789;

pub(super) fn run(programs: &Programs) -> Result<()> {
    println!("clean: from the command's start until the port can be bound (owner obeys SIGTERM)");
    let (mut floor, mut events, mut poll) = (Samples::default(), Samples::default(), Samples::default());
    let (mut start, mut nobody) = (Samples::default(), Samples::default());
    let port = PORT.to_string();
    for _ in 0..ROUNDS {
        floor.push(the_floor(programs)?);
        for (backend, samples) in [("ebpf", &mut events), ("poll", &mut poll)] {
            let gateway = programs.gateway(PORT)?;
            samples.push(wall(programs.gatewatch(&["clean", "-p", &port, "--backend", backend]))?);
            ensure!(can_bind(), "the port is still taken after a clean");
            drop(gateway);
        }
        nobody.push(wall(programs.gatewatch(&["clean", "-p", &port]))?);
        start.push(wall(programs.gatewatch(&["--version"]))?);
    }
    let base = Some(("the floor", &floor));
    floor.print("the floor: SIGTERM until a bind succeeds", None);
    events.print("gatewatch clean (kernel events)", base);
    poll.print("gatewatch clean --backend poll", base);
    nobody.print("gatewatch clean, nobody there", None);
    start.print("gatewatch --version: the process alone", None);
    println!("  above the floor: {:.1} ms", (events.p50().saturating_sub(floor.p50())).as_secs_f64() * 1e3);
    Ok(())
}

pub(super) fn the_floor(programs: &Programs) -> Result<Duration> {
    let gateway = programs.gateway(PORT)?;
    let begun = Instant::now();
    kill(gateway.pid(), Signal::SIGTERM)?;
    while !can_bind() {
        std::hint::spin_loop();
    }
    Ok(begun.elapsed())
}

pub(super) fn can_bind() -> bool {
    TcpListener::bind(("127.0.0.1", PORT)).is_ok()
}
