//! The list of ports: as many columns as the terminal is wide, the most important ones first.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::widgets::{Cell, Paragraph, Row as Line, Table};

use super::theme::Theme;
use super::{Canvas, sorted};
use crate::cli::text::style::{self, Colour};
use crate::cli::text::watch;
use crate::cli::top::order::By;
use crate::cli::top::row::{Row, cut};
use crate::cli::top::state::State;

/// A column, its width, and what the list is sorted by where it is the one. Those that a narrow terminal has no room for
/// go from the end of the list.
struct Column {
    title: &'static str,
    width: u16,
    by: Option<By>,
    cell: fn(&Row, usize, SystemTime) -> String,
}

const COLUMNS: [Column; 10] = [
    Column { title: "PORT", width: 6, by: Some(By::Port), cell: |row, _, _| row.port.to_string() },
    Column { title: "OWNER", width: 16, by: Some(By::Owner), cell: |row, width, _| row.owner(width) },
    Column { title: "LAST EVENT", width: 15, by: Some(By::Last), cell: |row, _, now| last(row, now) },
    Column { title: "AGE", width: 6, by: Some(By::Age), cell: |row, _, now| age(row, now) },
    Column {
        title: "CONF",
        width: 5,
        by: Some(By::Conflicts),
        cell: |row, _, now| number(row.conflicts.count(now)),
    },
    Column {
        title: "REST",
        width: 5,
        by: Some(By::Restarts),
        cell: |row, _, now| number(row.restarts.count(now)),
    },
    Column { title: "UNIT", width: 20, by: Some(By::Place), cell: |row, _, _| row.place() },
    Column { title: "USER", width: 10, by: Some(By::User), cell: |row, _, _| row.user() },
    Column { title: "ADDRESS", width: 16, by: None, cell: |row, _, _| row.addresses() },
    Column { title: "COMMAND", width: 24, by: None, cell: |row, _, _| row.command() },
];
/// The column that what is left of the width goes to, and the one that takes it where there is room for it.
const OWNER: usize = 1;
const COMMAND: usize = 9;
/// The mark before the selected port.
const MARK: &str = "> ";

impl Canvas {
    pub(super) fn list(&mut self, frame: &mut Frame<'_>, area: Rect, state: &State, now: SystemTime) {
        let shown = state.shown(now);
        if shown.is_empty() {
            let text = if state.filter.is_empty() {
                "  no process holds a port that can be seen"
            } else {
                "  no port matches the filter"
            };
            frame.render_widget(Paragraph::new(text), area);
            return;
        }
        let longest = shown.iter().map(|row| row.port.to_string().len()).max().unwrap_or_default();
        let widths = widths(area.width, u16::try_from(longest).unwrap_or_default());
        let columns = || COLUMNS.iter().zip(&widths);
        let title = |(column, &width): (&Column, &u16)| {
            let mark = column.by.map_or("", |by| sorted(by, state));
            cut(&format!("{}{mark}", column.title), width.into())
        };
        let lines = shown.iter().map(|row| {
            Line::new(columns().map(|(column, &width)| {
                let text = cut(&(column.cell)(row, width.into(), now), width.into());
                Cell::new(text).style(self.theme.style(colour(column, row, now)))
            }))
        });
        let table = Table::new(lines, widths.iter().map(|&width| Constraint::Length(width)))
            .header(Line::new(columns().map(title)).style(self.theme.style(Colour::Faint)))
            .column_spacing(1)
            .highlight_symbol(MARK)
            .row_highlight_style(Theme::selected());
        self.list.select(state.selected(&shown));
        frame.render_stateful_widget(table, area, &mut self.list);
    }
}

/// The widths of the columns that there is room for; the longest port is never cut.
fn widths(room: u16, longest: u16) -> Vec<u16> {
    let mut left = room.saturating_sub(2);
    let mut widths = Vec::new();
    for column in &COLUMNS {
        let width = if widths.is_empty() { column.width.max(longest) } else { column.width };
        let needed = width + u16::from(!widths.is_empty());
        // The port is always shown.
        if needed > left && !widths.is_empty() {
            break;
        }
        left = left.saturating_sub(needed);
        widths.push(width);
    }
    let widest = if widths.len() > COMMAND { COMMAND } else { OWNER };
    if let Some(width) = widths.get_mut(widest) {
        *width += left;
    }
    widths
}

fn last(row: &Row, now: SystemTime) -> String {
    match (row.last(), row.idle(now)) {
        (Some(entry), Some(idle)) => format!("{} {}", entry.event.kind.name(), style::age(idle)),
        _ => String::new(),
    }
}

fn age(row: &Row, now: SystemTime) -> String {
    row.age(now).map(style::age).unwrap_or_default()
}

/// A number; nothing for none, so that the others stand out.
fn number(count: u64) -> String {
    match count {
        0 => String::new(),
        1..=9999 => count.to_string(),
        _ => "many".to_owned(),
    }
}

fn colour(column: &Column, row: &Row, now: SystemTime) -> Colour {
    match column.by {
        Some(By::Port) => Colour::Strong,
        Some(By::Owner) if row.owners.is_empty() => Colour::Good,
        Some(By::Last) => row.last().map_or(Colour::Faint, |entry| watch::colour(&entry.event.kind)),
        Some(By::Conflicts) if row.conflicts.count(now) > 0 => Colour::Bad,
        Some(By::Restarts) if row.restarts.count(now) > 0 => Colour::Odd,
        _ => Colour::Plain,
    }
}
