//! Colours, on a terminal only, and never where `NO_COLOR` is set (no-color.org).

use std::io::{IsTerminal, stderr, stdout};
use std::time::Duration;

use crate::report::OwnerReport;

/// Whether standard output takes colours.
pub(super) fn on_stdout() -> bool {
    stdout().is_terminal() && wanted()
}

/// Whether standard error does.
pub(super) fn on_stderr() -> bool {
    stderr().is_terminal() && wanted()
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var("TERM").as_deref() != Ok("dumb")
}

/// A colour.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Good,
    Bad,
    Odd,
    Faint,
    Strong,
}

/// Paints text, or leaves it alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    /// For standard output.
    pub(super) fn stdout() -> Self {
        Self(on_stdout())
    }

    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Bad => "31",
            Colour::Odd => "33",
            Colour::Faint => "2",
            Colour::Strong => "1",
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A duration as people read it: three digits, and a unit that fits.
pub(super) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

/// As [`duration`], of microseconds.
pub(super) fn micros(micros: u64) -> String {
    duration(Duration::from_micros(micros))
}

/// A process by its name and pid; what can't be seen, by what is known of it.
pub(super) fn process(owner: &OwnerReport) -> String {
    match (&owner.comm, owner.pid, owner.uid) {
        (Some(comm), Some(pid), _) => format!("{} (pid {pid})", printable(comm)),
        (_, Some(pid), _) => format!("an unreadable process (pid {pid})"),
        (_, None, Some(uid)) => format!("an unseen process of user {uid}"),
        (_, None, None) => "an unseen process".to_owned(),
    }
}

/// The command line on one line, cut to what fits.
pub(super) fn command_line(owner: &OwnerReport) -> Option<String> {
    const LONGEST: usize = 96;
    let line = printable(&owner.argv.as_ref()?.join(" "));
    let cut = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
    Some(if cut < line.len() { format!("{}…", &line[..cut]) } else { line })
}

/// A name can hold anything, escape sequences included, that must not reach a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
