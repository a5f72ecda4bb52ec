//! The table of `list`.

use std::path::is_separator;

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Table};

use super::style::{self, Colour};
use crate::model::{Process, SocketState};
use crate::steps::owner::{Holding, Owner, Owners};

const TITLES: [&str; 8] = ["PORT", "ADDRESS", "PROCESS", "USER", "AGE", "STARTED BY", "UNIT", "DIRECTORY"];

type Row = [String; TITLES.len()];

/// One line for each address that an owner holds. On a terminal it is as wide as that is.
pub(in crate::cli) fn table(all: &[Owners]) -> String {
    if all.is_empty() {
        return "no process holds a port that can be seen\n".to_owned();
    }
    let rows = all.iter().flat_map(|owners| owners.owners.iter().map(|owner| row(owners, owner)));
    let text = drawn(rows.collect(), Table::new().width());
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rest}\n", style::paint(Colour::Faint, head))
}

fn row(owners: &Owners, owner: &Owner) -> Row {
    let process = owner.process.as_ref();
    let folder = process.and_then(|process| process.cwd.as_deref()).map(style::folder);
    // Its user has a column.
    let is_unseen = process.is_none() && owner.pid.is_none();
    [
        owners.port.to_string(),
        addresses(owner),
        if is_unseen { "an unseen process".to_owned() } else { style::process(owner) },
        style::user(owner),
        owner.age.map(style::age).unwrap_or_default(),
        process.map(parent).unwrap_or_default(),
        process.map(style::place).unwrap_or_default(),
        folder.unwrap_or_default(),
    ]
}

/// The columns of which no part is left out or broken, as long as they are not wider than this: what is in the others can go
/// on in the next line.
const WHOLE: [&str; 4] = ["PORT", "ADDRESS", "USER", "AGE"];
const WIDEST_WHOLE: usize = 15;
/// The columns that are left out where there is no room, the first one first. `owners` tells what was in them.
const SPARED: [&str; 3] = ["STARTED BY", "DIRECTORY", "UNIT"];
/// Where there are fewer columns of the terminal than this, one between two cells is enough.
const NARROW: u16 = 100;

/// The table; on a terminal of this width, as much of it as fits there.
fn drawn(mut rows: Vec<Row>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(TITLES);
    let Some(width) = width else {
        table.add_rows(rows);
        return table.trim_fmt();
    };
    table.set_width(width);
    let padding = if width < NARROW { (1, 0) } else { (1, 1) };
    let shown = fit(&mut rows, usize::from(width), usize::from(padding.0 + padding.1));
    table.add_rows(&rows);
    for (at, (column, title)) in table.column_iter_mut().zip(TITLES).enumerate() {
        column.set_padding(padding);
        if !shown.contains(&title) {
            column.set_constraint(ColumnConstraint::Hidden);
        } else if WHOLE.contains(&title) && widest(&rows, at) <= WIDEST_WHOLE {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// The columns that are shown: those that say something, as far as there is room for them. For the directories, only the
/// ends of their names may be left.
fn fit(rows: &mut [Row], width: usize, between: usize) -> Vec<&'static str> {
    let says = |at: usize| rows.iter().any(|row| !row[at].is_empty());
    let mut shown: Vec<_> = (0..TITLES.len()).filter(|&at| says(at)).collect();
    for spared in SPARED {
        let needed: usize = shown.iter().map(|&at| widest(rows, at).max(TITLES[at].len()) + between).sum();
        let Some(over) = needed.checked_sub(width).filter(|over| *over > 0) else { break };
        let Some(at) = TITLES.iter().position(|title| *title == spared) else { continue };
        let room = widest(rows, at).saturating_sub(over);
        if spared == "DIRECTORY" && room >= spared.len() {
            rows.iter_mut().for_each(|row| row[at] = end_of(&row[at], room));
            break;
        }
        shown.retain(|shown| *shown != at);
    }
    shown.into_iter().map(|at| TITLES[at]).collect()
}

/// The width of the widest line in a column.
fn widest(rows: &[Row], at: usize) -> usize {
    let lines = rows.iter().flat_map(|row| row[at].lines());
    lines.map(|line| line.chars().count()).max().unwrap_or_default()
}

/// The end of a directory's name, which says most; from a whole part of it on, where that fits.
fn end_of(folder: &str, width: usize) -> String {
    let count = folder.chars().count();
    if count <= width {
        return folder.to_owned();
    }
    let end: String = folder.chars().skip(count + 1 - width).collect();
    format!("…{}", end.find(is_separator).map_or(&*end, |at| &end[at..]))
}

fn addresses(owner: &Owner) -> String {
    let mut all: Vec<String> = owner.holdings.iter().map(address).collect();
    all.sort_unstable();
    all.dedup();
    all.join("\n")
}

fn address(holding: &Holding) -> String {
    let ip = holding.socket.address.ip();
    match holding.socket.state {
        SocketState::Bound if !holding.socket.serves() => format!("{ip} (bound)"),
        SocketState::Bound | SocketState::Listen | SocketState::Connected => ip.to_string(),
    }
}

fn parent(process: &Process) -> String {
    let name = process.parent.as_ref().and_then(|parent| parent.comm.as_deref());
    name.map(style::printable).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: u16, process: &str, unit: &str, folder: &str) -> String {
        let row = ["3000", "127.0.0.1", process, "root", "3 h", "bash", unit, folder];
        drawn(vec![row.map(str::to_owned)], Some(width))
    }

    #[test]
    fn a_narrow_terminal_breaks_no_word() {
        let expected = "PORT ADDRESS   PROCESS        USER AGE STARTED BY DIRECTORY
 3000 127.0.0.1 node (pid 812) root 3 h bash       /srv/shop";
        assert_eq!(shown(60, "node (pid 812)", "", "/srv/shop").trim_start(), expected);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_of_a_directory_the_end_is_kept() {
        let long = "/home/ann/projects/shop/server";
        for (process, unit, expected) in [
            (
                "node (pid 812)",
                "",
                "PORT ADDRESS   PROCESS        USER AGE DIRECTORY
 3000 127.0.0.1 node (pid 812) root 3 h …/shop/server",
            ),
            (
                "next-server (pid 194304)",
                "",
                "PORT ADDRESS   PROCESS                  USER AGE DIRECTORY
 3000 127.0.0.1 next-server (pid 194304) root 3 h …/server",
            ),
            (
                "node (pid 812)",
                "shop.service",
                "PORT ADDRESS   PROCESS        USER AGE UNIT
 3000 127.0.0.1 node (pid 812) root 3 h shop.service",
            ),
        ] {
            assert_eq!(shown(60, process, unit, long).trim_start(), expected);
        }
        assert_eq!(end_of("/a/very-long-name", 9), "…ong-name");
        // There is room on a wide one, and a file is no terminal.
        assert!(shown(120, "node (pid 812)", "shop.service", long).contains(long));
        let row = ["1"; 8].map(str::to_owned);
        assert!(drawn(vec![row], None).contains("STARTED BY"));
    }

    #[test]
    fn a_column_is_there_where_one_cell_says_something() {
        assert!(shown(120, "node (pid 812)", "shop.service", "/srv/shop").contains("UNIT"));
        assert!(!shown(120, "node (pid 812)", "", "/srv/shop").contains("UNIT"));
        let narrow = shown(60, "node (pid 812)", "shop.service", "/srv/shop");
        assert!(narrow.lines().all(|line| line.chars().count() <= 60));
    }
}
