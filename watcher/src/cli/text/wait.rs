//! The answer of `wait`.

use std::fmt::Write as _;

use super::{owners, style};
use crate::model::{Outcome, Reason};
use crate::wait::{Until, Waited};

/// `next` is the command that would go on, if there is one.
pub(in crate::cli) fn answer(until: Until, waited: &Waited, next: Option<String>) -> String {
    let Waited { port, outcome, backend, elapsed, reason, owner } = waited;
    let listens = style::listens(port.protocol);
    let who = owner.as_ref().map(style::process);
    let what = match (outcome, until) {
        (Outcome::Free, _) => format!("port {port} is free"),
        (Outcome::Listening, _) => match who {
            Some(who) => format!("{who} {listens} port {port}"),
            None => format!("a process {listens} port {port}"),
        },
        (_, Until::Free) => match (reason, who) {
            (Some(Reason::TimeWait), _) => format!("connections in TIME_WAIT keep port {port}: timed out"),
            (Some(Reason::InFlight), _) => {
                format!("port {port} is still held by a socket that no process has: timed out")
            }
            (Some(Reason::TooMany), _) => {
                format!(
                    "port {port} is still held, by more sockets or processes than are told apart: timed out"
                )
            }
            (Some(Reason::OtherNamespace), _) => {
                format!("port {port} is still held by a process outside of this pid namespace: timed out")
            }
            (_, Some(who)) => match owner.as_ref().filter(|owner| owner.pid.is_none()) {
                Some(unseen) => {
                    format!(
                        "port {port} is still held by {who} ({}): timed out",
                        style::printable(&unseen.why)
                    )
                }
                None => format!("port {port} is still held by {who}: timed out"),
            },
            (_, None) => format!("port {port} is still held: timed out"),
        },
        (_, Until::Listening) => match who {
            Some(who) if *reason == Some(Reason::NotSettled) => {
                format!("{who} {listens} port {port}, but not yet for the time to settle: timed out")
            }
            Some(who) => format!("{who} has port {port}, and is not what was waited for: timed out"),
            None => format!("nobody {listens} port {port} yet: timed out"),
        },
    };
    let mut out = format!("{what}  ({}, {})\n", backend.name(), style::duration(*elapsed));
    // Whoever came is what was waited for.
    if let (Outcome::TimedOut, Some(owner)) = (outcome, owner) {
        let _ = writeln!(out, "  {}", owners::describe(owner));
    }
    if let Some(next) = next {
        let _ = writeln!(out, "  {next}");
    }
    out
}
