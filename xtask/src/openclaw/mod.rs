//! Gatewatch against the real thing: gateways of two releases of OpenClaw, started in every way that people start them,
//! each found, judged, restarted, ended, and its port proved free. In a network namespace that has nothing but `lo`.

mod examples;
mod gateway;
mod install;
mod stage;
mod table;
mod ways;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use clap::Args;

use crate::run::{cargo, run};
use stage::Stage;
use table::{Row, Seen};
use ways::Way;

/// The first port; each start has its own.
const PORT: u16 = 18_789;

/// What to try.
#[derive(Args)]
pub(crate) struct Options {
    /// Only what has one of these texts in its release and name, as in `2026.9.6 PM2` [default: all]
    only: Vec<String>,
    /// One release and the most common ways of starting it
    #[arg(long)]
    short: bool,
    /// How many to try at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    at_once: u16,
    /// The part that runs in a network namespace of its own
    #[arg(long, hide = true)]
    inside: bool,
}

/// Installs the releases and tries the ways of starting them.
///
/// # Errors
/// When one ends in another way than it should.
pub(crate) fn test(options: &Options) -> Result<()> {
    if options.inside {
        return try_inside(options);
    }
    install::all(options.short)?;
    run(cargo().args(["build", "--quiet", "--package", "gatewatch"]))?;
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--"]).arg(std::env::current_exe()?);
    run(command.args(std::env::args_os().skip(1)).arg("--inside"))
}

fn try_inside(options: &Options) -> Result<()> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let tasks = tasks(options);
    ensure!(!tasks.is_empty(), "nothing has such a name");
    let rows = try_all(&tasks, options.at_once);
    println!("\n{}", table::HEAD);
    rows.iter().for_each(|row| println!("{}", row.line()));
    let wrong: Vec<&str> = rows.iter().filter(|row| !row.seen.right).map(|row| row.way).collect();
    ensure!(wrong.is_empty(), "not as it should be: {}", wrong.join("; "));
    println!("\n{} ways, all as they should be", rows.len());
    Ok(())
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text))
    }
}

/// Something to be tried with a release.
enum Task {
    Way(Way),
    Module(&'static str, ways::Start),
    Example(&'static examples::Example),
}

impl Task {
    fn name(&self) -> &'static str {
        match self {
            Self::Way(way) => way.name,
            Self::Module(name, _) => name,
            Self::Example(example) => example.name,
        }
    }
}

fn tasks(options: &Options) -> Vec<(&'static str, Task)> {
    let short = options.short;
    let mut tasks = Vec::new();
    for release in install::releases(short) {
        let ways = ways::all().into_iter().filter(|way| way.in_short || !short);
        tasks.extend(ways.map(|way| (release, Task::Way(way))));
        if !short {
            tasks.push((
                release,
                Task::Module("for comparison: the package's own module, service", ways::service),
            ));
            tasks.push((release, Task::Module("for comparison: its own module, launcher", ways::launcher)));
        }
    }
    let examples = examples::ALL.iter().filter(|example| example.in_short || !short);
    tasks.extend(examples.map(|example| (install::NEWEST, Task::Example(example))));
    tasks.retain(|(release, task)| options.wants(&format!("{release} {}", task.name())));
    tasks
}

/// Tries some at a time: a start mostly keeps one processor busy. The lines come in the order of the tasks.
fn try_all(tasks: &[(&'static str, Task)], at_once: u16) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    std::thread::scope(|scope| {
        for first_port in (PORT..).step_by(1000).take(at_once.into()) {
            let (next, rows) = (&next, &rows);
            scope.spawn(move || {
                let mut stage = Stage::new(first_port);
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((release, task)) = tasks.get(at) else { break };
                    let seen = stage.try_task(release, task).unwrap_or_else(|error| {
                        eprintln!("{release}: {}: {error:#}", task.name());
                        Seen::nothing()
                    });
                    let row = Row { release, way: task.name(), seen };
                    println!("{}", row.line());
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}
