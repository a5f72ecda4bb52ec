//! How look-ups and cleans grow with one variable.

use anyhow::Result;

use super::contest::{Figures, Rounds};
use super::plot::{self, Line, Panel, Point};
use super::variables::Variable;
use super::{cleans, lookups};

/// A slow way is measured less often, because there are 25 points.
const ROUNDS: Rounds = Rounds { most: 20, budget_s: 2.5 };

/// At most this many times as long at the last point as at the first is called flat.
const FLAT: f64 = 1.5;

/// What a variable does to each way.
pub(super) struct Swept {
    pub(super) variable: &'static Variable,
    pub(super) lookups: Vec<Series>,
    pub(super) cleans: Vec<Series>,
}

/// One way at each point of a variable.
pub(super) struct Series {
    pub(super) figures: Vec<Figures>,
}

impl Series {
    /// How many times as long it takes at the last point as at the first.
    pub(super) fn growth(&self) -> f64 {
        let [first, last] = self.ends();
        last / first
    }

    /// Whether the variable matters to it.
    pub(super) fn is_flat(&self) -> bool {
        self.growth() <= FLAT
    }

    /// The medians at the first point and at the last, in milliseconds.
    pub(super) fn ends(&self) -> [f64; 2] {
        [self.figures.first(), self.figures.last()]
            .map(|figures| figures.map_or(0.0, |figures| figures.ms(50)))
    }

    /// As the tables call it.
    pub(super) fn name(&self) -> &'static str {
        self.figures.first().map_or("", |figures| figures.name)
    }

    /// As the plots call it.
    pub(super) fn label(&self) -> &'static str {
        self.figures.first().map_or("", |figures| figures.label)
    }
}

/// Measures at each point of a variable.
///
/// # Errors
/// When a load can't be made, or a way can't be run.
pub(super) fn sweep(variable: &'static Variable) -> Result<Swept> {
    let mut swept = Swept {
        variable,
        lookups: variable.lookups.iter().map(|_| Series { figures: Vec::new() }).collect(),
        cleans: variable.cleans.iter().map(|_| Series { figures: Vec::new() }).collect(),
    };
    for &count in variable.points {
        println!("report: beside {count} {}", variable.name);
        let place = (variable.place)(count)?;
        add(&mut swept.lookups, lookups::contest(variable.lookups, &place, ROUNDS)?);
        add(&mut swept.cleans, cleans::contest(variable.cleans, &place, ROUNDS)?);
    }
    Ok(swept)
}

fn add(series: &mut [Series], figures: Vec<Figures>) {
    for (series, figures) in series.iter_mut().zip(figures) {
        series.figures.push(figures);
    }
}

impl Swept {
    /// Its plot's file, below `docs`.
    pub(super) fn picture(&self) -> String {
        format!("pictures/bench-{}.svg", self.variable.key)
    }

    /// Its plot.
    pub(super) fn plot(&self) -> String {
        let panel = |heading, series: &[Series]| Panel {
            heading,
            lines: series.iter().map(|series| self.line(series)).collect(),
        };
        let panels = [panel("who has the port", &self.lookups), panel("clean", &self.cleans)];
        plot::draw(self.variable.name, &panels)
    }

    fn line(&self, series: &Series) -> Line {
        let points = self.variable.points.iter().zip(&series.figures);
        let points = points.map(|(&count, figures)| Point {
            x: count as f64,
            p50: figures.ms(50),
            p95: figures.ms(95),
        });
        Line { label: series.label(), points: points.collect() }
    }
}
