//! Plots as SVG, which a page shows as they are: both axes logarithmic, so that what does not grow is a level line. A line is
//! known by the name at its end, its marks and its dashes, and not by its colour alone.

use std::fmt::Write as _;

/// One of the plots beside each other.
pub(super) struct Panel {
    pub(super) heading: &'static str,
    pub(super) lines: Vec<Line>,
}

/// The medians of one way.
pub(super) struct Line {
    pub(super) label: &'static str,
    pub(super) points: Vec<Point>,
}

/// A median and the percentile that a thin line leads up to, in milliseconds.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
}

const PANEL: f64 = 420.0;
const HEIGHT: f64 = 350.0;
/// Around the axes.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 66.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 48.0;
/// Names at the ends of lines are at least this far apart.
const LINE_HEIGHT: f64 = 14.0;
/// The highest value is at least so many times the lowest, because a level line is to look level.
const LEAST_RANGE: f64 = 50.0;

/// Each way's colour in light and in dark. The order says its marks too.
const STYLES: [(&str, &str, &str); 8] = [
    ("events", "#0969da", "#58a6ff"),
    ("agent", "#1a7f37", "#3fb950"),
    ("polling", "#bc4c00", "#f0883e"),
    ("ss", "#8250df", "#bc8cff"),
    ("lsof", "#57606a", "#9198a1"),
    ("killport", "#cf222e", "#ff7b72"),
    ("floor", "#57606a", "#9198a1"),
    ("start", "#9a6700", "#d29922"),
];
/// These are Gatewatch's.
const OURS: usize = 3;

/// Draws the panels beside each other, over this variable.
pub(super) fn draw(variable: &str, panels: &[Panel]) -> String {
    let width = PANEL * panels.len() as f64;
    let points = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let (lowest, highest) =
        points().fold((f64::MAX, 0.0f64), |(low, high), point| (low.min(point.p50), high.max(point.p95)));
    let y = Scale::new(lowest * 0.6, (highest * 1.3).max(lowest * 0.6 * LEAST_RANGE), HEIGHT - BOTTOM, TOP);
    let (first, last) =
        points().fold((f64::MAX, 0.0f64), |(low, high), point| (low.min(point.x), high.max(point.x)));
    let mut body = String::new();
    for (at, panel) in panels.iter().enumerate() {
        let left = PANEL * at as f64;
        let x = Scale::new(first, last, left + LEFT, left + PANEL - RIGHT);
        axes(&mut body, panel, variable, &x, &y);
        panel.lines.iter().for_each(|line| curve(&mut body, line, &x, &y));
        names(&mut body, panel, &x, &y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"milliseconds over {variable}\">\n\
         <style>\n{}</style>\n<rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n{body}</svg>\n",
        style()
    )
}

/// Values of an axis, and where they are.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + (self.to - self.from) * share
    }

    /// 1, 2 and 5 of each power of ten within.
    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let values = (-3..7).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        values.filter(|value| (self.low..=self.high).contains(value))
    }
}

fn style() -> String {
    let common = "text { font: 12px sans-serif } .head { font-weight: bold } .mark { stroke: none } \
                  .line { fill: none; stroke-width: 1.5; stroke-dasharray: 5 3 } \
                  .ours { stroke-width: 2.5; stroke-dasharray: none } \
                  .spread { stroke-width: 1; stroke-opacity: .5 }";
    let light = scheme("#ffffff", "#1f2328", "#d1d9e0", STYLES.map(|(_, light, _)| light));
    let dark = scheme("#0d1117", "#e6edf3", "#30363d", STYLES.map(|(_, _, dark)| dark));
    format!("{common}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n")
}

fn scheme(ground: &str, ink: &str, grid: &str, colours: [&str; STYLES.len()]) -> String {
    let mut text = format!(".ground {{ fill: {ground} }} text {{ fill: {ink} }} .grid {{ stroke: {grid} }}");
    for (at, colour) in colours.iter().enumerate() {
        let _ = write!(text, " .l{at} {{ stroke: {colour} }} .m{at} {{ fill: {colour} }}");
    }
    text
}

fn axes(body: &mut String, panel: &Panel, variable: &str, x: &Scale, y: &Scale) {
    let middle = f64::midpoint(x.from, x.to);
    let _ = writeln!(
        body,
        "<text x=\"{:.1}\" y=\"22\" class=\"head\">{}, ms</text>",
        x.from - LEFT + 12.0,
        panel.heading
    );
    let _ = writeln!(
        body,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{variable}</text>",
        HEIGHT - 10.0
    );
    for value in y.ticks() {
        let at = y.at(value);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{:.1} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{value}</text>",
            x.from,
            x.to,
            x.from - 8.0,
            at + 4.0
        );
    }
    let points = panel.lines.iter().max_by_key(|line| line.points.len()).map(|line| &line.points);
    for point in points.into_iter().flatten() {
        let at = x.at(point.x);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{at:.1} {:.1}v5\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            y.from,
            y.from + 18.0,
            short(point.x)
        );
    }
}

/// A count as an axis has room for.
fn short(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{}M", count / 1e6),
        count if count >= 1e3 => format!("{}k", count / 1e3),
        count => count.to_string(),
    }
}

fn style_of(label: &str) -> usize {
    STYLES.iter().position(|(name, ..)| *name == label).unwrap_or(STYLES.len() - 1)
}

fn curve(body: &mut String, line: &Line, x: &Scale, y: &Scale) {
    let style = style_of(line.label);
    let ours = if style < OURS { " ours" } else { "" };
    let path: Vec<String> =
        line.points.iter().map(|point| format!("{:.1} {:.1}", x.at(point.x), y.at(point.p50))).collect();
    let _ = writeln!(body, "<path class=\"line l{style}{ours}\" d=\"M{}\"/>", path.join("L"));
    for point in &line.points {
        let (across, up, top) = (x.at(point.x), y.at(point.p50), y.at(point.p95));
        let _ = writeln!(body, "<path class=\"spread l{style}\" d=\"M{across:.1} {up:.1}V{top:.1}\"/>");
        let _ = writeln!(body, "<path class=\"mark m{style}\" d=\"M{across:.1} {up:.1}{}\"/>", mark(style));
    }
}

/// The outline of a mark around a point.
fn mark(style: usize) -> &'static str {
    match style {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        1 => "m-4 -4h8v8h-8z",
        2 => "m0 -5l5 9h-10z",
        3 => "m0 -5l5 5l-5 5l-5 -5z",
        4 => "m-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
        5 => "m0 5l5 -9h-10z",
        6 => "m-5 -1.5h10v3h-10z",
        _ => "m-1.5 -5h3v10h-3z",
    }
}

/// The lines' names at their ends, moved apart where they would meet.
fn names(body: &mut String, panel: &Panel, x: &Scale, y: &Scale) {
    let ends = panel.lines.iter().filter_map(|line| Some((y.at(line.points.last()?.p50) + 4.0, line.label)));
    let mut ends: Vec<(f64, &str)> = ends.collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut above = f64::MIN;
    for (up, label) in ends {
        let up = up.max(above + LINE_HEIGHT);
        above = up;
        let (style, left) = (style_of(label), x.to + 10.0);
        let _ = writeln!(body, "<text class=\"m{style}\" x=\"{left:.1}\" y=\"{up:.1}\">{label}</text>");
    }
}
