//! A port alone: who holds it, and its timeline, the newest event first.

use std::time::{Duration, SystemTime};

use anstream::adapter::strip_str;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::{Canvas, has_holes};
use crate::cli::text::style::{self, Colour};
use crate::cli::text::watch::Repeated;
use crate::cli::text::{owners, watch};
use crate::cli::top::holes::Hole;
use crate::cli::top::row::Row;
use crate::cli::top::state::{HOUR, State};
use crate::model::WatchKind;

const DAY: Duration = Duration::from_secs(86_400);

impl Canvas {
    /// Returns how many lines are scrolled away: never so many that nothing is left to see.
    pub(super) fn detail(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        state: &State,
        scrolled: usize,
        now: SystemTime,
    ) -> usize {
        let shown = state.shown(now);
        let Some(row) = state.selected(&shown).map(|at| shown[at]) else {
            frame.render_widget(Paragraph::new("  the port is free, and forgotten"), area);
            return 0;
        };
        let text = Paragraph::new(self.lines(row, state, now)).wrap(Wrap { trim: false });
        let scrolled = scrolled.min(text.line_count(area.width).saturating_sub(area.height.into()));
        let rows = u16::try_from(scrolled).unwrap_or(u16::MAX);
        frame.render_widget(text.scroll((rows, 0)), area);
        scrolled
    }

    fn lines(&self, row: &Row, state: &State, now: SystemTime) -> Vec<Line<'static>> {
        let strong = self.theme.style(Colour::Strong);
        let mut lines = vec![Line::styled(
            match row.owners.len() {
                0 => format!("port {} is free", row.port),
                1 => format!("port {} is held by one process", row.port),
                many => format!("port {} is held by {many} processes", row.port),
            },
            strong,
        )];
        for owner in &row.owners {
            let text = strip_str(&owners::describe(owner)).to_string();
            lines.extend(text.lines().map(|line| Line::from(format!("  {line}"))));
        }
        let (conflicts, restarts) = (row.conflicts.count(now), row.restarts.count(now));
        lines.push(Line::default());
        let span = self.span(state, now).replace("the last hour", "in the last hour");
        let known = if has_holes(state, now) { ", as far as it is known" } else { "" };
        let counts = format!("{}, {}", some(conflicts, "conflict"), some(restarts, "restart"));
        lines.push(Line::styled(format!("{span}{known}: {counts}"), strong));
        let mut holes = state.holes.within(HOUR, now).peekable();
        for entry in row.timeline.iter().rev() {
            while let Some(hole) = holes.next_if(|hole| hole.until > entry.last) {
                lines.push(self.hole(hole));
            }
            lines.push(self.entry(entry, now));
        }
        lines.extend(holes.map(|hole| self.hole(hole)));
        lines
    }

    fn hole(&self, hole: &Hole) -> Line<'static> {
        let time = Span::styled(self.time(hole.until), self.theme.style(Colour::Faint));
        let kind = Span::styled(format!("{:<8}", "gap"), self.theme.style(Colour::Bad));
        Line::from(vec![time, kind, Span::from(format!("  {}", hole.describe(&self.clock)))])
    }

    fn time(&self, time: SystemTime) -> String {
        format!("  {}  ", self.clock.time(time))
    }

    fn entry(&self, entry: &Repeated, now: SystemTime) -> Line<'static> {
        let event = &entry.event;
        let kind =
            Span::styled(format!("{:<8}", event.kind.name()), self.theme.style(watch::colour(&event.kind)));
        let mut who = match (&event.comm, event.pid) {
            (Some(comm), Some(pid)) => format!("  {} (pid {pid})", style::printable(comm)),
            (None, Some(pid)) => format!("  pid {pid}"),
            _ => String::new(),
        };
        if let Some(address) = event.address {
            who += &format!("  {}", address.ip());
        }
        if let WatchKind::Conflict { holders, .. } = &event.kind
            && let Some(comm) = holders.first().and_then(|holder| holder.comm.as_ref())
        {
            who += &format!("; held by {}", style::printable(comm));
        }
        if let Some(often) = entry.often() {
            who += &format!("  {often}");
        }
        // What holds the port can have taken it long ago.
        if now.duration_since(event.time).is_ok_and(|ago| ago > DAY / 2) {
            who += &format!("  since {}", self.clock.moment(event.time));
        }
        let time = Span::styled(self.time(event.time), self.theme.style(Colour::Faint));
        Line::from(vec![time, kind, Span::from(who)])
    }
}

fn some(count: u64, what: &str) -> String {
    match count {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
