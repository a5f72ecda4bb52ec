//! The table of `list`.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::style::{self, Colour};
use crate::model::{Process, SocketState};
use crate::steps::owner::{Holding, Owner, Owners};

/// One line for each address that an owner holds. On a terminal it is as wide as that is.
pub(in crate::cli) fn table(all: &[Owners]) -> String {
    if all.is_empty() {
        return "no process holds a port that can be seen\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let titles = ["PORT", "ADDRESS", "PROCESS", "USER", "AGE", "STARTED BY", "UNIT", "DIRECTORY"];
    table.set_header(titles);
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
    let text = table.trim_fmt();
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rest}\n", style::paint(Colour::Faint, head))
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
