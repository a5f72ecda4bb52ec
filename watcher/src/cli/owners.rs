//! `gatewatch owners`.

use std::fmt::Write as _;
use std::time::Instant;

use super::CliError;
use super::args::{Format, OwnersArgs};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use crate::agent::client::Client;
use crate::exclude::Exclusions;
use crate::observe::{Interest, Socket, SocketState};
use crate::owner::owners;
use crate::process::Identity;
use crate::report::{OwnerReport, OwnersReport, SocketReport};

pub(super) async fn run(args: &OwnersArgs) -> Result<u8, CliError> {
    let begun = Instant::now();
    let setup = Setup::new(&args.observing)?;
    let ports = setup.ports(&args.ports);
    let cannot = args.matching.is_given().then_some("what matches is for its configuration to say");
    if let Some(mut agent) = setup.agent(&args.observing, cannot).await?
        && ask(&setup, &mut agent, args, &ports, begun).await?
    {
        return Ok(0);
    }
    let rules = ports.iter().map(|&port| setup.rules(&args.matching, port)).collect::<Result<Vec<_>, _>>()?;
    let mut observer = setup.observer(&ports, Interest::Snapshots)?;
    let exclusions = Exclusions::new(&setup.host, std::process::id(), &[], false);
    for (port, rules) in ports.into_iter().zip(rules) {
        let mut sockets = observer.snapshot(port)?;
        sockets.retain(Socket::owns_port);
        let owners = owners(&sockets, &setup.host, &rules, &exclusions);
        let owners = owners.iter().map(OwnerReport::from).collect();
        print(&setup, &OwnersReport { port, owners, backend: observer.backend() }, begun)?;
    }
    Ok(0)
}

/// Has the agent answer; false where it won't.
async fn ask(
    setup: &Setup,
    agent: &mut Client,
    args: &OwnersArgs,
    ports: &[u16],
    begun: Instant,
) -> Result<bool, CliError> {
    let mut reports: Vec<OwnersReport> = Vec::new();
    for port in ports {
        let answer = agent.get(&format!("/v1/ports/{port}?netns={}", setup.host.netns())).await;
        let Some(report) = Setup::answered(&args.observing, answer)? else { return Ok(false) };
        reports.push(report);
    }
    for report in &reports {
        print(setup, report, begun)?;
    }
    Ok(true)
}

fn print(setup: &Setup, report: &OwnersReport, begun: Instant) -> Result<(), CliError> {
    match setup.format {
        Format::Json => super::print_json(report),
        Format::Text => super::print(&text(report, begun)),
    }
}

fn text(report: &OwnersReport, begun: Instant) -> String {
    let OwnersReport { port, owners, backend } = report;
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
pub(super) fn describe(paint: Paint, owner: &OwnerReport) -> String {
    let mut out = paint.paint(Colour::Strong, &style::process(owner));
    let mut line = |what: &str, text: &str| {
        let _ = write!(out, "\n      {what:<9} {text}");
    };
    let mut sockets: Vec<String> = owner.sockets.iter().map(address).collect();
    sockets.sort_unstable();
    sockets.dedup();
    line("holds", &sockets.join("  "));
    if let Some(command) = style::command_line(owner) {
        line("command", &command);
    }
    if let Some(unit) = &owner.unit {
        line("unit", &style::printable(unit));
    }
    if let Some(container) = &owner.container {
        line("container", container.get(..12).unwrap_or(container));
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

fn address(socket: &SocketReport) -> String {
    let address = &socket.address;
    match socket.state {
        SocketState::Listen => address.clone(),
        SocketState::Bound => format!("{address} (bound, not listening)"),
        SocketState::Connected => format!("{address} (a connection)"),
    }
}
