//! `gatewatch clean`.

use std::fmt::Write as _;

use tracing::warn;

use super::CliError;
use super::args::{CleanArgs, Format};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use crate::clean::{Cleaned, Request, clean};
use crate::end::{Action, Ended, Timeouts};
use crate::exclude::Exclusions;
use crate::observe::Interest;
use crate::outcome::Outcome;
use crate::prove::Means;
use crate::report::CleanReport;
use crate::system::System;

pub(super) async fn run(args: &CleanArgs) -> Result<u8, CliError> {
    let setup = Setup::new(&args.observing)?;
    let port = setup.port(&args.port);
    let rules = setup.rules(&args.matching, port)?;
    for &pid in &args.sparing.protect {
        if setup.host.process(pid, pid).is_err() {
            warn!("--protect {pid}: there is no such process");
        }
    }
    let exclusions =
        Exclusions::new(&setup.host, std::process::id(), &args.sparing.protect, args.sparing.include_init);
    let request = Request {
        port,
        rules,
        exclusions,
        timeouts: Timeouts { term: args.term_timeout, kill: args.kill_timeout, free: args.free_timeout },
        dry_run: args.dry_run,
        pace: setup.pace,
    };
    let mut observer = setup.observer(&[port], Interest::Releases)?;
    let cleaned = clean(&setup.host, observer.as_mut(), &request).await?;
    match setup.format {
        Format::Json => super::print_json(&CleanReport::from(&cleaned))?,
        Format::Text => super::print(&text(&cleaned))?,
    }
    Ok(cleaned.outcome.status())
}

/// The answer for people: the outcome, who was ended or spared and why, the proof.
pub(super) fn text(cleaned: &Cleaned) -> String {
    let paint = Paint::stdout();
    let colour = if cleaned.outcome.status() == 0 { Colour::Good } else { Colour::Bad };
    let took = format!("({}, {})", cleaned.backend.name(), style::duration(cleaned.elapsed));
    let mut out = String::new();
    let _ =
        writeln!(out, "{}  {}", paint.paint(colour, &headline(cleaned)), paint.paint(Colour::Faint, &took));
    for ended in &cleaned.owners {
        let _ = writeln!(
            out,
            "  {:<8} {}",
            done(ended.action),
            paint.paint(Colour::Strong, &style::process(&ended.owner))
        );
        let mut line = |text: &str| {
            let _ = writeln!(out, "           {text}");
        };
        line(&fate(ended));
        if let Some(command) = style::command_line(&ended.owner) {
            line(&paint.paint(Colour::Faint, &command));
        }
    }
    if let Some(released) = cleaned.released {
        let after = style::duration(released.after);
        let proof = match released.means {
            Means::Ebpf => {
                format!("the kernel gave the port back {after} after the first signal, and a bind succeeded")
            }
            Means::Bind => "a bind succeeded".to_owned(),
            Means::Poll => "nobody listens (this user may not bind the port to try)".to_owned(),
        };
        let _ = writeln!(out, "  {:<8} {proof}", "proof");
        if released.plain_bind == Some(false) {
            let _ = writeln!(
                out,
                "           old connections linger: a server that does not set SO_REUSEADDR can't bind yet"
            );
        }
    }
    out
}

fn headline(cleaned: &Cleaned) -> String {
    let port = cleaned.port;
    match cleaned.outcome {
        Outcome::Free => format!("port {port} is free"),
        Outcome::Cleaned => format!("port {port} is free: cleaned"),
        Outcome::WouldClean => format!("port {port} would be cleaned"),
        Outcome::Listening => format!("port {port} is being listened on"),
        Outcome::HeldByOther => format!("port {port} is held by another process, which was left alone"),
        Outcome::HeldByProtected => format!("port {port} is held by a process that is never ended"),
        Outcome::Unknown => format!("port {port} is held, and its owner can't be seen or identified"),
        Outcome::NotPermitted => format!("port {port} is held by a process that this user may not signal"),
        Outcome::TimedOut => format!("port {port} is still held: time ran out"),
        Outcome::Respawned => format!("port {port} was taken by a new process"),
    }
}

fn done(action: Action) -> &'static str {
    match action {
        Action::Killed => "ended",
        Action::Spared => "spared",
        Action::Gone => "gone",
        Action::NotPermitted => "denied",
        Action::Survived => "survived",
        Action::WouldKill => "would end",
    }
}

fn fate(ended: &Ended) -> String {
    let why = style::printable(&ended.owner.why);
    match (ended.action, ended.ended_by, ended.ended_after) {
        (Action::Killed, Some(means), Some(after)) => {
            format!("by {means} after {}; {why}", style::duration(after))
        }
        (Action::NotPermitted, ..) => format!("{why}; run as its user or as root to end it"),
        (Action::Gone, ..) => "it let go of the port before it was signalled".to_owned(),
        (Action::Survived, ..) => format!("{why}; signalled, and still alive"),
        _ => match ended.owner.relation {
            Some(relation) => format!("{}; {why}", relation.describe()),
            None => why,
        },
    }
}
