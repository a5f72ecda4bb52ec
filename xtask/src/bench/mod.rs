//! Benchmarks: each figure beside what to compare it with, measured in turns within one run, because the machine may be
//! busy with other things.

mod agent;
mod calls;
mod clean;
mod export;
mod history;
mod load;
mod owners;
mod probe;
mod report;
mod restart;
mod watch;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Actor, Gatewatch};

use crate::musl;

pub(crate) use load::hold_sockets;
pub(crate) use report::{LoadKind, hold_load, make as make_report};

/// Which figures are wanted.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// `clean` against the floor: SIGTERM until a bind succeeds
    Clean,
    /// `owners` against ss and lsof, idle and loaded
    Owners,
    /// For how long nobody has the port in a `restart`, beside what the new server itself needs
    Restart,
    /// From the kernel's event to the line of `watch`
    Watch,
    /// What the kernel program costs on ports that nobody watches
    Probe,
    /// What a watch costs each system call of others, with confidence intervals
    Calls,
    /// The host agent: queries, cleaning, subscribers
    Agent,
    /// The host agent that follows every port and writes a history: its CPU time and the size of a record
    History,
    /// The same with an export to a NATS server: its CPU time, the length of a message, and how fast it catches up
    Export,
}

/// Runs the parts; all of them if none is named.
///
/// # Errors
/// When something can't be built or run.
pub(crate) fn run_parts(parts: &[Part]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmarks load kernel programs: run them as root");
    gatewatch_tests::use_programs(musl::release()?);
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    if wanted(Part::Clean) {
        clean::run()?;
    }
    if wanted(Part::Owners) {
        owners::run()?;
    }
    if wanted(Part::Restart) {
        restart::run()?;
    }
    if wanted(Part::Watch) {
        watch::run()?;
    }
    if wanted(Part::Probe) {
        probe::run()?;
    }
    if wanted(Part::Calls) {
        calls::run()?;
    }
    if wanted(Part::Agent) {
        agent::run()?;
    }
    if wanted(Part::History) {
        history::run()?;
    }
    if wanted(Part::Export) {
        export::run()?;
    }
    Ok(())
}

/// What people write in a script, by lsof, about the port `$0`: asks the owner to end, and looks each 50 ms whether it is gone.
const LSOF_AND_KILL: &str = r#"
    pids() { lsof -nP -t -iTCP:"$0" -sTCP:LISTEN; }
    pids | xargs -r kill
    while [ -n "$(pids)" ]; do sleep 0.05; done
"#;

/// A command of gatewatch, its output thrown away.
fn gatewatch(arguments: &[&str]) -> Command {
    Gatewatch::new(arguments).into_quiet_command()
}

/// A gateway that obeys SIGTERM, listening by now; it ends when this is dropped.
fn gateway(port: u16) -> Actor {
    gatewatch_tests::Part::gateway().on_port(port).start()
}

/// The wall time of a whole process, started after a short rest: a kernel hook that is attached again
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
        // The nearest rank: so many hundredths of all are at most as long.
        let at = (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
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
