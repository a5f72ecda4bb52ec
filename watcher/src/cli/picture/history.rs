//! The owners of ports over time: a row a port, with a bar for as long as somebody held it, a tick for each bind that
//! failed, and shade where nothing is known.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use svg::Document;
use svg::node::element::{Group, Line, Style, Title};

use super::{BAR, LEFT, RIGHT, STYLE, WIDEST_WORD, WIDTH, rectangle, text};
use crate::cli::text::clock::Clock;
use crate::cli::text::style::printable;
use crate::model::{Port, Record, SocketKey, Told, WatchEvent, WatchKind};

/// The first row, and how far rows are apart.
const TOP: i32 = 64;
const APART: i32 = 30;
/// How many ports are drawn, and how many bars and ticks of each.
const MOST_PORTS: usize = 64;
const MOST_MARKS: usize = 512;
/// How wide a letter is, at most.
const LETTER: f64 = 7.5;

/// Somebody who held a port.
#[derive(Debug)]
struct Held {
    who: String,
    from: SystemTime,
    /// `None` while it goes on.
    to: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct Row {
    held: Vec<Held>,
    conflicts: Vec<SystemTime>,
    /// How many of both were left out.
    more: usize,
}

/// What is to be drawn, gathered record by record.
#[derive(Debug)]
pub(in crate::cli) struct Owners {
    since: SystemTime,
    until: SystemTime,
    clock: Clock,
    rows: BTreeMap<Port, Row>,
    /// The bars that are still open, by their socket.
    open: HashMap<SocketKey, usize>,
    unknown: Vec<(SystemTime, SystemTime)>,
    leaves_out_ports: bool,
}

impl Owners {
    /// Of this span, with times in UTC or in the zone of this system.
    pub(in crate::cli) fn new(since: SystemTime, until: SystemTime, utc: bool) -> Self {
        let (rows, open, unknown) = (BTreeMap::new(), HashMap::new(), Vec::new());
        Self { since, until, clock: Clock::new(utc), rows, open, unknown, leaves_out_ports: false }
    }

    /// Adds a record. They come in the order in which things happened.
    pub(in crate::cli) fn add(&mut self, record: &Record) {
        match &record.told {
            Told::Event(event) => self.happened(event),
            Told::Gap(gap) => self.unknown.push((gap.from.unwrap_or(self.since), gap.until)),
            // What it ended is told by the releases.
            Told::Clean(_) => {}
        }
    }

    fn happened(&mut self, event: &WatchEvent) {
        if matches!(event.kind, WatchKind::Lost { .. } | WatchKind::Ready { .. } | WatchKind::Free) {
            return;
        }
        if self.rows.len() == MOST_PORTS && !self.rows.contains_key(&event.port) {
            self.leaves_out_ports = true;
            return;
        }
        let socket = SocketKey::new(event.port, event.netns, event.cookie, event.address);
        let row = self.rows.entry(event.port).or_default();
        let is_full = row.held.len() + row.conflicts.len() >= MOST_MARKS;
        match event.kind {
            WatchKind::Release => {
                let bar = self.open.remove(&socket).and_then(|at| row.held.get_mut(at));
                if let Some(bar) = bar {
                    bar.to = Some(event.time);
                }
            }
            _ if self.open.contains_key(&socket) => {}
            _ if is_full => row.more += 1,
            WatchKind::Conflict { .. } | WatchKind::Refused => row.conflicts.push(event.time),
            _ => {
                self.open.insert(socket, row.held.len());
                row.held.push(Held { who: name(event), from: event.time.max(self.since), to: None });
            }
        }
    }

    /// The picture.
    pub(in crate::cli) fn drawn(&self) -> Document {
        let rows = i32::try_from(self.rows.len()).unwrap_or_default();
        let height = TOP + APART * rows.max(1) + 34;
        let title = format!(
            "who held which port, {} to {}",
            self.clock.moment(self.since),
            self.clock.moment(self.until)
        );
        let mut picture = Document::new()
            .set("role", "img")
            .set("aria-label", title.clone())
            .set("viewBox", (0, 0, WIDTH, height))
            .set("width", WIDTH)
            .set("height", height)
            .add(Style::new(STYLE))
            .add(rectangle("ground", (0.5, 0.5), (f64::from(WIDTH) - 1.0, f64::from(height) - 1.0)))
            .add(text("title", 16.0, 28, title));
        for &(from, to) in &self.unknown {
            let (from, to) = (self.x(from), self.x(to));
            let size = ((to - from).max(1.0), f64::from(APART * rows.max(1)));
            let shade = rectangle("unknown", (from, f64::from(TOP - 5)), size);
            picture = picture.add(shade.add(Title::new("not known")));
        }
        for (place, (port, row)) in self.rows.iter().enumerate() {
            let y = TOP + APART * i32::try_from(place).unwrap_or_default();
            picture = picture.add(self.row(*port, row, y));
        }
        picture.add(text("faint", 16.0, height - 14, self.notes()))
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if self.rows.is_empty() {
            notes.push("nothing is recorded of this span".to_owned());
        }
        if self.leaves_out_ports {
            notes.push(format!("the first {MOST_PORTS} ports are drawn"));
        }
        let more: usize = self.rows.values().map(|row| row.more).sum();
        if more > 0 {
            notes.push(format!("{more} events are left out"));
        }
        notes.join("; ")
    }

