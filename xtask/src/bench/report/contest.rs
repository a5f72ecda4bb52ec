//! Several ways of doing the same, measured in turns, so that whatever else the machine does hits all of them alike.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::place::Place;
use crate::bench::Samples;

/// One way of doing what is measured.
pub(super) struct Way {
    /// As the tables call it.
    pub(super) name: &'static str,
    /// As the plots call it.
    pub(super) label: &'static str,
    pub(super) how: How,
}

/// What a way consists of.
pub(super) enum How {
    Command(fn(&Place) -> Result<Command>),
    /// SIGTERM, and a bind in a tight loop.
    Floor,
}

/// How long a contest may go on.
#[derive(Clone, Copy)]
pub(super) struct Rounds {
    pub(super) most: usize,
    /// A way that has used up this many seconds sits out the rounds that are left.
    pub(super) budget_s: f64,
}

/// One run of a way.
pub(super) struct Trial {
    /// `None` if it did not do what it was to do.
    pub(super) took: Option<Duration>,
    /// The way had ended, and the port could not be bound yet.
    pub(super) was_early: bool,
}

/// What a way needed.
pub(super) struct Figures {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    samples: Samples,
    pub(super) early: usize,
    pub(super) failed: usize,
}

impl Figures {
    /// How often it was measured.
    pub(super) fn count(&self) -> usize {
        self.samples.0.len()
    }

    /// A percentile in milliseconds.
    pub(super) fn ms(&self, hundredths: usize) -> f64 {
        self.samples.percentile(hundredths).as_secs_f64() * 1e3
    }
}

/// Measures all ways in turns. Each round begins with another one, so that none always follows the same.
///
/// # Errors
/// When a trial can't be made.
pub(super) fn in_turns(
    ways: &[&Way],
    rounds: Rounds,
    mut once: impl FnMut(&Way) -> Result<Trial>,
) -> Result<Vec<Figures>> {
    let mut all: Vec<Figures> = ways
        .iter()
        .map(|way| Figures {
            name: way.name,
            label: way.label,
            samples: Samples::default(),
            early: 0,
            failed: 0,
        })
        .collect();
    let mut used = vec![0.0; ways.len()];
    for round in 0..rounds.most {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            if used[at] > rounds.budget_s {
                continue;
            }
            let begun = Instant::now();
            let trial = once(ways[at]).with_context(|| ways[at].name)?;
            used[at] += begun.elapsed().as_secs_f64();
            let figures = &mut all[at];
            figures.early += usize::from(trial.was_early);
            match trial.took {
                Some(took) => figures.samples.push(took),
                None => figures.failed += 1,
            }
        }
    }
    for figures in &all {
        figures.samples.print(figures.name, None);
    }
    Ok(all)
}

/// A command whose input and output are nobody's.
pub(super) fn quiet(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
