//! The table of `list`.

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Table};

use super::style::{self, Colour};
use crate::model::{Process, SocketState};
use crate::steps::owner::{Holding, Owner, Owners};

const TITLES: [&str; 8] = ["PORT", "ADDRESS", "PROCESS", "USER", "AGE", "STARTED BY", "UNIT", "DIRECTORY"];

/// One line for each address that an owner holds. On a terminal it is as wide as that is.
pub(in crate::cli) fn table(all: &[Owners]) -> String {
    if all.is_empty() {
        return "no process holds a port that can be seen\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(TITLES);
    for owners in all {
        for owner in &owners.owners {
            table.add_row([
                owners.port.to_string(),
                addresses(owner),
                style::process(owner),
                style::user(owner),
                owner.age.map(style::age).unwrap_or_default(),
                owner.process.as_ref().map(parent).unwrap_or_default(),
                owner.process.as_ref().map(style::place).unwrap_or_default(),
                owner
                    .process
                    .as_ref()
                    .and_then(|process| process.cwd.as_deref())
                    .map(style::folder)
                    .unwrap_or_default(),
            ]);
        }
    }
    arrange(&mut table);
    let text = table.trim_fmt();
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rest}\n", style::paint(Colour::Faint, head))
}

/// The columns of which no part is left out or broken, as long as they are not wider than this: what is in the others can go
/// on in the next line.
const WHOLE: [&str; 4] = ["PORT", "ADDRESS", "USER", "AGE"];
const WIDEST_WHOLE: u16 = 15;
/// Where there are fewer columns of the terminal than this, one between two cells is enough.
const NARROW: u16 = 100;

/// Makes the table fit a terminal. Columns in which there is nothing are left out.
fn arrange(table: &mut Table) {
    let Some(width) = table.width() else { return };
    let widest = table.column_max_content_widths();
    let is_empty = |at| table.column_cells_iter(at).flatten().all(|cell| cell.content().is_empty());
    let empty: Vec<bool> = (0..widest.len()).map(is_empty).collect();
    for (((column, title), widest), is_empty) in table.column_iter_mut().zip(TITLES).zip(widest).zip(empty) {
        if is_empty {
            column.set_constraint(ColumnConstraint::Hidden);
        } else if WHOLE.contains(&title) && widest <= WIDEST_WHOLE {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if width < NARROW {
            column.set_padding((1, 0));
        }
    }
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

    fn drawn(width: u16, unit: &str) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(TITLES);
        table.add_row(["3000", "127.0.0.1", "node (pid 812)", "root", "3 h", "bash", unit, "/srv/shop"]);
        table.set_width(width);
        arrange(&mut table);
        table.trim_fmt()
    }

    #[test]
    fn a_narrow_terminal_breaks_no_word() {
        let shown = drawn(60, "");
        let expected = "PORT ADDRESS   PROCESS        USER AGE STARTED BY DIRECTORY
 3000 127.0.0.1 node (pid 812) root 3 h bash       /srv/shop";
        assert_eq!(shown.trim_start(), expected);
    }

    #[test]
    fn a_column_is_there_where_one_cell_says_something() {
        assert!(drawn(120, "shop.service").contains("UNIT"));
        assert!(!drawn(120, "").contains("UNIT"));
        assert!(drawn(60, "shop.service").lines().all(|line| line.chars().count() <= 60));
    }
}
