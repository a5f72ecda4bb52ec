//! A look at the holders of a port holds nothing itself: a server that closes its listener gets the port again at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use gatewatch_tests::{Backend, Gatewatch, Part, unused_port};

use super::{Busy, Rounds};

/// How many ask at once.
const ASKING: usize = 2;
/// How often a server binds in a round: by the kernel's own iterator over descriptors (`GATEWATCH_WITHOUT=loops`) some rounds
/// fail.
const BINDS: u64 = 50_000;

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
    let without = std::env::var("GATEWATCH_WITHOUT").unwrap_or_default();
    std::thread::scope(|scope| {
        for _ in 0..ASKING {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let owners = Gatewatch::on(Backend::Ebpf, &["owners"], port);
                    owners.env("GATEWATCH_WITHOUT", &without).run();
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let churn = ["--churn", &BINDS.to_string(), "--churn-strictly"];
        let server = std::panic::catch_unwind(|| Part::other().on_port(port).with(&churn).start());
        is_over.store(true, Ordering::Relaxed);
        ensure!(server.is_ok(), "the port was not given back at once");
        Ok("servers that always got it".to_owned())
    })
}
