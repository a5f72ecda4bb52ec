//! `clean` of an owner that obeys, whole process, against the floor.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Samples, gatewatch, gateway, wall};

const ROUNDS: usize = 60;
const PORT: u16 = 18_789;

pub(super) fn run() -> Result<()> {
    println!("clean: from the command's start until the port can be bound (owner obeys SIGTERM)");
    let (mut floor, mut events, mut poll) = (Samples::default(), Samples::default(), Samples::default());
    let (mut start, mut nobody) = (Samples::default(), Samples::default());
    let port = PORT.to_string();
    for _ in 0..ROUNDS {
        floor.push(the_floor());
        for (backend, samples) in [("ebpf", &mut events), ("poll", &mut poll)] {
            let gateway = gateway(PORT);
            samples.push(wall(gatewatch(&["clean", "-p", &port, "--backend", backend]))?);
            ensure!(can_bind(), "the port is still taken after a clean");
            drop(gateway);
        }
        nobody.push(wall(gatewatch(&["clean", "-p", &port]))?);
        start.push(wall(gatewatch(&["--version"]))?);
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

pub(super) fn the_floor() -> Duration {
    let gateway = gateway(PORT);
    let begun = Instant::now();
    gateway.ask_to_end();
    while !can_bind() {
        std::hint::spin_loop();
    }
    begun.elapsed()
}

pub(super) fn can_bind() -> bool {
    gatewatch_tests::can_bind((Ipv4Addr::LOCALHOST, PORT).into())
}
