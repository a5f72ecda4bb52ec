//! Benchmarks: each figure beside what it is to be compared with, taken in turns within one run, since the machine
//! may be busy with other things.

mod agent;
mod clean;
mod load;
mod owners;
mod probe;
mod watch;

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::run::build_release;

pub(crate) use load::hold_sockets;

/// Which figures are wanted.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// `clean` against the floor: SIGTERM until a bind succeeds
    Clean,
    /// `owners` against ss and lsof, idle and loaded
    Owners,
    /// From the kernel's event to the line of `watch`
    Watch,
    /// What the kernel program costs on ports that nobody watches
    Probe,
    /// The host agent: queries, cleaning, subscribers
    Agent,
}

/// Runs the parts; all of them where none is named.
///
/// # Errors
/// When something can't be built or run.
pub(crate) fn run_parts(parts: &[Part]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmarks load kernel programs: run them as root");
    let programs = Programs::build()?;
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    if wanted(Part::Clean) {
        clean::run(&programs)?;
    }
    if wanted(Part::Owners) {
        owners::run(&programs)?;
    }
    if wanted(Part::Watch) {
        watch::run(&programs)?;
    }
    if wanted(Part::Probe) {
        probe::run(&programs)?;
    }
    if wanted(Part::Agent) {
        agent::run(&programs)?;
    }
    Ok(())
}

/// The release builds that are measured.
struct Programs {
    gatewatch: PathBuf,
    actor: PathBuf,
}

impl Programs {
    fn build() -> Result<Self> {
        let folder = build_release()?;
        Ok(Self { gatewatch: folder.join("gatewatch"), actor: folder.join("actor") })
    }

    fn gatewatch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.gatewatch);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A gateway that obeys SIGTERM, listening by now.
    fn gateway(&self, port: u16) -> Result<Gateway> {
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.actor);
        command.arg0("openclaw-gateway").args(["--on", &format!("127.0.0.1:{port}")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        ensure!(line.starts_with("ready"), "the gateway did not start");
        Ok(Gateway { child, _stdin: stdin })
    }
}

/// A gateway of the benchmark's own; it ends when this is dropped.
struct Gateway {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Gateway {
    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The wall time of a whole process, started on a machine that has come to rest: a kernel hook that is attached again
/// just after it was detached waits for an RCU grace period, which commands that people run never meet.
fn wall(mut command: Command) -> Result<Duration> {
    std::thread::sleep(Duration::from_millis(40));
    let begun = Instant::now();
    command.status().with_context(|| format!("{command:?} can't be run"))?;
    Ok(begun.elapsed())
}

/// Samples of one figure.
#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    fn percentile(&self, hundredths: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// One line: name, n, p50, p99, and how many times as long as `base` the median is.
    fn print(&self, name: &str, base: Option<(&str, &Self)>) {
        let [p50, p99] = [50, 99].map(|p| milliseconds(self.percentile(p)));
        let ratio = base.map_or_else(String::new, |(of, base)| {
            format!("  {:.2} × {of}", self.p50().as_secs_f64() / base.p50().as_secs_f64())
        });
        println!("  {name:<44} n {:<5} p50 {p50:>10}  p99 {p99:>10}{ratio}", self.0.len());
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// The clock that kernel events are stamped with.
fn monotonic() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
