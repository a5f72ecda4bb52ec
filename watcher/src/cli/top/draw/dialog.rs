//! What stands over the list: the dry run and its question, an answer, the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Wrap};

use super::Canvas;
use crate::cli::text::style::{self, Colour};
use crate::cli::top::keys::HELP;
use crate::cli::top::question::{Dialog, Plan};

/// No wider than this, for the eye.
const WIDEST: u16 = 96;

impl Canvas {
    pub(super) fn dialog(&self, frame: &mut Frame<'_>, area: Rect, dialog: &Dialog) {
        let (title, lines, last) = match dialog {
            Dialog::Looking(port) => {
                (format!("port {port}"), vec!["a dry run finds out who would be ended".to_owned()], "")
            }
            Dialog::Ask(Plan { port, answer, targets, by_agent, .. }) => {
                let mut lines = answer.clone();
                if *by_agent {
                    lines.push("The agent ends it, by its own rules.".to_owned());
                }
                let ask = if targets.len() == 1 { "End it? [y/N]" } else { "End them? [y/N]" };
                (format!("port {port}: dry run, no process was signalled"), lines, ask)
            }
            Dialog::Cleaning(port) => {
                (format!("port {port}"), vec!["its owners are being ended".to_owned()], "")
            }
            Dialog::Answer { title, lines } => (title.clone(), lines.clone(), "any key goes on"),
            Dialog::Help => {
                let lines = HELP.iter().map(|(key, what)| format!("{key:<8} {what}")).collect();
                ("keys".to_owned(), lines, "any key goes on")
            }
        };
        let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::from(style::printable(line))).collect();
        let text = Paragraph::new(lines).wrap(Wrap { trim: false });
        let [middle] = Layout::horizontal([Constraint::Max(WIDEST)]).flex(Flex::Center).areas::<1>(area);
        let inside = middle.width.saturating_sub(4);
        let needed = u16::try_from(text.line_count(inside)).unwrap_or(u16::MAX);
        // The border, and the question, which is always to be seen: of a long answer the end is cut.
        let height = needed.saturating_add(2 + u16::from(!last.is_empty()));
        let [middle] = Layout::vertical([Constraint::Max(height)]).flex(Flex::Center).areas::<1>(middle);
        frame.render_widget(Clear, middle);
        let block = Block::bordered().title(format!(" {title} ")).padding(Padding::horizontal(1));
        let [above, below] =
            Layout::vertical([Constraint::Min(0), Constraint::Length(u16::from(!last.is_empty()))])
                .areas(block.inner(middle));
        frame.render_widget(block, middle);
        frame.render_widget(text, above);
        frame.render_widget(Line::styled(last, self.theme.style(Colour::Strong)), below);
    }
}
