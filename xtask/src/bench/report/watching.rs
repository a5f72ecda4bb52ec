//! How soon a watch begins, and how soon it tells of a release, beside a one-liner of bpftrace.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contest::{Figures, How, Rounds, Trial, Way, in_turns, quiet};
use crate::bench::gatewatch;

const PORT: u16 = 18_791;
/// How often each is started, and how many releases it tells of each time.
const STARTS: usize = 10;
const RELEASES: usize = 20;
/// Longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(20);

const GATEWATCH: Way = Way {
    name: "`gatewatch watch`",
    label: "gatewatch",
    how: How::Command(|_| {
        let port = PORT.to_string();
        Ok(gatewatch(&["watch", "-p", &port, "--backend", "ebpf", "--format", "json"]))
    }),
};
const BPFTRACE: Way = Way {
    name: "`bpftrace`, a one-liner on `inet_sock_set_state`",
    label: "bpftrace",
    how: How::Command(|_| {
        let probe = "tracepoint:sock:inet_sock_set_state";
        let line = format!(
            "{probe} /args->sport == {PORT} && args->newstate == 10/ {{ printf(\"listen\\n\") }} \
             {probe} /args->sport == {PORT} && args->oldstate == 10/ {{ printf(\"release\\n\") }}"
        );
        Ok(quiet("bpftrace", &["-q", "-B", "line", "-e", &line]))
    }),
};

/// Both figures.
pub(super) struct Watching {
    pub(super) begins: Vec<Figures>,
    pub(super) tells: Vec<Figures>,
}

/// Measures both in turns.
///
/// # Errors
/// When one can't be run, or misses an event.
pub(super) fn measure() -> Result<Watching> {
    let place = super::Place::idle();
    let ways = [&GATEWATCH, &BPFTRACE];
    let rounds = Rounds { most: STARTS, budget_s: 30.0 };
    let begins = in_turns(&ways, rounds, |way| {
        let How::Command(command) = way.how else { bail!("a watch is a command") };
        let (_watch, took) = Watch::start(command(&place)?)?;
        Ok(trial(took))
    })?;
    // Those that run all the time are asked in turns as well.
    let mut watches = Vec::new();
    for way in ways {
        let How::Command(command) = way.how else { bail!("a watch is a command") };
        watches.push((way.name, Watch::start(command(&place)?)?.0));
    }
    let rounds = Rounds { most: STARTS * RELEASES, budget_s: 30.0 };
    let tells = in_turns(&ways, rounds, |way| {
        let (_, watch) = watches.iter_mut().find(|(name, _)| *name == way.name).context("a watch")?;
        let took = watch.release()?;
        // The other one has told of it too.
        sleep(Duration::from_millis(3));
        watches.iter().for_each(|(_, watch)| while watch.lines.try_recv().is_ok() {});
        Ok(trial(took))
    })?;
    Ok(Watching { begins, tells })
}

fn trial(took: Duration) -> Trial {
    Trial { took: Some(took), was_early: false }
}

/// A watch that runs; it ends when this is dropped.
struct Watch {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Watch {
    /// Starts it: the time until it tells of a listener, while one comes and goes each millisecond.
    fn start(mut command: Command) -> Result<(Self, Duration)> {
        sleep(Duration::from_millis(40));
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("piped")?);
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let watch = Self { child, lines };
        while begun.elapsed() < PATIENCE {
            // Fails while a look at the descriptors keeps the one before open.
            drop(TcpListener::bind(("127.0.0.1", PORT)));
            sleep(Duration::from_millis(1));
            while let Ok((at, line)) = watch.lines.try_recv() {
                if line.contains("listen") {
                    return Ok((watch, at - begun));
                }
            }
        }
        bail!("{command:?} tells of nothing")
    }

    /// The time from a release until it can be read.
    fn release(&self) -> Result<Duration> {
        let listener = loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", PORT)) {
                break listener;
            }
        };
        self.next("listen")?;
        // The release comes alone, as events mostly do.
        sleep(Duration::from_millis(2));
        let begun = Instant::now();
        drop(listener);
        Ok(self.next("release")?.saturating_duration_since(begun))
    }

    fn next(&self, word: &str) -> Result<Instant> {
        loop {
            let (at, line) = self.lines.recv_timeout(PATIENCE).with_context(|| format!("no {word}"))?;
            if line.contains(word) {
                return Ok(at);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
