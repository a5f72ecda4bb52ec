//! How the screen looks.

mod detail;
mod dialog;
mod list;
mod theme;

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, TableState, Wrap};

pub(super) use self::theme::Theme;
use super::order::By;
use super::state::{HOUR, State};
use crate::cli::text::clock::Clock;
use crate::cli::text::style::{self, Colour};

/// As many lines of what was said are shown.
const MOST_SAID: usize = 2;

/// What is drawn with, and where the list stands.
pub(super) struct Canvas {
    theme: Theme,
    clock: Clock,
    list: TableState,
}

impl Canvas {
    pub(super) fn new(theme: Theme, clock: Clock) -> Self {
        Self { theme, clock, list: TableState::new() }
    }

    /// Draws all of it as it is at this moment.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, state: &mut State, now: SystemTime) {
        let note = state.note.as_ref().map(|note| self.note(note));
        let said = note.as_ref().map_or(0, |note| note.line_count(frame.area().width).min(MOST_SAID));
        let said = Constraint::Length(u16::try_from(said).unwrap_or_default());
        let [head, body, said, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), said, Constraint::Length(1)])
                .areas(frame.area());
        self.head(frame, head, state, now);
        match state.detail {
            Some(scrolled) => state.detail = Some(self.detail(frame, body, state, scrolled, now)),
            None => self.list(frame, body, state, now),
        }
        if let Some(note) = note {
            frame.render_widget(note, said);
        }
        self.foot(frame, foot, state);
        if let Some(dialog) = &state.dialog {
            self.dialog(frame, body, dialog);
        }
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect, state: &State, now: SystemTime) {
        let (held, free) = state.counts();
        let ports = if held == 1 { "port" } else { "ports" };
        let free = if free == 0 { String::new() } else { format!(", {free} free") };
        let gaps = if has_holes(state, now) { ", with gaps" } else { "" };
        let rest = format!("  {}, {}{gaps}", state.source, self.span(state, now));
        let head = format!("{held} {ports} held{free}");
        frame.render_widget(
            Paragraph::new(Line::from(vec![
                Span::styled(head, self.theme.style(Colour::Strong)),
                Span::styled(rest, self.theme.style(Colour::Faint)),
            ])),
            area,
        );
    }

    /// The time that conflicts, restarts and timelines are of.
    fn span(&self, state: &State, now: SystemTime) -> String {
        let is_whole = now.duration_since(state.since).is_ok_and(|known| known >= HOUR);
        if is_whole { "the last hour".to_owned() } else { format!("since {}", self.clock.time(state.since)) }
    }

    /// What was said.
    fn note(&self, note: &str) -> Paragraph<'static> {
        let line = Line::styled(style::printable(note), self.theme.style(Colour::Odd));
        Paragraph::new(line).wrap(Wrap { trim: true })
    }

    /// What is typed, or what the keys do.
    fn foot(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let text = if state.is_typing {
            Line::from(format!("filter: {}_", style::printable(&state.filter)))
        } else if state.detail.is_some() {
            Line::styled("Esc back  ↑↓ scroll  c clean  ? help", self.theme.style(Colour::Faint))
        } else if state.filter.is_empty() {
            let keys = "Enter detail  / filter  s sort  c clean  ? help  q quit";
            Line::styled(keys, self.theme.style(Colour::Faint))
        } else {
            Line::from(format!("filter: {}  (Esc: all)", style::printable(&state.filter)))
        };
        frame.render_widget(Paragraph::new(text), area);
    }
}

fn has_holes(state: &State, now: SystemTime) -> bool {
    state.holes.within(HOUR, now).next().is_some()
}

/// The mark of the column that the list is sorted by.
fn sorted(by: By, state: &State) -> &'static str {
    match state.order {
        order if order.by != by => "",
        order if order.reversed => "▲",
        _ => "▼",
    }
}
