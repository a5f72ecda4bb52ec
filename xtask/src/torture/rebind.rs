//! A look at the holders of a port holds nothing itself: a server that closes its listener gets the port again at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use gatewatch_tests::{Backend, Gatewatch, Part, unused_port};

use super::{Busy, Rounds};

/// How often a server binds in a round.
const BINDS: u64 = 5000;

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let _busy = Busy::begin();
    let asked = AtomicU64::new(0);
    let mut made = 0;
    while rounds.go_on() {
        rounds.round(|_| {
            made += BINDS;
            while_owners_are_asked_for(&asked)
        });
    }
    rounds.count("binds", made);
    rounds.count("answers", asked.into_inner());
    Ok(())
}

fn while_owners_are_asked_for(asked: &AtomicU64) -> Result<String> {
    let port = unused_port();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                Gatewatch::on(Backend::Ebpf, &["owners"], port).run();
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let churn = ["--churn", &BINDS.to_string(), "--churn-strictly"];
        let server = std::panic::catch_unwind(|| Part::other().on_port(port).with(&churn).start());
        is_over.store(true, Ordering::Relaxed);
        ensure!(server.is_ok(), "the port was not given back at once");
        Ok("servers that always got it".to_owned())
    })
}
