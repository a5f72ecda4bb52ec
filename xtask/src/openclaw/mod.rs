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

use crate::run::{cargo, run};
use stage::Stage;
use table::{Row, Seen};
use ways::Way;

/// The first port; each start has its own.
const PORT: u16 = 18_789;

/// Installs the releases and runs all ways of starting them; with `short` one release and the most common ways.
///
/// # Errors
/// When one ends in another way than it should.
pub(crate) fn test(short: bool, at_once: u16) -> Result<()> {
    install::all(short)?;
    run(cargo().args(["build", "--quiet", "--package", "gatewatch"]))?;
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--"]).arg(std::env::current_exe()?).args(["test-openclaw", "--inside"]);
    command.args(["--at-once", &at_once.to_string()]);
    run(command.args(short.then_some("--short")))
}

/// Runs them in the network namespace that it is in.
///
/// # Errors
/// When one ends in another way than it should.
pub(crate) fn all_ways(short: bool, at_once: u16) -> Result<()> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let rows = try_all(&tasks(short), at_once);
    println!("\n{}", table::HEAD);
    rows.iter().for_each(|row| println!("{}", row.line()));
    let wrong: Vec<&str> = rows.iter().filter(|row| !row.seen.right).map(|row| row.way).collect();
    ensure!(wrong.is_empty(), "not as it should be: {}", wrong.join("; "));
    println!("\n{} ways, all as they should be", rows.len());
    Ok(())
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

fn tasks(short: bool) -> Vec<(&'static str, Task)> {
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
