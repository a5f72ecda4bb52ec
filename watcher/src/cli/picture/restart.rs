//! The phases of a restart. Time goes from left to right: the old processes, the port, the new
//! ones; below them each step with its moment.

use svg::Document;
use svg::node::element::{Group, Line, Style};

use super::{BAR, LEFT, RIGHT, STYLE, WIDEST_WORD, WIDTH, rectangle, text};
use crate::cli::text::{restart, style};
use crate::model::{Outcome, Step};
use crate::restart::{Restarted, TimelineStep};

/// The first bar, and how far bars and lines of text are apart.
const TOP: i32 = 64;
const APART: i32 = 30;
const LINE: i32 = 20;
/// How many processes get a bar of their own.
const MOST: usize = 8;

/// A bar: from when to when something was so.
struct Bar {
    class: &'static str,
    from: i64,
    to: i64,
    text: String,
}

/// From the first step to the last, and a little more, so that what goes on is seen to go on.
struct Scale {
    from: i64,
    to: i64,
}

impl Scale {
    fn of(timeline: &[TimelineStep]) -> Self {
        let from = timeline.iter().map(|step| step.at_us).min().unwrap_or_default().min(0);
        let to = timeline.iter().map(|step| step.at_us).max().unwrap_or_default().max(from + 1);
        let beyond = (to - from) / 12 + 1;
        Self { from: from - beyond, to: to + beyond }
    }

    fn x(&self, at: i64) -> f64 {
        let part = (at - self.from) as f64 / (self.to - self.from) as f64;
        (LEFT + part * (RIGHT - LEFT)).clamp(LEFT, RIGHT).round()
    }
}

/// Draws restarts, one below the other.
pub(in crate::cli) fn drawn(all: &[Restarted]) -> Document {
    let names: Vec<String> = all.iter().map(headline).collect();
    let mut picture =
        Document::new().set("role", "img").set("aria-label", names.join("; ")).add(Style::new(STYLE));
    let mut height = 0;
    for restarted in all {
        let (panel, its_height) = panel(restarted);
        picture = picture.add(panel.set("transform", format!("translate(0 {height})")));
        height += its_height;
    }
    picture.set("viewBox", (0, 0, WIDTH, height)).set("width", WIDTH).set("height", height)
}

/// A restart, and how high it is drawn.
fn panel(restarted: &Restarted) -> (Group, i32) {
    let timeline = &restarted.timeline;
    let scale = Scale::of(timeline);
    let rows = rows(restarted, &scale);
    let steps_at = TOP + APART * i32::try_from(rows.len()).unwrap_or_default() + LINE;
    let height = steps_at + LINE * i32::try_from(timeline.len()).unwrap_or_default() + 8;
    let mut picture = Group::new()
        .add(rectangle("ground", (0.5, 0.5), (f64::from(WIDTH) - 1.0, f64::from(height) - 1.0)))
        .add(text("title", 16.0, 28, headline(restarted)));
    let end = TOP + APART * i32::try_from(rows.len()).unwrap_or_default() - 6;
    for TimelineStep { at_us, .. } in timeline {
        let x = scale.x(*at_us);
        let mark = Line::new().set("class", "mark").set("x1", x).set("x2", x);
        picture = picture.add(mark.set("y1", TOP - 8).set("y2", end));
    }
    for (row, (name, bars)) in rows.iter().enumerate() {
        let y = TOP + APART * i32::try_from(row).unwrap_or_default();
        picture = picture.add(text("faint", 16.0, y + 15, name.clone()));
        for bar in bars {
            let (from, to) = (scale.x(bar.from), scale.x(bar.to));
            let width = (to - from).max(1.0);
            picture = picture.add(rectangle(bar.class, (from, y.into()), (width, BAR.into())));
            if width > WIDEST_WORD {
                picture = picture.add(text("middle", f64::midpoint(from, to), y + 15, bar.text.clone()));
            }
        }
    }
    for (line, at) in timeline.iter().enumerate() {
        let TimelineStep { at_us, step, pid, signal: _ } = at;
        let y = steps_at + LINE * i32::try_from(line).unwrap_or_default();
        let pid = pid.map_or_else(String::new, |pid| format!("  (pid {pid})"));
        let class = if matches!(step, Step::Conflict | Step::Lost | Step::Sigkill) { "bad" } else { "" };
        picture = picture.add(text("number faint", LEFT - 10.0, y, restart::moment(*at_us))).add(text(
            class,
            LEFT,
            y,
            format!("{}{pid}", restart::describe(at)),
        ));
    }
    (picture, height)
}

