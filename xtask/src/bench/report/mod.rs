//! `docs/benchmarks.md` and its plots: every figure of one run on one machine, beside the tools that people use, and how
//! each grows with what a machine can have much of.

mod cleans;
mod contest;
mod loads;
mod lookups;
mod machine;
mod page;
mod peers;
mod place;
mod plot;
mod reasons;
mod sweep;
mod variables;
mod watching;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::load::Load;
use crate::musl;
use crate::run::{root, run};
use contest::{Figures, Rounds};
use place::Place;

pub(crate) use loads::{Kind as LoadKind, hold as hold_load};

/// What process 1 of the namespaces does: it reaps what others leave behind. bpftrace needs the kernel's tracing, and gatewatch
/// keeps its program in a BPF file system.
const INSIDE: &str = "mount -t tracefs none /sys/kernel/tracing 2> /dev/null\n\
                      mount -t bpf none /sys/fs/bpf && ip link set lo up && \"$@\"\n\
                      exit $?";

/// Measures everything, and writes the page and its plots.
///
/// # Errors
/// When something can't be installed, built or run, or gatewatch does not do what it is asked for.
pub(crate) fn make(inside: Option<PathBuf>) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmarks load kernel programs: run them as root");
    if let Some(programs) = inside {
        gatewatch_tests::use_programs(programs);
        return measure();
    }
    let programs = musl::release()?;
    peers::install()?;
    // Nothing but the run's own processes and sockets is seen in there, so others' neither count nor can be hit by a tool
    // that kills too much; and all of it ends with the run, however that ends.
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
        "--",
        "sh",
        "-c",
        INSIDE,
        "sh",
    ]);
    run(command.arg(std::env::current_exe()?).args(["bench", "--report", "--inside"]).arg(programs))
}

/// The figures of one run.
struct Report {
    before: machine::Moment,
    after: machine::Moment,
    lookups: Pair,
    cleans: Pair,
    watching: watching::Watching,
    sweeps: Vec<sweep::Swept>,
}

/// The same contest on an idle machine and on a loaded one.
struct Pair {
    idle: Vec<Figures>,
    loaded: Vec<Figures>,
}

fn measure() -> Result<()> {
    let before = machine::Moment::now()?;
    let place = Place::idle();
    lookups::check(&place)?;
    let idle = Rounds { most: 100, budget_s: 12.0 };
    let idle_lookups = lookups::contest(&lookups::ALL, &place, idle)?;
    let idle = Rounds { most: 60, budget_s: 10.0 };
    let idle_cleans = cleans::contest(&cleans::ALL, &place, idle)?;
    drop(place);
    let watching = watching::measure()?;
    let sweeps = variables::ALL.iter().map(sweep::sweep).collect::<Result<Vec<_>>>()?;
    // Last, because its connections stay in TIME_WAIT for a minute, which makes look-ups of others slower.
    let (place, load) = (Place::idle(), Load::start()?);
    println!("report: beside 2000 processes and 20,000 sockets");
    let loaded = Rounds { most: 30, budget_s: 8.0 };
    let loaded_lookups = lookups::contest(&lookups::ALL, &place, loaded)?;
    let loaded_cleans = cleans::contest(&cleans::ALL, &place, loaded)?;
    drop((load, place));
    let report = Report {
        before,
        after: machine::Moment::now()?,
        lookups: Pair { idle: idle_lookups, loaded: loaded_lookups },
        cleans: Pair { idle: idle_cleans, loaded: loaded_cleans },
        watching,
        sweeps,
    };
    let docs = root().join("docs");
    for swept in &report.sweeps {
        fs::write(docs.join(swept.picture()), swept.plot())?;
    }
    let page = page::write(&report).context("the page can't be written")?;
    fs::write(docs.join("benchmarks.md"), page)?;
    println!("report: written to docs/benchmarks.md");
    Ok(())
}
