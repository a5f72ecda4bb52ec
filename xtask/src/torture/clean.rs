//! `clean` of every kind of owner: never a busy port at status 0, and nobody but the owners is signalled.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{
    Actor, Agent, Answer, Backend, Gatewatch, Needs, Part, can_bind, have, send, unused_port,
};
use nix::sys::signal::Signal;

use super::witness::{What, Witness};
use super::{Busy, Random, Rounds};

/// Ports that are used again and again.
const PORTS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Obeys,
    Ignores,
    Drains,
    Workers,
    Passed,
    Orphan,
    ReusePort,
    DualStack,
    BoundOnly,
    DeadLeader,
    Memory,
    Suspended,
    LetsGo,
    Forks,
    Multipath,
}

const KINDS: &[Kind] = &[
    Kind::Obeys,
    Kind::Ignores,
    Kind::Drains,
    Kind::Workers,
    Kind::Passed,
    Kind::Orphan,
    Kind::ReusePort,
    Kind::DualStack,
    Kind::BoundOnly,
    Kind::DeadLeader,
    Kind::Memory,
    Kind::Suspended,
    Kind::LetsGo,
    Kind::Forks,
    Kind::Multipath,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Events,
    Polling,
    Agent,
}

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let kinds: Vec<Kind> = KINDS
        .iter()
        .copied()
        .filter(|&kind| kind != Kind::Multipath || have(Needs::Multipath).is_ok())
        .collect();
    let ports: Vec<u16> = (0..PORTS).map(|_| unused_port()).collect();
    let watched: Vec<(u16, &str)> = ports.iter().map(|&port| (port, "")).collect();
    // Before the agent, because it follows only what is started after it.
    let witness = Witness::begin();
    let agent = Agent::watching(&watched);
    // Of the same name, but with another port.
    let bystander = Part::gateway().on_port(unused_port()).start();
    match &witness {
        Ok(_) => rounds.count("kinds of owners", kinds.len() as u64),
        Err(error) => rounds.skip(&format!("the kernel's view of who was signalled, because {error:#}")),
    }
    let witness = witness.ok();
    let _busy = Busy::begin();
    while rounds.go_on() {
        rounds.round(|random| {
            let port = *random.of(&ports);
            let kind = *random.of(&kinds);
            let way = *random.of(&[Way::Events, Way::Polling, Way::Agent]);
            let scene = Scene { kind, way, port, agent: &agent };
            scene
                .play(random, &bystander, witness.as_ref())
                .with_context(|| format!("{kind:?} by {way:?} on port {port}"))
        });
    }
    Ok(())
}

struct Scene<'a> {
    kind: Kind,
    way: Way,
    port: u16,
    agent: &'a Agent,
}

