//! The page: sentences around what was measured.

use std::fmt::Write as _;

use anyhow::Result;

use super::contest::Figures;
use super::sweep::{Series, Swept};
use super::{Pair, Report, machine, peers, reasons};

/// What was tried, written by hand.
const TRIED: &str = include_str!("tried.md");
/// What the page does not have, written by hand.
const LEFT_OUT: &str = include_str!("left_out.md");

/// The longest line of a paragraph.
const WIDTH: usize = 118;

/// Writes the page.
///
/// # Errors
/// When the machine or a program does not say what it is.
pub(super) fn write(report: &Report) -> Result<String> {
    let mut page = String::from(
        "# Benchmarks\n\n\
         `cargo xtask bench --report` measures everything on this page in one run, and writes the page and its plots; only the \
         last two sections are written by hand. [speed.md](speed.md) has more figures of single parts.\n\n",
    );
    machine(&mut page, report)?;
    lookups(&mut page, &report.lookups);
    cleans(&mut page, &report.cleans);
    watching(&mut page, report);
    page.push_str(
        "## How it grows\n\n\
         Each plot has a look-up on the left and a clean on the right: the medians, and a thin line up to the 95th \
         percentile. Both axes are logarithmic. *Flat* means that the last median is at most 1.5 times the first. A way \
         is measured 20 times at a point, and less often where it is slow: in the extreme once. *events*, *polling* and \
         *agent* are Gatewatch's, and *start* is its process alone; `killport` is `killport -s sigterm`.\n\n",
    );
    report.sweeps.iter().for_each(|swept| sweep(&mut page, swept));
    let mut page = wrapped(&page);
    let _ = write!(page, "{LEFT_OUT}\n{TRIED}");
    Ok(page)
}

/// Sentences in lines that a reader of the source can follow; tables and pictures stay as they are.
fn wrapped(page: &str) -> String {
    let mut text = String::new();
    for line in page.lines() {
        let is_whole = line.starts_with(['|', '!', '<', '#']);
        let indent = if line.starts_with("* ") { "  " } else { "" };
        let mut length = 0;
        for (at, word) in line.split(' ').enumerate() {
            let wide = word.chars().count();
            if at > 0 && !is_whole && length + 1 + wide > WIDTH {
                let _ = write!(text, "\n{indent}");
                length = indent.len();
            } else if at > 0 {
                text.push(' ');
                length += 1;
            }
            text.push_str(word);
            length += wide;
        }
        text.push('\n');
    }
    text
}

fn machine(page: &mut String, report: &Report) -> Result<()> {
    let versions = peers::versions()?;
    let versions: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = write!(
        page,
        "## The machine and the run\n\n\
         {}. Its load average was {} when the run began, and {} when it ended (of the last minute, 5 and 15 minutes). \
         The machine is shared, so read the ratios and not the milliseconds.\n\n\
         * Versions: {}.\n\
         * Gatewatch's program is the static one that is released. One that is built with the host's C library starts \
         later, because the loader has to link it first.\n\
         * All ways of a table take turns, one run each in a round, and each round begins with another one.\n\
         * Each figure is of the whole process, in milliseconds from its start, after a rest of 40 ms. The 99th percentile \
         of fewer than 100 runs is the longest of them.\n\
         * The run has network and process namespaces of its own, so nothing but its own processes and sockets is seen, \
         or can be ended by a tool that ends too much.\n\
         * *Loaded* is beside 2000 processes and 20,000 connected sockets. A way that has used up its share of the time \
         sits out the rounds that are left, so *n* differs.\n\n",
        machine::description()?,
        report.before.load,
        report.after.load,
        versions.join(", ")
    );
    Ok(())
}

fn lookups(page: &mut String, pair: &Pair) {
    page.push_str(
        "## Who has the port\n\n\
         Each way was first seen to find the owner. The ratio is to `gatewatch owners`, which goes by kernel events. The \
         first such command of root's loads a program into the kernel, and the next ones find it there, as a BPF file \
         system is mounted in the run at /sys/fs/bpf, where systemd mounts one.\n\n",
    );
    for (surroundings, all) in [("Idle", &pair.idle), ("Loaded", &pair.loaded)] {
        let _ = write!(
            page,
            "| {surroundings} | n | p50 | p95 | p99 | ratio |\n| --- | --: | --: | --: | --: | --: |\n"
        );
        for figures in all {
            let _ = writeln!(page, "{} {} |", row(figures), ratio(figures, all));
        }
        page.push('\n');
    }
}

fn cleans(page: &mut String, pair: &Pair) {
    page.push_str(
        "## Ending an owner that obeys, until the port can be bound\n\n\
         The owner is a process of one thread that ends at SIGTERM. A time ends when the command has ended *and* a server can \
         bind the port. *Early* is how often the command ended with the port still taken. *The floor* is no command: SIGTERM, and a \
         bind in a tight loop. *The replaced module's way* is what OpenClaw's own module does: `lsof`, SIGTERM, 600 ms of \
         sleep, SIGKILL, 400 ms of sleep, and `lsof` each 50 ms. The ratio is to `gatewatch clean`.\n\n",
    );
    for (surroundings, all) in [("Idle", &pair.idle), ("Loaded", &pair.loaded)] {
        let _ = write!(
            page,
            "| {surroundings} | n | p50 | p95 | p99 | ratio | early |\n| --- | --: | --: | --: | --: | --: | --: |\n"
        );
        for figures in all {
            let early = match (figures.early, figures.failed) {
                _ if figures.label == "floor" => "–".to_owned(),
                (early, 0) => early.to_string(),
                (early, failed) => format!("{early}, and {failed} never"),
            };
            let _ = writeln!(page, "{} {} | {early} |", row(figures), ratio(figures, all));
        }
        page.push('\n');
    }
}

