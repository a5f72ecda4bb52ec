//! `gatewatch clean`.

use std::fmt::Write as _;
use std::time::Duration;

use tracing::warn;

use super::args::{CleanArgs, Format};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use super::{CliError, unit};
use crate::agent::CleanRequest;
use crate::clean::{Request, clean};
use crate::end::{Action, Timeouts};
use crate::exclude::Exclusions;
use crate::observe::Interest;
use crate::outcome::Outcome;
use crate::prove::Means;
use crate::report::{CleanReport, EndedReport};
use crate::system::System;

pub(super) async fn run(args: &CleanArgs) -> Result<u8, CliError> {
    let setup = Setup::new(&args.observing)?;
    let report = clean_port(&setup, args, setup.port(&args.port)).await?;
    match setup.format {
        Format::Json => super::print_json(&report)?,
        Format::Text => super::print(&text(&report))?,
    }
    Ok(report.outcome.status())
}

/// Has the port cleaned: by the agent, where it answers and may be asked for this, else by ourselves.
pub(super) async fn clean_port(setup: &Setup, args: &CleanArgs, port: u16) -> Result<CleanReport, CliError> {
    let rules = setup.rules(&args.matching, port)?;
    let mut protect = args.sparing.protect.clone();
    if let Some(unit) = &args.sparing.unit {
        protect.extend(unit::main_pid(unit).await?);
    }
    if let Some(mut agent) = setup.agent(&args.observing, not_for_agent(args)).await? {
        let answer = agent.post(&format!("/v1/ports/{port}/clean"), &request(args, &protect)).await;
        if let Some(report) = Setup::answered(&args.observing, answer)? {
            return Ok(report);
        }
    }
    for &pid in &protect {
        if setup.host.process(pid, pid).is_err() {
            warn!("--protect {pid}: there is no such process");
        }
    }
    let exclusions = Exclusions::new(&setup.host, std::process::id(), &protect, args.sparing.include_init);
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
    Ok(CleanReport::from(&cleaned))
}

/// Why this can't be asked of the agent, if so: whom it may end is not its callers' to say.
pub(super) fn not_for_agent(args: &CleanArgs) -> Option<&'static str> {
    if args.matching.is_given() {
        Some("what may be ended is for its configuration to say")
    } else {
        args.sparing.include_init.then_some("it never ends PID 1")
    }
}

/// What to ask of the agent.
fn request(args: &CleanArgs, protect: &[u32]) -> CleanRequest {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).ok();
    CleanRequest {
        term_timeout_ms: milliseconds(args.term_timeout),
        kill_timeout_ms: milliseconds(args.kill_timeout),
        free_timeout_ms: milliseconds(args.free_timeout),
        protect: protect.to_vec(),
        dry_run: args.dry_run,
    }
}

/// The answer for people: the outcome, who was ended or spared and why, the proof.
pub(super) fn text(cleaned: &CleanReport) -> String {
    let paint = Paint::stdout();
    let colour = if cleaned.outcome.status() == 0 { Colour::Good } else { Colour::Bad };
    let took = format!("({}, {})", cleaned.backend.name(), style::micros(cleaned.elapsed_us));
    let mut out = String::new();
    let _ =
        writeln!(out, "{}  {}", paint.paint(colour, &headline(cleaned)), paint.paint(Colour::Faint, &took));
    owners(&mut out, cleaned);
    if let Some(released) = &cleaned.released {
        let after = style::micros(released.after_us);
        let proof = match released.proof {
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

/// Who was ended or spared, and why.
pub(super) fn owners(out: &mut String, cleaned: &CleanReport) {
    let paint = Paint::stdout();
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
}

pub(super) fn headline(cleaned: &CleanReport) -> String {
    let port = cleaned.port;
    match cleaned.outcome {
        Outcome::Free => format!("port {port} is free"),
        Outcome::Cleaned => format!("port {port} is free: cleaned"),
        Outcome::WouldClean => format!("port {port} would be cleaned"),
        Outcome::Listening | Outcome::Restarted => format!("port {port} is being listened on"),
        Outcome::CommandFailed | Outcome::Crashed => format!("nobody listens on port {port}"),
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

fn fate(ended: &EndedReport) -> String {
    let why = style::printable(&ended.owner.why);
    match (ended.action, &ended.ended_by, ended.ended_after_us) {
        (Action::Killed, Some(means), Some(after)) => {
            format!("by {means} after {}; {why}", style::micros(after))
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
