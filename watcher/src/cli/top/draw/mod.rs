//! How the screen looks.

mod detail;
mod dialog;
mod list;
mod theme;

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, TableState};

pub(super) use self::theme::Theme;
use super::order::By;
use super::state::State;
use crate::cli::text::clock::Clock;
use crate::cli::text::style::{self, Colour};

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
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        self.head(frame, head, state);
        match state.detail {
            Some(scrolled) => state.detail = Some(self.detail(frame, body, state, scrolled, now)),
            None => self.list(frame, body, state, now),
        }
        self.foot(frame, foot, state);
        if let Some(dialog) = &state.dialog {
            self.dialog(frame, body, dialog);
        }
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let (held, free) = state.counts();
        let ports = if held == 1 { "port" } else { "ports" };
        let free = if free == 0 { String::new() } else { format!(", {free} free") };
        let since = self.clock.time(state.since);
        let rest = format!("  {}, since {since}", state.source);
        let head = format!("{held} {ports} held{free}");
        frame.render_widget(
            Paragraph::new(Line::from(vec![
                Span::styled(head, self.theme.style(Colour::Strong)),
                Span::styled(rest, self.theme.style(Colour::Faint)),
            ])),
            area,
        );
    }

    /// What is typed, or what was said, or what the keys do.
    fn foot(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let text = if state.is_typing {
            Line::from(format!("filter: {}_", style::printable(&state.filter)))
        } else if let Some(note) = &state.note {
            Line::styled(style::printable(note), self.theme.style(Colour::Odd))
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

/// The mark of the column that the list is sorted by.
fn sorted(by: By, state: &State) -> &'static str {
    match state.order {
        order if order.by != by => "",
        order if order.reversed => "▲",
        _ => "▼",
    }
}
