//! The answer of `clean`: the outcome, which owners were ended or spared and why, the proof.

use std::fmt::Write as _;

use super::owners::{holdings, origin, reason};
use super::style::{self, Colour};
use crate::clean::{Cleaned, LeftOut};
use crate::cli::exit::Exit;
use crate::model::{Action, Outcome, ProcessState, ProofKind, Reason};
use crate::steps::end::OwnerOutcome;

/// How many gateways on other ports are named.
const MOST_ELSEWHERE: usize = 4;

/// `next` is the command that would go on, if there is one.
pub(in crate::cli) fn answer(cleaned: &Cleaned, next: Option<String>) -> String {
    let took = format!("({}, {})", cleaned.backend.name(), style::duration(cleaned.elapsed));
    let mut out = String::new();
    let head = style::paint(colour(cleaned.outcome), &headline(cleaned));
    let _ = writeln!(out, "{head}  {}", style::paint(Colour::Faint, &took));
    owners(&mut out, cleaned);
    if let Some(before) = cleaned.ended_before.filter(|before| before.count > 1) {
        let _ = writeln!(out, "  {:<8} {before}", "before");
    }
    for gateway in cleaned.gateways_elsewhere.iter().take(MOST_ELSEWHERE) {
        let ports: Vec<String> = gateway.ports.iter().map(ToString::to_string).collect();
        let _ =
            writeln!(out, "  {:<8} a gateway listens on {} (pid {})", "note", ports.join(", "), gateway.pid);
    }
    if let Some(proof) = &cleaned.proof {
        let after = style::duration(proof.after);
        let text = match proof.kind {
            ProofKind::Ebpf => {
                format!("the kernel gave the port back {after} after the first signal, and a bind succeeded")
            }
            ProofKind::Bind => "a bind succeeded".to_owned(),
            ProofKind::Poll => "no process listens (a bind could not be tried)".to_owned(),
        };
        let _ = writeln!(out, "  {:<8} {text}", "proof");
        if proof.plain_bind == Some(false) {
            let _ = writeln!(
                out,
                "           old connections linger: a server that does not set SO_REUSEADDR can't bind yet"
            );
        }
    }
    if let Some(next) = next {
        let _ = writeln!(out, "  {next}");
    }
    out
}

/// The colour of an outcome.
pub(super) fn colour(outcome: Outcome) -> Colour {
    if Exit::from(outcome) == Exit::Done { Colour::Good } else { Colour::Bad }
}

/// Which owners were ended or spared, and why.
pub(super) fn owners(out: &mut String, cleaned: &Cleaned) {
    for dealt in &cleaned.owners {
        let process = style::paint(Colour::Strong, &style::process(&dealt.owner));
        let _ = writeln!(out, "  {:<8} {process}", done(dealt.action));
        let mut line = |text: &str| {
            let _ = writeln!(out, "           {text}");
        };
        line(&fate(dealt));
        let holds = if matches!(dealt.action, Action::Killed | Action::Gone) { "held" } else { "holds" };
        line(&format!("it {holds} {}", holdings(&dealt.owner)));
        if dealt.action != Action::Killed
            && let Some(origin) = origin(&dealt.owner)
        {
            line(&origin);
        }
        if !dealt.left.is_empty() {
            let pids: Vec<String> = dealt.left.iter().map(ToString::to_string).collect();
            line(&format!("it left children that live on: pid {}", pids.join(", ")));
        }
        if let Some(starter) = &dealt.starter {
            line(&format!("started by {}, which lives on", style::printable(starter)));
        }
        if let Some(command) = style::command_line(&dealt.owner) {
            line(&style::paint(Colour::Faint, &command));
        }
    }
    let LeftOut { count, killed } = &cleaned.left_out;
    if *count > 0 {
        let _ = writeln!(
            out,
            "  and {count} more, which the agent does not describe ({} were ended)",
            killed.len()
        );
    }
}

