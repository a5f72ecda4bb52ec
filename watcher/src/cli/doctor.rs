//! `gatewatch doctor`.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;

use super::CliError;
use super::args::{BackendChoice, DoctorArgs, Format};
use super::style::{self, Colour, Paint};
use crate::observe::ObserveError;
use crate::platform::host::Host;
use crate::report::micros;

/// How often the cost of a poll is measured.
const POLLS: u32 = 5;

/// The object of `doctor`.
#[derive(Debug, Serialize)]
struct Report {
    /// What `--backend auto` takes.
    backend: &'static str,
    backends: Vec<BackendReport>,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct BackendReport {
    name: &'static str,
    /// `ok`, `degraded`, or `unavailable`.
    state: &'static str,
    why: Option<String>,
    mend: Option<String>,
    hooks: Vec<HookReport>,
    /// What it took to load and attach everything, or what one poll costs.
    cost_us: Option<u64>,
}

#[derive(Debug, Serialize)]
struct HookReport {
    name: &'static str,
    gives: &'static str,
    state: &'static str,
    why: Option<String>,
}

pub(super) fn run(args: &DoctorArgs) -> Result<u8, CliError> {
    // The event stream registers with the runtime's reactor.
    let host = Host::new(None)?;
    let backends = vec![ebpf(&host), poll(&host)];
    let first =
        backends.iter().find(|backend| backend.state != "unavailable").map_or("none", |backend| backend.name);
    let report = Report { backend: first, backends, kernel: crate::platform::host::kernel() };
    match args.format {
        Format::Json => super::print_json(&report)?,
        Format::Text => super::print(&text(&report))?,
    }
    let wanted = match args.backend {
        BackendChoice::Auto => return Ok(0),
        BackendChoice::Ebpf => "ebpf",
        BackendChoice::Poll => "poll",
    };
    let whole = report.backends.iter().any(|backend| backend.name == wanted && backend.state == "ok");
    Ok(if whole { 0 } else { 6 })
}

fn ebpf(host: &Host) -> BackendReport {
    let begun = Instant::now();
    match host.try_hooks() {
        Ok(hooks) => {
            let cost = micros(begun.elapsed());
            let missing = hooks.iter().filter(|hook| hook.failure.is_some()).count();
            BackendReport {
                name: "ebpf",
                state: if missing == 0 { "ok" } else { "degraded" },
                why: None,
                mend: None,
                hooks: hooks
                    .into_iter()
                    .map(|hook| HookReport {
                        name: hook.name,
                        gives: hook.gives,
                        state: if hook.failure.is_none() { "active" } else { "missing" },
                        why: hook.failure,
                    })
                    .collect(),
                cost_us: Some(cost),
            }
        }
        Err(error) => unavailable("ebpf", error),
    }
}

fn poll(host: &Host) -> BackendReport {
    let mut observer = host.by_polling(&[], std::time::Duration::from_secs(1));
    let begun = Instant::now();
    for _ in 0..POLLS {
        if let Err(error) = observer.snapshot(crate::port::DEFAULT) {
            return unavailable("poll", error);
        }
    }
    let cost = micros(begun.elapsed() / POLLS);
    BackendReport { name: "poll", state: "ok", why: None, mend: None, hooks: Vec::new(), cost_us: Some(cost) }
}

fn unavailable(name: &'static str, error: ObserveError) -> BackendReport {
    let (why, mend) = match error {
        ObserveError::Unavailable { why, mend, .. } => (why, Some(mend)),
        other => (other.to_string(), None),
    };
    BackendReport { name, state: "unavailable", why: Some(why), mend, hooks: Vec::new(), cost_us: None }
}

fn text(report: &Report) -> String {
    let paint = Paint::stdout();
    let mut out = String::new();
    for backend in &report.backends {
        let colour = match backend.state {
            "ok" => Colour::Good,
            "degraded" => Colour::Odd,
            _ => Colour::Bad,
        };
        let cost = backend.cost_us.map_or_else(String::new, |cost| {
            let cost = style::duration(std::time::Duration::from_micros(cost));
            if backend.name == "poll" {
                format!("  (one look takes {cost})")
            } else {
                format!("  (ready in {cost})")
            }
        });
        let state = paint.paint(colour, backend.state);
        let _ = writeln!(out, "{:<5} {state}{}", backend.name, paint.paint(Colour::Faint, &cost));
        for hook in &backend.hooks {
            let mark = if hook.why.is_none() {
                paint.paint(Colour::Good, "ok")
            } else {
                paint.paint(Colour::Bad, "--")
            };
            let _ = writeln!(out, "      {mark} {:<36} {}", hook.name, hook.gives);
            if let Some(why) = &hook.why {
                let _ = writeln!(out, "         {why}");
            }
        }
        for line in backend.why.iter().chain(&backend.mend) {
            let _ = writeln!(out, "      {line}");
        }
    }
    let _ = writeln!(out, "commands use {} here; kernel {}", report.backend, report.kernel);
    out
}
