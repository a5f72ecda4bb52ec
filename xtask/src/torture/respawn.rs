//! A new owner takes the port the moment that it is free: it is never ended, and `cleaned` is never said without a bind
//! that succeeded.

use anyhow::{Result, ensure};
use gatewatch_tests::{Answer, Backend, Gatewatch, Part, unused_port};
use nix::sys::signal::{SigSet, Signal};

use super::pids::{Helper, listen};
use super::witness::{Seen, What, Witness};
use super::{Busy, Random, Rounds};

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let witness = Witness::begin();
    if let Err(error) = &witness {
        rounds.skip(&format!("the kernel's view of binds, because {error:#}"));
    }
    let witness = witness.ok();
    let _busy = Busy::begin();
    while rounds.go_on() {
        rounds.round(|random| {
            let backend = *random.of(&[Backend::Ebpf, Backend::Poll]);
            if random.chance() {
                by_a_spinning_heir(random, backend, witness.as_ref())
            } else {
                by_a_supervisor(backend, witness.as_ref())
            }
        });
    }
    Ok(())
}

fn clean(backend: Backend, port: u16, witness: Option<&Witness>) -> Result<Answer> {
    if let Some(witness) = witness {
        witness.seen()?;
    }
    let clean = Gatewatch::on(backend, &["clean"], port);
    let clean =
        clean.with(&["--term-timeout", "18s", "--kill-timeout", "15s", "--free-timeout", "15s"]).spawn();
    let pid = clean.pid();
    let answer = clean.finish();
    if let Some(witness) = witness
        && answer.status == 0
    {
        let own: Vec<What> = of(&witness.seen()?, pid);
        let signalled = own.iter().rposition(|what| matches!(what, What::Signalled(_)));
        let bound = own.iter().rposition(|what| *what == What::Bound);
        ensure!(
            signalled.is_some() && signalled < bound,
            "no bind succeeded after the last signal ({own:?}): {answer:?}"
        );
    }
    Ok(answer)
}

/// What this process did.
fn of(seen: &[Seen], pid: u32) -> Vec<What> {
    seen.iter().filter(|seen| seen.by == pid).map(|seen| seen.what).collect()
}

/// The heir tries to bind in a tight loop.
fn by_a_spinning_heir(random: &mut Random, backend: Backend, witness: Option<&Witness>) -> Result<String> {
    let port = unused_port();
    let ignores: &[&str] = if random.chance() { &[] } else { &["--on-term", "drain:5"] };
    let owner = Part::gateway().on_port(port).with(ignores).start();
    let heir = Helper::start("take-port", &port.to_string())?;
    ensure!(heir.line()? == "trying", "the heir does not begin");
    let answer = clean(backend, port, witness)?;
    ensure!(heir.line()? == "taken", "the heir can't take the port: {answer:?}");
    let outcome = answer.outcome();
    let said = matches!((answer.status, outcome.as_str()), (0, "cleaned") | (8, "respawned"));
    ensure!(said, "{answer:?}");
    ensure!(owner.is_gone(), "the owner is left: {answer:?}");
    ensure!(answer.killed() == [u64::from(owner.pid())], "{answer:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", heir.pid()))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default();
    let harmed = state.trim().starts_with('Z') || pending.trim().chars().any(|digit| digit != '0');
    ensure!(!harmed, "the heir was signalled ({state}, {pending}): {answer:?}");
    if answer.status == 8 {
        ensure!(answer.owner(heir.pid())["action"] == "spared", "{answer:?}");
    }
    Ok(format!("heir/{outcome}"))
}

/// The supervisor starts the next one when the last has ended.
fn by_a_supervisor(backend: Backend, witness: Option<&Witness>) -> Result<String> {
    let mut owner = Part::gateway()
        .on_port(unused_port())
        .with(&["--respawn", "--on-term", "drain:1", "--retries", "100"])
        .start();
    let answer = clean(backend, owner.port(), witness)?;
    let line = owner.line();
    let new: u32 = line.strip_prefix("respawned ").unwrap_or_default().parse()?;
    let outcome = answer.outcome();
    let said = matches!((answer.status, outcome.as_str()), (0, "cleaned") | (8, "respawned"));
    ensure!(said, "{answer:?}");
    ensure!(answer.killed() == [u64::from(owner.pid())], "{answer:?}");
    ensure!(gatewatch_tests::Life::of(new).ends_within(std::time::Duration::ZERO).eq(&false), "{answer:?}");
    if answer.status == 8 {
        ensure!(answer.owner(new)["action"] == "spared", "{answer:?}");
    }
    Ok(format!("supervisor/{outcome}"))
}

/// The task: takes a port, and keeps it until it is ended.
///
/// # Errors
/// When it can't.
pub(crate) fn take_port() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    // Blocked, so that a signal would stay and be seen.
    SigSet::from(Signal::SIGTERM).thread_block()?;
    println!("trying");
    let _taken = listen(line.trim().parse()?)?;
    println!("taken");
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}
