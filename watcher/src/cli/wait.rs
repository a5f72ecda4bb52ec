//! `gatewatch wait`.

use std::time::{Duration, Instant};

use super::CliError;
use super::args::{Awaited, Format, WaitArgs};
use super::setup::Setup;
use super::style;
use crate::agent::client::Client;
use crate::observe::Interest;
use crate::outcome::Outcome;
use crate::report::{WaitReport, micros};
use crate::wait::{self, Limits};

pub(super) async fn run(args: &WaitArgs) -> Result<u8, CliError> {
    let begun = Instant::now();
    let setup = Setup::new(&args.observing)?;
    let port = setup.port(&args.port);
    if let Some(mut agent) = setup.agent(&args.observing, None).await?
        && let Some(report) = ask(&mut agent, args, port, begun).await?
    {
        print(&setup, args, &report)?;
        return Ok(report.outcome.status());
    }
    let limits = Limits { timeout: args.timeout, pace: setup.pace };
    let interest = match args.state {
        Awaited::Free => Interest::Releases,
        Awaited::Listening => Interest::Listening,
    };
    let mut observer = setup.observer(&[port], interest)?;
    let outcome = match args.state {
        Awaited::Free => wait::free(&setup.host, observer.as_mut(), port, limits).await?,
        Awaited::Listening => wait::listening(observer.as_mut(), port, limits).await?,
    };
    let elapsed_us = micros(begun.elapsed());
    print(&setup, args, &WaitReport { port, outcome, backend: observer.backend(), elapsed_us })?;
    Ok(outcome.status())
}

/// Has the agent wait; `None` where it won't. It waits for some minutes at a time.
async fn ask(
    agent: &mut Client,
    args: &WaitArgs,
    port: u16,
    begun: Instant,
) -> Result<Option<WaitReport>, CliError> {
    const AT_A_TIME: Duration = Duration::from_secs(300);
    let until = match args.state {
        Awaited::Free => "free",
        Awaited::Listening => "listening",
    };
    loop {
        let left = args.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        let timeout = left.unwrap_or(AT_A_TIME).min(AT_A_TIME);
        let path = format!("/v1/ports/{port}/wait?until={until}&timeout_ms={}", timeout.as_millis());
        let Some(mut report) = Setup::answered::<WaitReport>(&args.observing, agent.get(&path).await)? else {
            return Ok(None);
        };
        if report.outcome != Outcome::TimedOut || left.is_some_and(|left| left <= AT_A_TIME) {
            report.elapsed_us = micros(begun.elapsed());
            return Ok(Some(report));
        }
    }
}

fn print(setup: &Setup, args: &WaitArgs, report: &WaitReport) -> Result<(), CliError> {
    if setup.format == Format::Json {
        return super::print_json(report);
    }
    let WaitReport { port, outcome, backend, elapsed_us } = report;
    let what = match (outcome, args.state) {
        (Outcome::Free, _) => format!("port {port} is free"),
        (Outcome::Listening, _) => format!("somebody listens on port {port}"),
        (_, Awaited::Free) => format!("port {port} is still held: time ran out"),
        (_, Awaited::Listening) => format!("nobody listens on port {port} yet: time ran out"),
    };
    super::print(&format!("{what}  ({}, {})\n", backend.name(), style::micros(*elapsed_us)))
}
