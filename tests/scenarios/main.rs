//! The rules, each shown by a scenario: real owners, and the real gatewatch run against them, once by kernel events and
//! once by polling. What differs between the two by nature is in [`differ`].
#![expect(clippy::unwrap_used, reason = "a scenario that can't go on must fail, and say where")]

#[macro_use]
mod rule;

// Rules that every system keeps.
mod bad_input;
mod clean;
mod commands;
mod differ;
mod documents;
mod exclusion;
mod exec;
mod holders;
mod identity;
mod plan;
mod port_choice;
mod ports;
mod proof;
mod restart;
mod udp;
mod wait;
mod watch;

// Rules of some systems only. macOS has none of its own.
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::process::ExitCode;

use gatewatch_tests::{Needs, Run};

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    #[cfg(target_os = "linux")]
    gatewatch_tests::heed_signals();
    // How many times as long to wait for a step: an emulated processor is slow.
    if let Ok(times) = std::env::var("GATEWATCH_TESTS_PATIENCE") {
        gatewatch_tests::be_more_patient(times.parse().unwrap());
    }
    let mut scenarios = rule::scenarios();
    if gatewatch_tests::run() != Run::All {
        let of_root = [Needs::Root, Needs::RootsFiles];
        scenarios.retain(|scenario| {
            scenario.name.starts_with("poll::") && !of_root.iter().any(|needs| scenario.needs.contains(needs))
        });
    }
    scenarios.retain(|scenario| match scenario.cannot_be_shown() {
        None => true,
        Some(why) => {
            println!("not here: {}: {why}", scenario.name);
            false
        }
    });
    // Built before the scenarios run in parallel.
    gatewatch_tests::programs();
    let trials = scenarios.iter().cloned().map(rule::Scenario::into_trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let failed = rule::take_failed();
    let holds = !conclusion.has_failed()
        || u64::try_from(failed.len()) == Ok(conclusion.num_failed) && hold_alone(&scenarios, &failed);
    gatewatch_tests::clean_up();
    if holds {
        return ExitCode::SUCCESS;
    }
    println!("did not hold: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// How many scenarios may fail beside the others, and how often each must hold alone then.
const FEW: usize = 3;
const AGAIN: usize = 5;

/// Whether a few scenarios that failed beside hundreds of others hold whenever they run alone. Two busy cores can stretch
/// a process's start beyond any patience; a rule that is broken fails here too. Either way the failure is told.
fn hold_alone(scenarios: &[rule::Scenario], failed: &[String]) -> bool {
    if failed.len() > FEW {
        return false;
    }
    println!("\n{} failed beside the others; now {AGAIN} times alone", failed.join(", "));
    let again = scenarios.iter().filter(|scenario| failed.contains(&scenario.name));
    let trials = again.flat_map(|scenario| std::iter::repeat_n(scenario, AGAIN).cloned());
    let one_by_one = libtest_mimic::Arguments { test_threads: Some(1), ..Default::default() };
    let held =
        !libtest_mimic::run(&one_by_one, trials.map(rule::Scenario::into_trial).collect()).has_failed();
    if held {
        println!("failed once, beside the others: {}", failed.join(", "));
    }
    held
}