impl Scene<'_> {
    fn play(&self, random: &mut Random, bystander: &Actor, witness: Option<&Witness>) -> Result<String> {
        let owners = self.owners(random);
        if self.kind == Kind::Suspended {
            send(owners[0].pid(), Signal::SIGSTOP);
        }
        if let Some(witness) = witness {
            witness.seen()?;
        }
        let clean = self.clean(random);
        let mut ancestor = None;
        let answer = if random.chance() {
            clean.run()
        } else {
            // The same as a descendant of another gateway, which holds a port of its own.
            let parent = Part::gateway().on_port(unused_port()).running(&clean.words());
            below(ancestor.insert(parent.start()))
        };
        // At once, before anything else.
        let free = self.addresses().into_iter().all(can_bind);
        let seen = witness.map(Witness::seen).transpose()?.unwrap_or_default();
        let outcome = answer.outcome();
        ensure!(answer.status != 0 || free, "the port is busy at status 0: {answer:?}");
        ensure!(bystander.is_alive(), "the bystander was ended: {answer:?}");
        ensure!(ancestor.as_ref().is_none_or(Actor::is_alive), "the ancestor was ended: {answer:?}");
        self.judge(&answer, &outcome, &owners)?;
        let mut may: Vec<u32> = owners.iter().flat_map(|owner| owner.pids.clone()).collect();
        if self.kind == Kind::Forks {
            // Its forks are known to the answer alone.
            may.extend(answer.killed().into_iter().filter_map(|pid| u32::try_from(pid).ok()));
        }
        let mut signals = 0;
        for signal in seen.iter().filter(|seen| seen.by != std::process::id()) {
            if let What::Signalled(pid) = signal.what {
                ensure!(may.contains(&pid), "{pid} was signalled by {}: {answer:?}", signal.by);
                signals += 1;
            }
        }
        let is_blind = witness.is_some() && outcome == "cleaned" && signals == 0;
        ensure!(!is_blind, "the kernel's tracing shows no signal: {answer:?}");
        Ok(format!("{:?}/{outcome}", self.way))
    }

    /// Those that hold the port.
    fn owners(&self, random: &mut Random) -> Vec<Actor> {
        let one = |arguments: &[&str]| vec![Part::gateway().on_port(self.port).with(arguments).start()];
        let number = |least: u64, most: u64, random: &mut Random| (least + random.below(most)).to_string();
        match self.kind {
            Kind::Obeys | Kind::Suspended => one(&[]),
            Kind::Ignores => one(&["--on-term", "ignore"]),
            Kind::Drains => one(&["--on-term", &format!("drain:{}", random.below(100))]),
            Kind::Workers => one(&["--workers", &number(1, 5, random)]),
            Kind::Passed => one(&["--pass"]),
            Kind::Orphan => one(&["--orphan"]),
            Kind::ReusePort => (0..2 + random.below(3)).flat_map(|_| one(&["--reuse-port"])).collect(),
            Kind::DualStack => one(&["--on", &format!("[::1]:{}", self.port)]),
            Kind::BoundOnly => one(&["--bound"]),
            Kind::DeadLeader => one(&["--dead-leader"]),
            Kind::Memory => one(&["--memory", &number(32, 128, random), "--on-term", "ignore"]),
            Kind::LetsGo => one(&["--on-term", "close"]),
            Kind::Forks => one(&["--on-term", "fork"]),
            Kind::Multipath => one(&["--multipath"]),
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut all = vec![SocketAddr::from(([127, 0, 0, 1], self.port))];
        if self.kind == Kind::DualStack {
            all.push(([0, 0, 0, 0, 0, 0, 0, 1], self.port).into());
        }
        all
    }

    fn clean(&self, random: &mut Random) -> Gatewatch {
        let clean = match self.way {
            Way::Events => Gatewatch::on(Backend::Ebpf, &["clean"], self.port),
            Way::Polling => Gatewatch::on(Backend::Poll, &["clean"], self.port),
            Way::Agent => self.agent.ask(&["clean"], self.port),
        };
        // Those that obey have all the time that a slow machine may need, and those that don't are asked for show.
        let term = match self.kind {
            Kind::Ignores | Kind::Memory => format!("{}ms", random.below(30)),
            Kind::LetsGo => "200ms".to_owned(),
            _ => "18s".to_owned(),
        };
        let free = if self.kind == Kind::BoundOnly && self.way == Way::Polling { "50ms" } else { "15s" };
        clean.with(&["--term-timeout", &term, "--kill-timeout", "15s", "--free-timeout", free])
    }

    fn judge(&self, answer: &Answer, outcome: &str, owners: &[Actor]) -> Result<()> {
        let killed = answer.killed();
        let signalled = |owner: &Actor| owner.pids.iter().all(|&pid| killed.contains(&pid.into()));
        if self.kind == Kind::BoundOnly && outcome == "unknown" {
            // Polling can't see such a socket.
            ensure!(self.way == Way::Polling && owners.iter().all(Actor::is_alive), "{answer:?}");
            return Ok(());
        }
        ensure!((answer.status, outcome) == (0, "cleaned"), "{answer:?}");
        if self.kind == Kind::LetsGo && !signalled(&owners[0]) {
            ensure!(owners[0].is_alive(), "it had let go, and was ended: {answer:?}");
        } else {
            ensure!(owners.iter().all(Actor::is_gone), "an owner is left: {answer:?}");
        }
        Ok(())
    }
}

/// The answer that a command gave below an actor.
pub(super) fn below(actor: &mut Actor) -> Answer {
    let out = actor.line();
    let status = actor.line();
    let status = status.strip_prefix("status ").and_then(|status| status.parse().ok()).unwrap_or(-1);
    Answer { status, out, err: String::new() }
}
