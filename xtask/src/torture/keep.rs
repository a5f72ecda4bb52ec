//! A restart that keeps listening refuses no connection, and resets none that was not accepted yet.

use anyhow::{Result, ensure};
use gatewatch_tests::{Backend, Clients, Gatewatch, Part, program, unused_port};

use super::{Busy, Rounds};

/// How many connections are answered between two restarts.
const CONNECTIONS: u32 = 500;

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let _busy = Busy::begin();
    let port = unused_port();
    let _first = Part::gateway().on_port(port).with(&["--answers"]).start();
    let clients = Clients::of(port);
    while rounds.go_on() {
        rounds.round(|_| {
            clients.until_answered(CONNECTIONS);
            restart(port)
        });
    }
    clients.until_answered(CONNECTIONS);
    let counts = clients.end();
    for (what, count) in [("answered", counts.answered), ("refused", counts.refused), ("reset", counts.reset)]
    {
        rounds.count(what, count.into());
    }
    let last = Gatewatch::on(Backend::Poll, &["clean", "--any"], port).run();
    ensure!(last.status == 0, "the last server does not end: {last:?}");
    ensure!((counts.refused, counts.reset) == (0, 0), "connections were lost: {counts:?}");
    Ok(())
}

fn restart(port: u16) -> Result<String> {
    let server = program("openclaw-gateway").display().to_string();
    let command = [&server, "--activated", "--answers", "--stay", "--live-for", "600000"];
    let restart = Gatewatch::on(Backend::Ebpf, &["restart", "--keep-listening"], port);
    let answer = restart.with(&["--"]).with(&command).run();
    let is_kept = answer.status == 0 && answer.json()["refused"] == 0;
    ensure!(is_kept, "the sockets were not taken over: {answer:?}");
    Ok("restarts".to_owned())
}
