//! Pictures for people who look rather than read: of a restart ([`restart`]), and of the owners of ports over time
//! ([`history`]).

pub(super) mod history;
pub(super) mod restart;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use svg::Document;
use svg::node::element::{Rectangle, Text};

use super::exit::CliError;

/// Its own ground, in light and in dark: it is readable on a page of any colour.
const STYLE: &str = "
  text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .faint { fill: #59636e }
  .number { text-anchor: end; font-variant-numeric: tabular-nums }
  .middle { text-anchor: middle }
  .ground { fill: #ffffff; stroke: #d1d9e0 }
  .old { fill: #afb8c1 } .new { fill: #54aeff } .held { fill: #afb8c1 } .down { fill: #ffaba8 } .served { fill: #6fdd8b }
  .mark { stroke: #1f2328; stroke-dasharray: 2 3 }
  .tick { stroke: #cf222e; stroke-width: 2 } .unknown { fill: #d1d9e0; opacity: 0.5 }
  .bad { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .faint { fill: #9198a1 } .bad { fill: #ff7b72 } .tick { stroke: #ff7b72 } .unknown { fill: #3d444d }
    .ground { fill: #0d1117; stroke: #3d444d } .mark { stroke: #f0f6fc }
    .old, .held { fill: #59636e } .new { fill: #1f6feb } .down { fill: #b62324 } .served { fill: #238636 }
  }
";
const WIDTH: i32 = 760;
/// Where the bars begin and end.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 730.0;
/// How high a bar is.
const BAR: i32 = 20;
/// Narrower bars say nothing.
const WIDEST_WORD: f64 = 46.0;

/// The file that the picture is written to.
pub(super) struct Picture(File);

impl Picture {
    /// Opens the file and leaves what is in it: where it can't be written, that is said before anybody is signalled.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        opened.map(Self).map_err(|error| {
            CliError::Usage(format!("--svg {}: it can't be written: {error}", path.display()))
        })
    }

    /// Writes the picture in the place of what was in the file.
    ///
    /// # Errors
    /// When it can't be written after all.
    pub(super) fn write(mut self, drawn: &Document) -> io::Result<()> {
        self.0.set_len(0)?;
        svg::write(&mut self.0, drawn)?;
        self.0.flush()
    }
}

fn rectangle(class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) -> Rectangle {
    Rectangle::new()
        .set("class", class)
        .set("x", x)
        .set("y", y)
        .set("width", width)
        .set("height", height)
        .set("rx", 3)
}

fn text(class: &str, x: f64, y: i32, content: String) -> Text {
    Text::new(content).set("class", class).set("x", x).set("y", y)
}