pub(super) fn headline(cleaned: &Cleaned) -> String {
    let port = cleaned.port;
    match cleaned.outcome {
        Outcome::Free => format!("port {port} is free"),
        Outcome::Cleaned => format!("port {port} is free: cleaned"),
        Outcome::WouldClean => match cleaned.free_in {
            Some(free_in) => format!(
                "nobody holds port {port}, and it would be free: connections in TIME_WAIT that keep it for {} would be \
                 waited for, or with --drop-time-wait be taken away",
                style::duration(free_in)
            ),
            None => format!("port {port} would be cleaned"),
        },
        Outcome::Listening | Outcome::Restarted => format!("port {port} is being listened on"),
        Outcome::CommandFailed | Outcome::Crashed => format!("no process listens on port {port}"),
        Outcome::HeldByOther => match cleaned.reason {
            Some(Reason::TooYoung) => format!("port {port} is held by a process that began too recently"),
            Some(Reason::Inherited) => {
                format!(
                    "port {port} is held by another process as well, so ending the match would free nothing"
                )
            }
            Some(Reason::BoundClient) => format!("port {port} is the local port of a client's connection"),
            _ => format!("port {port} is held by another process, which was left alone"),
        },
        Outcome::HeldByProtected if cleaned.reason == Some(Reason::ProtectedByRecord) => {
            format!("port {port} is held by the live gateway, by OpenClaw's own record")
        }
        Outcome::HeldByProtected => format!("port {port} is held by a process that must not be ended"),
        Outcome::Unknown => match cleaned.reason {
            Some(Reason::InFlight) => {
                format!("port {port} is held by a socket that no process has at the moment")
            }
            Some(Reason::TooMany) => {
                format!("port {port} is held by more sockets or processes than are told apart")
            }
            Some(Reason::OtherNamespace) => {
                format!("port {port} is held by a process outside of this pid namespace: clean it from there")
            }
            _ => format!("port {port} is held, and its owner can't be seen or identified"),
        },
        Outcome::NotPermitted => format!("port {port} is held by a process that this user may not signal"),
        Outcome::TimedOut => match cleaned.free_in {
            Some(free_in) => {
                let free_in = style::duration(free_in);
                if cleaned.owners.iter().any(|dealt| dealt.action == Action::WouldKill) {
                    format!(
                        "connections in TIME_WAIT would keep port {port} for {free_in} once its owner has ended"
                    )
                } else {
                    format!("nobody holds port {port}, but connections in TIME_WAIT keep it for {free_in}")
                }
            }
            None if cleaned.reason == Some(Reason::Interrupted) => {
                format!("interrupted before port {port} was known to be free")
            }
            None => match survivor(cleaned) {
                Some(survivor) => format!("port {port} is still held by {survivor}: the timeout expired"),
                None => format!("port {port} is still held: the timeout expired"),
            },
        },
        Outcome::Respawned => format!("port {port} was taken by a new process"),
    }
}

/// Who outlived the signals, and why that may be.
fn survivor(cleaned: &Cleaned) -> Option<String> {
    let dealt = cleaned.owners.iter().find(|dealt| dealt.action == Action::Survived)?;
    let why = match dealt.owner.process.as_ref().map(|process| process.state) {
        Some(ProcessState::Uninterruptible) => "which is in uninterruptible sleep",
        Some(ProcessState::Frozen) => "whose control group is frozen",
        Some(ProcessState::Stopped) => "which is suspended",
        Some(ProcessState::Running | ProcessState::Leaving) | None if dealt.forced_at.is_some() => {
            "which not even force has ended yet"
        }
        Some(ProcessState::Running | ProcessState::Leaving) | None => "which was asked to end and lives on",
    };
    Some(format!("{}, {why}", style::process(&dealt.owner)))
}

pub(super) fn done(action: Action) -> &'static str {
    match action {
        Action::Killed => "ended",
        Action::Spared => "spared",
        Action::Gone => "gone",
        Action::NotPermitted => "denied",
        Action::Survived => "survived",
        Action::WouldKill => "would end",
    }
}

fn fate(dealt: &OwnerOutcome) -> String {
    let why = style::printable(&dealt.owner.why);
    match (dealt.action, &dealt.ended_by, dealt.ended_after) {
        (Action::Killed, Some(method), Some(after)) => {
            let stopped =
                dealt.owner.process.as_ref().is_some_and(|process| process.state == ProcessState::Stopped);
            let stopped = if stopped { "it was suspended, and resumed to end; " } else { "" };
            let method = style::printable(method);
            format!("by {method} after {}; {stopped}{why}", style::duration(after))
        }
        (Action::NotPermitted, ..) => format!("{why}; run as its user or as root to end it"),
        (Action::Gone, ..) => "it ended or closed the port before it was signalled".to_owned(),
        (Action::Survived, ..) => format!("{why}; signalled, but still alive"),
        _ => match dealt.owner.exclusion {
            Some(exclusion) => format!("{}; {why}", reason(exclusion)),
            None => why,
        },
    }
}
