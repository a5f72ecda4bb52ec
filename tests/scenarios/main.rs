//! The rules, each held by a scenario: real owners, and the real gatewatch run against them, once by kernel events and
//! once by polling. What differs between the two by nature is in [`differ`].
#![expect(clippy::unwrap_used, reason = "a scenario that can't go on must fail, and say where")]

mod bad_input;
mod clean;
mod commands;
mod differ;
mod exclusion;
mod holders;
mod identity;
mod port_choice;
mod proof;
mod restart;
mod wait;
mod watch;

// What is one system's alone.
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod own;

use std::process::ExitCode;

use gatewatch_tests::{BACKENDS, Backend, Needs, Run, Scenario};

/// A rule that holds however ports are observed.
type Rule = (&'static str, &'static [Needs], fn(Backend));
/// A rule that is tried once.
type OnceRule = (&'static str, &'static [Needs], fn());

/// The rules that every system keeps.
const RULES: &[(&str, &[Rule])] = &[
    ("clean", clean::RULES),
    ("exclusion", exclusion::RULES),
    ("holders", holders::RULES),
    ("identity", identity::RULES),
    ("proof", proof::RULES),
    ("restart", restart::RULES),
    ("wait", wait::RULES),
    ("watch", watch::RULES),
];

/// Those of them that do not depend on how ports are observed.
const ONCE_RULES: &[(&str, &[OnceRule])] =
    &[("bad_input", bad_input::RULES), ("commands", commands::RULES), ("port_choice", port_choice::RULES)];

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut scenarios = scenarios();
    if gatewatch_tests::run() != Run::All {
        scenarios
            .retain(|scenario| scenario.name.starts_with("poll::") && !scenario.needs.contains(&Needs::Root));
    }
    scenarios.retain(|scenario| match scenario.cannot_be_shown() {
        None => true,
        Some(why) => {
            println!("not here: {}: {why}", scenario.name);
            false
        }
    });
    // The programs are built before the trials run beside each other.
    gatewatch_tests::programs();
    let trials = scenarios.into_iter().map(Scenario::into_trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    gatewatch_tests::clean_up();
    conclusion.exit_code()
}

fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for &backend in BACKENDS {
        for (file, rules) in RULES.iter().chain(own::RULES) {
            for &(name, needs, run) in *rules {
                let mut needs = needs.to_vec();
                if backend == Backend::Ebpf {
                    needs.push(Needs::Bpf);
                }
                let name = format!("{}::{file}::{name}", backend.name());
                scenarios.push(Scenario { name, needs, run: Box::new(move || run(backend)) });
            }
        }
    }
    for (file, rules) in ONCE_RULES.iter().chain(own::ONCE_RULES) {
        for &(name, needs, run) in *rules {
            let name = format!("{file}::{name}");
            scenarios.push(Scenario { name, needs: needs.to_vec(), run: Box::new(run) });
        }
    }
    scenarios
}
