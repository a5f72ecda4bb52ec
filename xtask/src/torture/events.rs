//! Events at full speed, with a reader that keeps up or stalls, while network namespaces come and go: where nothing is
//! told as lost, exactly what was done is seen; else what was seen and what was lost together are never more than that.
//!
//! They can be less. Beside a loss the release of a socket whose beginning was lost says nothing new, because it looks like
//! that of a connection that was never accepted. How many are missing so is printed.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, bail, ensure};
use gatewatch_tests::{Agent, Backend, Gatewatch, Part, patience, send, unused_port};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use serde_json::Value;

use super::{Random, Rounds};

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let mut totals = Totals::default();
    while rounds.go_on() {
        rounds.round(|random| {
            let scene = Scene {
                agent: random.chance(),
                stalls: random.chance(),
                namespaces: random.chance(),
                sockets: 1 + random.below(3000),
            };
            scene.play(random, &mut totals).map_err(|error| error.context(format!("{scene:?}")))
        });
    }
    rounds.count("events made", totals.made);
    rounds.count("seen", totals.seen);
    rounds.count("told as lost", totals.lost);
    rounds.count("losses", totals.losses);
    rounds.count("missing beside a loss", totals.missing);
    Ok(())
}

#[derive(Default)]
struct Totals {
    made: u64,
    seen: u64,
    lost: u64,
    losses: u64,
    missing: u64,
}

/// How many listens show that all has been told.
const LISTENS: u64 = 3;

#[derive(Debug)]
struct Scene {
    /// Read from the agent's stream; else from `watch`.
    agent: bool,
    /// Whoever reads the kernel's ring is suspended at times.
    stalls: bool,
    namespaces: bool,
    sockets: u64,
}

impl Scene {
    fn play(&self, random: &mut Random, totals: &mut Totals) -> Result<String> {
        let [port, last] = [(); 2].map(|()| unused_port());
        if self.agent {
            let agent = Agent::watching(&[(port, ""), (last, "")]);
            let netns = std::fs::metadata("/proc/self/ns/net")?.ino();
            let mut events = agent.events(&format!("port={port}&port={last}&netns={netns}"));
            let next = || events.text_within(patience()).and_then(|line| serde_json::from_str(&line).ok());
            self.count(random, agent.pid(), port, last, next, totals)?;
        } else {
            let watch = Gatewatch::on(Backend::Ebpf, &["watch"], port).with(&["-p", &last.to_string()]);
            let mut watch = watch.watch();
            let pid = watch.pid();
            let next = || catch_unwind(AssertUnwindSafe(|| watch.line())).ok();
            self.count(random, pid, port, last, next, totals)?;
        }
        let who = if self.agent { "by the agent" } else { "by watch" };
        Ok(format!("{who}{}", if self.stalls { ", stalled" } else { "" }))
    }