fn watching(page: &mut String, report: &Report) {
    page.push_str(
        "## Watching\n\n\
         *Begins* is from the command's start until it has told of a listener, while one comes and goes each millisecond. \
         *Tells* is from a listener's close until the line about it was read, with both running. bpftrace prints a word, \
         and Gatewatch who it was.\n\n\
         | | n | p50 | p95 | p99 | ratio |\n| --- | --: | --: | --: | --: | --: |\n",
    );
    for (what, all) in [("begins", &report.watching.begins), ("tells", &report.watching.tells)] {
        for figures in all {
            let cells = row(figures).replacen("| ", &format!("| {what}: "), 1);
            let _ = writeln!(page, "{cells} {} |", ratio(figures, all));
        }
    }
    page.push('\n');
}

fn sweep(page: &mut String, swept: &Swept) {
    let variable = swept.variable;
    let [first, last] = [variable.points.first(), variable.points.last()].map(|at| at.copied().unwrap_or(0));
    let _ = write!(
        page,
        "### {}: {} to {}\n\n{}\n\n![Milliseconds over {}; the figures are in the table below]({})\n\n",
        capital(variable.name),
        count(first),
        count(last),
        variable.what,
        variable.name,
        swept.picture()
    );
    let heads: Vec<String> = variable.points.iter().map(|&at| count(at)).collect();
    let _ = writeln!(page, "| p50 | {} | last ÷ first |", heads.join(" | "));
    let _ = writeln!(page, "| --- |{} --: |", " --: |".repeat(heads.len()));
    for series in swept.lookups.iter().chain(&swept.cleans) {
        let cells: Vec<String> = series.figures.iter().map(|figures| ms(figures.ms(50))).collect();
        let _ = writeln!(page, "| {} | {} | {} |", series.name(), cells.join(" | "), times(series.growth()));
    }
    page.push('\n');
    for (job, all) in [("owners", &swept.lookups), ("clean", &swept.cleans)] {
        for series in all.iter().filter(|series| series.name().contains("gatewatch")) {
            let _ = writeln!(page, "* {}", slope(swept, job, series));
        }
    }
    page.push_str(
        "\n<details><summary>All figures</summary>\n\n| | | n | p50 | p95 | p99 |\n\
         | --- | --: | --: | --: | --: | --: |\n",
    );
    for series in swept.lookups.iter().chain(&swept.cleans) {
        for (&at, figures) in variable.points.iter().zip(&series.figures) {
            let cells = row(figures).replacen(figures.name, &format!("{} | {}", figures.name, count(at)), 1);
            let _ = writeln!(page, "{cells}");
        }
    }
    page.push_str("\n</details>\n\n");
}

/// Whether a way is flat, and if it is not, why.
fn slope(swept: &Swept, job: &str, series: &Series) -> String {
    let variable = swept.variable;
    let growth = times(series.growth());
    if series.is_flat() {
        return format!("{}: flat ({growth}).", series.name());
    }
    let [first, last] = series.ends();
    let steps = variable.points.last().unwrap_or(&0) - variable.points.first().unwrap_or(&0);
    let each = (last - first) * 1e6 / steps.max(1) as f64;
    let each = if each >= 1e3 { format!("{:.1} µs", each / 1e3) } else { format!("{each:.0} ns") };
    let reason = reasons::of(variable.key, job, series.label()).unwrap_or("why is not known");
    format!("{}: {growth}, {each} a {}: {reason}.", series.name(), variable.unit)
}

/// A row up to the 99th percentile.
fn row(figures: &Figures) -> String {
    let [p50, p95, p99] =
        [50, 95, 99].map(|at| if figures.count() == 0 { "–".to_owned() } else { ms(figures.ms(at)) });
    format!("| {} | {} | {p50} | {p95} | {p99} |", figures.name, figures.count())
}

/// How many times as long as the first of them it takes.
fn ratio(figures: &Figures, all: &[Figures]) -> String {
    let base = all.first().map_or(0.0, |first| first.ms(50));
    if figures.count() == 0 { "–".to_owned() } else { times(figures.ms(50) / base) }
}

fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.0} ×") }
}

/// Milliseconds with three digits that matter.
fn ms(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A count with a comma between thousands.
fn count(number: usize) -> String {
    match (number / 1_000_000, number / 1000 % 1000, number % 1000) {
        (0, 0, ones) => ones.to_string(),
        (0, thousands, ones) => format!("{thousands},{ones:03}"),
        (millions, thousands, ones) => format!("{millions},{thousands:03},{ones:03}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