    fn row(&self, port: Port, row: &Row, y: i32) -> Group {
        let mut group = Group::new().add(text("faint", 16.0, y + 15, format!("port {port}")));
        for bar in &row.held {
            let (from, to) = (self.x(bar.from), self.x(bar.to.unwrap_or(self.until)));
            let class = if bar.to.is_some() { "held" } else { "served" };
            let end = bar
                .to
                .map_or_else(|| "still there".to_owned(), |to| format!("until {}", self.clock.moment(to)));
            let about = format!("{}, from {}, {end}", bar.who, self.clock.moment(bar.from));
            let width = (to - from).max(1.0);
            let shape = rectangle(class, (from, y.into()), (width, BAR.into()));
            group = group.add(shape.add(Title::new(about)));
            let letters = u32::try_from(bar.who.chars().count()).unwrap_or(u32::MAX);
            if width > WIDEST_WORD.max(f64::from(letters) * LETTER) {
                group = group.add(text("middle", f64::midpoint(from, to), y + 15, bar.who.clone()));
            }
        }
        for &at in &row.conflicts {
            let x = self.x(at);
            let tick = Line::new().set("class", "tick").set("x1", x).set("x2", x);
            group = group.add(tick.set("y1", y - 3).set("y2", y + BAR + 3));
        }
        group
    }

    fn x(&self, at: SystemTime) -> f64 {
        let since = |at: SystemTime| at.duration_since(self.since).unwrap_or(Duration::ZERO).as_secs_f64();
        let part = since(at) / since(self.until).max(f64::MIN_POSITIVE);
        (LEFT + part * (RIGHT - LEFT)).clamp(LEFT, RIGHT).round()
    }
}

fn name(event: &WatchEvent) -> String {
    let comm = event.comm.as_deref().map_or_else(|| "unseen".to_owned(), printable);
    event.pid.map_or_else(|| comm.clone(), |pid| format!("{comm} {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, Described};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn record(seconds: u64, kind: WatchKind, cookie: u64) -> Record {
        let mut event = WatchEvent::now(kind, Port::tcp(80), Backend::Ebpf);
        event.time = at(seconds);
        (event.pid, event.comm, event.cookie) = (Some(7), Some("nginx".to_owned()), Some(cookie));
        Record { number: seconds, told: Told::Event(event), process: Described::default(), found: false }
    }

    #[test]
    fn a_bar_is_as_long_as_the_port_was_held() {
        let mut owners = Owners::new(at(0), at(100), true);
        // given an owner of before the span, and one that stays
        for (seconds, kind, cookie) in [
            (0, WatchKind::Held, 1),
            (50, WatchKind::Release, 1),
            (60, WatchKind::Bind, 2),
            (61, WatchKind::Listen, 2),
        ] {
            owners.add(&record(seconds, kind, cookie));
        }
        let held = &owners.rows[&Port::tcp(80)].held;
        let spans: Vec<_> = held.iter().map(|held| (held.from, held.to)).collect();
        assert_eq!(spans, [(at(0), Some(at(50))), (at(60), None)]);
        // then the first is half as long as the picture
        assert!((owners.x(at(50)) - f64::midpoint(LEFT, RIGHT)).abs() < 1.0);
        let drawn = owners.drawn().to_string();
        assert!(drawn.contains("nginx 7, from 1970-01-01 00:00:00, until 1970-01-01 00:00:50"), "{drawn}");
        assert!(drawn.contains("still there"), "{drawn}");
    }

    #[test]
    fn a_flood_is_drawn_in_part() {
        let mut owners = Owners::new(at(0), at(100), true);
        for cookie in 0..2000 {
            owners.add(&record(1, WatchKind::Bind, cookie));
            owners.add(&record(2, WatchKind::Release, cookie));
        }
        assert!(owners.drawn().to_string().contains("1488 events are left out"));
    }
}
