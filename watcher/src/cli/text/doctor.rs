//! The answer of `doctor`.

use std::fmt::Write as _;
use std::time::Duration;

use super::style::{self, Colour};
use crate::doctor::{BackendState, Diagnosis, Health, State};
use crate::duration::written;
use crate::model::{Backend, Port};
use crate::wire::agent::StatusAnswer;

pub(in crate::cli) fn answer(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for health in &diagnosis.backends {
        let colour = match health.state {
            BackendState::Ok => Colour::Good,
            BackendState::Degraded => Colour::Odd,
            BackendState::Unavailable => Colour::Bad,
        };
        let cost = health.cost.map_or_else(String::new, |cost| {
            let cost = style::duration(cost);
            match health.backend {
                Backend::Poll => format!("  (one look takes {cost})"),
                Backend::Ebpf | Backend::Agent => format!("  (ready in {cost})"),
            }
        });
        let state = style::paint(colour, health.state.name());
        let cost = style::paint(Colour::Faint, &cost);
        let _ = writeln!(out, "{:<5} {state}{cost}", health.backend.name());
        for hook in &health.hooks {
            let mark = match hook.failure {
                None => style::paint(Colour::Good, "ok"),
                Some(_) => style::paint(Colour::Bad, "--"),
            };
            let _ = writeln!(out, "      {mark} {:<36} {}", hook.name, hook.gives);
            if let Some(why) = &hook.failure {
                let _ = writeln!(out, "         {why}");
            }
        }
        for line in health.why.iter().chain(&health.mend) {
            let _ = writeln!(out, "      {line}");
        }
    }
    let chosen = diagnosis.chosen().map_or("none", Backend::name);
    let _ = writeln!(out, "commands use {chosen} here; kernel {}", diagnosis.version);
    out
}

/// Whether the host agent answers, and what it says of itself.
pub(in crate::cli) fn agent(health: &Health, status: Option<&StatusAnswer>) -> String {
    let mut out = line("agent", health);
    let Some(status) = status else { return out };
    let tcp = status.ports.iter().map(u16::to_string);
    let udp = status.udp_ports.iter().map(|port| format!("{port}/udp"));
    let ports = tcp.chain(udp).collect::<Vec<String>>().join(", ");
    let watched = match (status.follows_all, ports.is_empty()) {
        (false, _) => ports,
        (true, true) => "all ports".to_owned(),
        (true, false) => format!("all ports, {ports} by its configuration,"),
    };
    let (pid, version) = (status.pid, &status.version);
    let up = style::age(Duration::from_secs(status.uptime_s));
    let _ = writeln!(
        out,
        "      version {version}, pid {pid}, up {up}; watches {watched} by {}",
        status.backend.name()
    );
    let told = &status.configuration;
    let who = match &told.group {
        Some(group) => format!("root and the group {group} may read"),
        None => "only root may read".to_owned(),
    };
    let from = if told.exists { told.path.as_str() } else { "the defaults" };
    let _ = writeln!(out, "      configured by {from}; {who}");
    let capabilities: Vec<&str> = status.capabilities.iter().map(|held| held.name.as_str()).collect();
    let _ = writeln!(
        out,
        "      has {}",
        if capabilities.is_empty() { "no capabilities".to_owned() } else { capabilities.join(" ") }
    );
    if let Some(history) = &status.history {
        let _ = writeln!(
            out,
            "      keeps a history in {}: {} records so far, for {} and up to {} MiB",
            style::printable(&history.path),
            history.newest,
            written(Duration::from_secs(history.keep_s)),
            history.max_size >> 20
        );
    }
    if let Some(export) = &status.export {
        let _ = writeln!(
            out,
            "      exports to {}: {} events sent, {} waiting, {} dropped",
            export.url.join(", "),
            export.sent,
            export.waiting,
            export.dropped
        );
    }
    for guard in &status.guards {
        let port = Port { protocol: guard.protocol, number: guard.port };
        let admitted: Vec<String> =
            guard.admitted.iter().map(|it| style::printable(&it.to_string())).collect();
        let _ = if admitted.is_empty() {
            writeln!(
                out,
                "      guards port {port} as soon as it knows whom to let in: until then everybody may bind it"
            )
        } else {
            writeln!(out, "      guards port {port}: only {} may bind it", admitted.join(", "))
        };
    }
    for trouble in &status.degraded {
        let _ = writeln!(out, "      {} {trouble}", style::paint(Colour::Odd, "degraded:"));
    }
    out
}

/// Whether the configuration can be used.
pub(in crate::cli) fn configuration(health: &Health) -> String {
    line("configuration", health)
}

fn line(name: &str, health: &Health) -> String {
    let colour = match health.state {
        State::Ok => Colour::Good,
        State::Absent | State::Refuses => Colour::Odd,
        State::Broken => Colour::Bad,
    };
    let mut out =
        format!("{name} {}  {}\n", style::paint(colour, health.state.name()), health.path.display());
    for line in health.why.iter().chain(&health.mend) {
        let _ = writeln!(out, "      {line}");
    }
    out
}
