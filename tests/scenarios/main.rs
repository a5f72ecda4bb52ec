//! The rules, each held by a scenario: real owners, and the real gatewatch run against them, once by kernel events and
//! once by polling. What differs between the two by nature is in [`differ`].
#![expect(clippy::unwrap_used, reason = "a scenario that can't go on must fail, and say where")]

mod agent;
mod bad_input;
mod clean;
mod commands;
mod differ;
mod exclusion;
mod holders;
mod identity;
mod namespaces;
mod port_choice;
mod proof;
mod restart;
mod wait;
mod watch;

use std::process::ExitCode;

use gatewatch_tests::{Backend, Needs, Run, Scenario};

/// A rule that holds however ports are observed.
type Rule = (&'static str, &'static [Needs], fn(Backend));
/// A rule that is tried once.
type OnceRule = (&'static str, &'static [Needs], fn());

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut scenarios = Vec::new();
    for backend in [Backend::Ebpf, Backend::Poll] {
        let files: [(&str, &[Rule]); 9] = [
            ("clean", clean::RULES),
            ("exclusion", exclusion::RULES),
            ("holders", holders::RULES),
            ("identity", identity::RULES),
            ("namespaces", namespaces::RULES),
            ("proof", proof::RULES),
            ("restart", restart::RULES),
            ("wait", wait::RULES),
            ("watch", watch::RULES),
        ];
        for (file, rules) in files {
            for &(name, needs, run) in rules {
                let mut needs = needs.to_vec();
                if backend == Backend::Ebpf {
                    needs.push(Needs::Bpf);
                }
                let name = format!("{}::{file}::{name}", backend.name());
                scenarios.push(Scenario { name, needs, run: Box::new(move || run(backend)) });
            }
        }
    }
    let once: [(&str, &[OnceRule]); 7] = [
        ("agent", agent::RULES),
        ("bad_input", bad_input::RULES),
        ("commands", commands::RULES),
        ("ebpf_only", watch::EBPF_RULES),
        ("ebpf_only", restart::EBPF_RULES),
        ("port_choice", port_choice::RULES),
        ("unprivileged", exclusion::UNPRIVILEGED_RULES),
    ];
    for (file, rules) in once {
        for &(name, needs, run) in rules {
            scenarios.push(Scenario {
                name: format!("{file}::{name}"),
                needs: needs.to_vec(),
                run: Box::new(run),
            });
        }
    }
    if gatewatch_tests::run() != Run::All {
        scenarios
            .retain(|scenario| scenario.name.starts_with("poll::") && !scenario.needs.contains(&Needs::Root));
    }
    // The programs are built before the trials run beside each other.
    gatewatch_tests::programs();
    let trials = scenarios.into_iter().map(Scenario::into_trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    gatewatch_tests::clean_up();
    conclusion.exit_code()
}