    /// Makes events and counts them on both sides.
    fn count(
        &self,
        random: &mut Random,
        reader: u32,
        port: u16,
        last: u16,
        mut next: impl FnMut() -> Option<Value>,
        totals: &mut Totals,
    ) -> Result<()> {
        let namespaces = self.namespaces.then(|| Namespaces::begin(port));
        let mut made: u64 = 0;
        let mut left = self.sockets;
        while left > 0 {
            let some = 1 + random.below(left);
            left -= some;
            let stalls = self.stalls && random.chance();
            if stalls {
                send(reader, Signal::SIGSTOP);
            }
            let done = make(random, port, some);
            if stalls {
                send(reader, Signal::SIGCONT);
            }
            made += done?;
        }
        // A fork for them holds copies of our sockets for a moment: no release is to come later than what follows.
        drop(namespaces);
        // A listen that is seen shows that no event from before it is to come. What was lost is told when the kernel's ring has
        // been emptied: by the last of several listens, each made when the one before it was seen.
        let mut listener = hold(last)?;
        made += 2;
        let (mut seen, mut lost, mut losses) = (0, 0, 0);
        let (mut lines, mut sockets) = (Vec::new(), Sockets::default());
        let mut listens = 0;
        while listens < LISTENS || (losses == 0 && seen + lost < made) {
            let Some(line) = next() else {
                let odd = sockets.odd();
                bail!(
                    "{made} events, {seen} seen, {lost} lost, and no more lines; odd: {odd}; the last: {lines:?}"
                );
            };
            sockets.note(&line);
            match line["event"].as_str() {
                Some("bind" | "listen" | "release" | "conflict") => seen += 1,
                Some("lost") => {
                    losses += 1;
                    lost += line["count"].as_u64().unwrap_or(0);
                }
                _ => {}
            }
            let address = line["address"].as_str().unwrap_or_default();
            if address.ends_with(&format!(":{last}")) {
                listens += u64::from(line["event"] == "listen");
                // Where it is held, it was lost as well.
                if line["event"] == "held" || line["event"] == "listen" && listens < LISTENS {
                    drop(listener);
                    listener = hold(last)?;
                    made += 3;
                }
            }
            lines.push(line.to_string());
            lines.drain(..lines.len().saturating_sub(8));
        }
        drop(listener);
        // The agent follows all namespaces, and what the kernel lost could be anybody's.
        let others = self.agent && self.namespaces && losses > 0;
        let missing = if others { Some(0) } else { made.checked_sub(seen + lost) };
        ensure!(
            missing.is_some_and(|missing| missing == 0 || losses > 0),
            "{made} events, {seen} seen, {lost} lost in {losses} losses; the last: {lines:?}"
        );
        totals.made += made;
        totals.seen += seen;
        totals.lost += lost;
        totals.losses += losses;
        totals.missing += missing.unwrap_or(0);
        Ok(())
    }
}

/// What was told of each socket, to find the one of which a line is missing.
#[derive(Default)]
struct Sockets(BTreeMap<String, Vec<String>>);

impl Sockets {
    fn note(&mut self, line: &Value) {
        if let (Some(socket), Some(event)) = (line["socket"].as_str(), line["event"].as_str()) {
            let at = line["monotonic_ns"].as_u64().unwrap_or_default();
            self.0.entry(socket.to_owned()).or_default().push(format!("{event} at {at}"));
        }
    }

    /// Those that did not bind first and go last, or did either twice.
    fn odd(&self) -> String {
        let is = |text: &String, event: &str| text.starts_with(event);
        let is_odd = |told: &&Vec<String>| {
            let times = |event| told.iter().filter(|text| is(text, event)).count();
            let (first, last) = (told.first(), told.last());
            times("bind") != 1
                || times("release") != 1
                || !first.is_some_and(|text| is(text, "bind"))
                || !last.is_some_and(|text| is(text, "release"))
        };
        let odd: Vec<String> = self
            .0
            .iter()
            .filter(|(_, told)| is_odd(told))
            .map(|(socket, told)| format!("{socket}: {}", told.join(", ")))
            .take(20)
            .collect();
        odd.join("; ")
    }
}

/// Binds, listens, and closes again; how many events that made, failed binds included.
fn make(random: &mut Random, port: u16, sockets: u64) -> Result<u64> {
    let mut made = 0;
    for _ in 0..sockets {
        let mut open: Vec<OwnedFd> = Vec::new();
        // A second one is in the way of the first, or they share the port while neither listens.
        for _ in 0..1 + random.below(2) {
            let socket = new_socket()?;
            made += 1;
            if !done(bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)))? {
                continue;
            }
            // Its release.
            made += 1;
            if random.chance() {
                // A listen that fails is a conflict.
                made += 1;
                done(listen(&socket, Backlog::new(16)?))?;
            }
            open.push(socket);
        }
    }
    Ok(made)
}

/// Whether it was done, or failed because the address is in use.
fn done(result: nix::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EADDRINUSE) => Ok(false),
        Err(error) => bail!("a socket can't be used: {error}"),
    }
}

/// A listener.
fn hold(port: u16) -> Result<OwnedFd> {
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

fn new_socket() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    Ok(socket)
}

/// Network namespaces that come and go, in each of which the same port is used.
struct Namespaces {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Namespaces {
    fn begin(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let there = Part::other().on(([0, 0, 0, 0], port).into()).with(&["--churn", "10"]);
                drop(there.in_own_network().try_to_start());
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
