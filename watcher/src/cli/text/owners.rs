//! The answer of `owners`.

use std::fmt::Write as _;
use std::time::Duration;

use super::style::{self, Colour};
use crate::cli::ports::Asked;
use crate::model::{Exclusion, ProcessState, Protocol, Reason, SocketState, Verdict};
use crate::steps::owner::{Holding, Owner, Owners};

/// How many of a process's sockets on a port are named.
const MOST_SOCKETS: usize = 16;

/// `asked` is the port, with the addresses that it is limited to, and `next` the command that would free it, if there is one.
pub(in crate::cli) fn answer(owners: &Owners, asked: &Asked, took: Duration, next: Option<String>) -> String {
    let Owners { port, owners, left_out, backend, clients, reason, free_in } = owners;
    let took = format!("({}, {})", backend.name(), style::duration(took));
    let took = style::paint(Colour::Faint, &took);
    let mut out = String::new();
    let head = match owners.len() + left_out {
        0 if asked.at.is_empty() => format!("no process holds port {port}"),
        // It may be held on others.
        0 => format!("no process holds {asked}"),
        1 => format!("port {port} is held by one process"),
        many => format!("port {port} is held by {}", holders(owners, many)),
    };
    let _ = writeln!(out, "{}  {took}", style::paint(Colour::Strong, &head));
    if *reason == Some(Reason::TimeWait)
        && let Some(free_in) = free_in
    {
        let free_in = style::duration(*free_in);
        let _ = writeln!(
            out,
            "  connections in TIME_WAIT linger on it for up to {free_in}: until then no server can bind that does not set \
             SO_REUSEADDR,\n  and none at all if theirs did not"
        );
    }
    for owner in owners.iter().chain(clients) {
        let _ = writeln!(out, "  {}", describe(owner));
    }
    if *left_out > 0 {
        let _ = writeln!(out, "  and {left_out} more, which the agent does not describe");
    }
    if let Some(next) = next {
        let _ = writeln!(out, "  {next}");
    }
    out
}

/// How many hold a port. Of processes that can't be seen only their sockets are known, of which one process can have several.
fn holders(owners: &[Owner], many: usize) -> String {
    let count = |number: usize, one: &str, more: &str| match number {
        1 => one.to_owned(),
        _ => format!("{number} {more}"),
    };
    let unseen = owners.iter().filter(|owner| owner.pid.is_none()).count();
    let sockets = count(unseen, "one socket", "sockets");
    match many - unseen {
        seen if unseen == 0 => count(seen, "one process", "processes"),
        0 => format!("{sockets} whose processes can't be seen"),
        seen => format!(
            "{}, and {sockets} whose processes can't be seen",
            count(seen, "one process", "processes")
        ),
    }
}

/// An owner in a few aligned lines.
pub(in crate::cli) fn describe(owner: &Owner) -> String {
    let mut out = style::paint(Colour::Strong, &style::process(owner));
    let mut line = |what: &str, text: &str| {
        let _ = write!(out, "\n      {what:<9} {text}");
    };
    line("holds", &holdings(owner));
    if let Some(command) = style::command_line(owner) {
        line("command", &command);
    }
    let process = owner.process.as_ref();
    if let Some(cwd) = process.and_then(|process| process.cwd.as_deref()) {
        line("in", &style::printable(&cwd.to_string_lossy()));
    }
    if let Some(started) = started(owner) {
        line("started", &started);
    }
    if let Some(unit) = process.and_then(|process| process.unit.as_deref()) {
        line("unit", &style::printable(unit));
    }
    if let Some(container) = process.and_then(style::container) {
        line("container", &container);
    }
    let colour = match owner.verdict {
        Verdict::Match => Colour::Good,
        Verdict::Other | Verdict::Unclassified => Colour::Odd,
    };
    let verdict = style::paint(colour, owner.verdict.name());
    line("identity", &format!("{verdict}: {}", style::printable(&owner.why)));
    if let Some(exclusion) = owner.exclusion {
        line("never", &style::paint(Colour::Odd, reason(exclusion)));
    }
    out
}

/// The sockets by which an owner has the port, each with its descriptor, and the other ports that it has.
pub(super) fn holdings(owner: &Owner) -> String {
    let mut all: Vec<&Holding> = owner.holdings.iter().collect();
    all.sort_unstable_by_key(|holding| (holding.socket.address, number(holding)));
    let mut sockets: Vec<String> = all.into_iter().map(held).collect();
    sockets.dedup();
    if sockets.len() > MOST_SOCKETS {
        let more = sockets.len() - MOST_SOCKETS;
        sockets.truncate(MOST_SOCKETS);
        sockets.push(format!("and {more} more"));
    }
    let others = style::other_ports(owner).map(|others| format!("; {others}")).unwrap_or_default();
    format!("{}{others}", sockets.join("  "))
}

/// Where a process comes from: its directory, its start, its unit, its container.
pub(super) fn origin(owner: &Owner) -> Option<String> {
    let process = owner.process.as_ref()?;
    let cwd = process.cwd.as_deref().map(|cwd| format!("in {}", style::printable(&cwd.to_string_lossy())));
    let started = started(owner).map(|started| format!("started {started}"));
    let unit = process.unit.as_deref().map(|unit| format!("unit {}", style::printable(unit)));
    let container = style::container(process).map(|container| format!("in container {container}"));
    let known: Vec<String> = [cwd, started, unit, container].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join("; "))
}

/// How long ago, by which parent, as which user; and whether it is suspended.
fn started(owner: &Owner) -> Option<String> {
    let process = owner.process.as_ref()?;
    let mut text = format!("{} ago", style::age(owner.age?));
    if let Some(parent) = &process.parent {
        let name =
            parent.comm.as_deref().map_or_else(|| "an unreadable process".to_owned(), style::printable);
        let _ = write!(text, " by {name} (pid {})", parent.pid);
    }
    if let Some(user) = &process.user {
        let _ = write!(text, ", as {}", style::printable(user));
    }
    match process.state {
        // Of one that runs, that is mostly over in a moment.
        ProcessState::Running | ProcessState::Uninterruptible => {}
        ProcessState::Stopped => text.push_str("; suspended"),
        ProcessState::Frozen => text.push_str("; its control group is frozen"),
        ProcessState::Leaving => text.push_str("; on its way out"),
    }
    Some(text)
}

/// Why a process is never ended.
pub(super) fn reason(exclusion: Exclusion) -> &'static str {
    match exclusion {
        Exclusion::Myself => "it is gatewatch itself",
        Exclusion::Ancestor => "it is an ancestor of the caller",
        Exclusion::Requester => "it is the requester, or an ancestor of it",
        Exclusion::Protected => "it is protected, or an ancestor of a protected process",
        Exclusion::Init => "it is PID 1",
    }
}

fn number(holding: &Holding) -> Option<u32> {
    holding.descriptor.as_ref()?.fd.map(|fd| fd.number)
}

/// A socket and, where it is known, the descriptor by which the process holds it.
fn held(holding: &Holding) -> String {
    let address = &holding.socket.address;
    let state = match holding.socket.state {
        _ if holding.socket.serves() => None,
        SocketState::Listen => None,
        SocketState::Bound => Some("bound, not listening".to_owned()),
        SocketState::Connected if holding.socket.protocol == Protocol::Udp => Some("connected".to_owned()),
        SocketState::Connected => Some("a connection".to_owned()),
    };
    let fd = number(holding).map(|number| format!("fd {number}"));
    let notes: Vec<String> = state.into_iter().chain(fd).collect();
    if notes.is_empty() { address.to_string() } else { format!("{address} ({})", notes.join(", ")) }
}
