//! The colours, or none: `--color`, `NO_COLOR` and `CLICOLOR_FORCE` mean here what they mean for all answers.

use std::io::stdout;

use anstream::{AutoStream, ColorChoice};
use ratatui::style::{Color, Modifier, Style};

use crate::cli::text::style::Colour;

/// Whether there are colours. What they say is said in words as well.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::top) struct Theme {
    pub(in crate::cli::top) has_colours: bool,
}

impl Theme {
    /// What the command line and the environment choose.
    pub(in crate::cli::top) fn chosen() -> Self {
        let has_colours = AutoStream::choice(&stdout()) != ColorChoice::Never;
        // The flag wins over NO_COLOR, which crossterm reads by itself.
        crossterm::style::force_color_output(has_colours);
        Self { has_colours }
    }

    pub(super) fn style(self, colour: Colour) -> Style {
        let plain = Style::new();
        match colour {
            Colour::Strong => plain.add_modifier(Modifier::BOLD),
            Colour::Faint => plain.add_modifier(Modifier::DIM),
            _ if !self.has_colours => plain,
            Colour::Good => plain.fg(Color::Green),
            Colour::Bad => plain.fg(Color::Red),
            Colour::Odd => plain.fg(Color::Yellow),
            Colour::Plain => plain,
        }
    }

    pub(super) fn selected() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