fn headline(restarted: &Restarted) -> String {
    let port = restarted.cleaned.port;
    let came = match restarted.cleaned.outcome {
        Outcome::Restarted => format!("port {port}: restarted"),
        outcome => format!("port {port}: {}", outcome.name().replace('_', " ")),
    };
    match restarted.downtime {
        Some(down) => format!("{came}, down for {}", style::duration(down)),
        None => came,
    }
}

/// The rows of bars, each with its name: old processes, the port, the command and the new owner.
fn rows(restarted: &Restarted, scale: &Scale) -> Vec<(String, Vec<Bar>)> {
    let timeline = &restarted.timeline;
    let at = |wanted: Step| timeline.iter().find(|step| step.step == wanted).map(|step| step.at_us);
    let mut rows = Vec::new();
    let mut old: Vec<u32> = timeline
        .iter()
        .filter(|step| matches!(step.step, Step::Sigterm | Step::Sigkill | Step::Exited))
        .filter_map(|step| step.pid)
        .collect();
    old.sort_unstable();
    old.dedup();
    for &pid in old.iter().take(MOST) {
        let exited = timeline.iter().find(|step| step.step == Step::Exited && step.pid == Some(pid));
        let to = exited.map_or(scale.to, |step| step.at_us);
        let name = format!("old, pid {pid}");
        rows.push((name, vec![Bar { class: "old", from: scale.from, to, text: "runs".to_owned() }]));
    }
    rows.push((format!("port {}", restarted.cleaned.port), port(restarted, scale)));
    let mut new: Vec<(i64, u32)> = Vec::new();
    for step in timeline {
        let is_new = matches!(
            step.step,
            Step::CommandStarted | Step::Bind | Step::Listen | Step::Conflict | Step::TakenOver
        );
        if let Some(pid) = step.pid.filter(|pid| is_new && new.iter().all(|(_, known)| known != pid)) {
            new.push((step.at_us, pid));
        }
    }
    for &(from, pid) in new.iter().take(MOST) {
        let is_command =
            timeline.iter().any(|step| step.step == Step::CommandStarted && step.pid == Some(pid));
        let to = at(Step::CommandEnded).filter(|_| is_command).unwrap_or(scale.to);
        let what = if is_command { "command" } else { "new" };
        let bar = Bar { class: "new", from, to, text: "runs".to_owned() };
        rows.push((format!("{what}, pid {pid}"), vec![bar]));
    }
    rows
}

/// The port: held by the old owner, by nobody, served by the new one.
fn port(restarted: &Restarted, scale: &Scale) -> Vec<Bar> {
    let bar = |class, from, to, text: &str| Bar { class, from, to, text: text.to_owned() };
    let mut bars = Vec::new();
    let released = restarted.timeline.iter().find(|step| step.step == Step::Released).map(|step| step.at_us);
    bars.extend(released.map(|released| bar("held", scale.from, released, "held")));
    let mut since = released.unwrap_or(scale.from);
    let mut serves = false;
    for step in restarted.timeline.iter().filter(|step| released.is_none_or(|at| step.at_us >= at)) {
        match step.step {
            // Without a release there was always a socket that listened.
            Step::TakenOver if !serves && released.is_none() => {
                bars.push(bar("held", since, step.at_us, "kept"));
                (since, serves) = (step.at_us, true);
            }
            Step::Listen if !serves => {
                bars.push(bar("down", since, step.at_us, "down"));
                (since, serves) = (step.at_us, true);
            }
            Step::Lost if serves => {
                bars.push(bar("served", since, step.at_us, "served"));
                (since, serves) = (step.at_us, false);
            }
            _ => {}
        }
    }
    if serves {
        bars.push(bar("served", since, scale.to, "served"));
    } else if released.is_some() {
        bars.push(bar("down", since, scale.to, "down"));
    }
    bars
}
