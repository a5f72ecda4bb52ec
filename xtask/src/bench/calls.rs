//! What a watch costs everybody else: how long a system call takes while its hooks are attached.
//!
//! A program at the exit of one system call makes the kernel take its slower way out of all of them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use gatewatch_tests::{Backend, Gatewatch};
use nix::unistd::getppid;

const WATCHED: u16 = 18_794;
const ROUNDS: usize = 60;
/// Calls in one block: some tens of milliseconds.
const CALLS: u32 = 200_000;
/// After a hook was attached or detached, the kernel is busy with that for a while.
const REST: Duration = Duration::from_millis(30);

/// What is left out of a watch while the calls are made; `None` for no watch at all.
const WAYS: [(&str, Option<&str>); 4] = [
    ("nobody watches", None),
    ("a watch", Some("")),
    ("a watch that follows system calls", Some("fexit")),
    ("a watch without failed binds", Some("conflict")),
];

pub(super) fn run() -> Result<()> {
    println!("calls: a system call that does nothing, while there is a watch");
    let mut all: [Vec<f64>; WAYS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, without), samples) in WAYS.iter().zip(&mut all) {
            let watch = without.map(|without| {
                Gatewatch::on(Backend::Ebpf, &["watch"], WATCHED).env("GATEWATCH_WITHOUT", without).watch()
            });
            thread::sleep(REST);
            samples.push(nanoseconds_a_call());
            drop(watch);
        }
    }
    let base = Mean::of(&all[0]);
    for ((name, _), samples) in WAYS.iter().zip(&all) {
        let mean = Mean::of(samples);
        println!(
            "  {name:<44} n {:<5} mean {:.1} ns ± {:.1} (95 %)  {:+.1} ns",
            samples.len(),
            mean.value,
            mean.half_width,
            mean.value - base.value
        );
    }
    Ok(())
}

fn nanoseconds_a_call() -> f64 {
    let begun = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(getppid());
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// A mean, and how far to both sides it may be off with a confidence of 95 %.
struct Mean {
    value: f64,
    half_width: f64,
}

impl Mean {
    /// Of at least two samples. The slowest tenth is left out: in those, something else had the processor.
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.truncate(sorted.len() - sorted.len() / 10);
        let count = sorted.len() as f64;
        let value = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|sample| (sample - value).powi(2)).sum::<f64>() / (count - 1.0);
        Self { value, half_width: 1.96 * (variance / count).sqrt() }
    }
}
