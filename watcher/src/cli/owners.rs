//! `gatewatch owners`.

use std::fmt::Write as _;
use std::time::Instant;

use super::CliError;
use super::args::{Format, OwnersArgs};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use crate::exclude::Exclusions;
use crate::observe::{Backend, Interest, Socket, SocketState};
use crate::owner::{Owner, owners};
use crate::process::Identity;
use crate::report::{OwnerReport, OwnersReport};

pub(super) fn run(args: &OwnersArgs) -> Result<u8, CliError> {
    let begun = Instant::now();
    let setup = Setup::new(&args.observing)?;
    let ports = setup.ports(&args.ports);
    let rules = ports.iter().map(|&port| setup.rules(&args.matching, port)).collect::<Result<Vec<_>, _>>()?;
    let mut observer = setup.observer(&ports, Interest::Snapshots)?;
    let exclusions = Exclusions::new(&setup.host, std::process::id(), &[], false);
    for (port, rules) in ports.into_iter().zip(rules) {
        let mut sockets = observer.snapshot(port)?;
        sockets.retain(Socket::owns_port);
        let owners = owners(&sockets, &setup.host, &rules, &exclusions);
        let backend = observer.backend();
        match setup.format {
            Format::Json => super::print_json(&OwnersReport {
                port,
                owners: owners.iter().map(OwnerReport::from).collect(),
                backend,
            })?,
            Format::Text => super::print(&text(port, &owners, backend, begun))?,
        }
    }
    Ok(0)
}

fn text(port: u16, owners: &[Owner], backend: Backend, begun: Instant) -> String {
    let paint = Paint::stdout();
    let took = format!("({}, {})", backend.name(), style::duration(begun.elapsed()));
    let took = paint.paint(Colour::Faint, &took);
    let mut out = String::new();
    let head = match owners.len() {
        0 => format!("nobody holds port {port}"),
        1 => format!("port {port} is held by one process"),
        many => format!("port {port} is held by {many} processes"),
    };
    let _ = writeln!(out, "{}  {took}", paint.paint(Colour::Strong, &head));
    for owner in owners {
        let _ = writeln!(out, "  {}", describe(paint, owner));
    }
    out
}

/// An owner in a few aligned lines.
pub(super) fn describe(paint: Paint, owner: &Owner) -> String {
    let mut out = paint.paint(Colour::Strong, &style::process(owner));
    let mut line = |what: &str, text: &str| {
        let _ = write!(out, "\n      {what:<9} {text}");
    };
    let mut sockets: Vec<String> = owner.held.iter().map(|held| address(&held.socket)).collect();
    sockets.sort_unstable();
    sockets.dedup();
    line("holds", &sockets.join("  "));
    if let Some(command) = style::command_line(owner) {
        line("command", &command);
    }
    let (colour, verdict) = match owner.identity {
        Identity::Match => (Colour::Good, "match"),
        Identity::Other => (Colour::Odd, "other"),
        Identity::Unclassified => (Colour::Odd, "unclassified"),
    };
    line("identity", &format!("{}: {}", paint.paint(colour, verdict), style::printable(&owner.why)));
    if let Some(relation) = owner.relation {
        line("never", &paint.paint(Colour::Odd, relation.describe()));
    }
    out
}

fn address(socket: &Socket) -> String {
    match socket.state {
        SocketState::Listen => socket.address.to_string(),
        SocketState::Bound => format!("{} (bound, not listening)", socket.address),
        SocketState::Connected => format!("{} (a connection)", socket.address),
    }
}
