//! `gatewatch wait`.

use std::time::Instant;

use super::CliError;
use super::args::{Awaited, Format, WaitArgs};
use super::setup::Setup;
use super::style;
use crate::observe::Interest;
use crate::outcome::Outcome;
use crate::report::{WaitReport, micros};
use crate::wait::{self, Limits};

pub(super) async fn run(args: &WaitArgs) -> Result<u8, CliError> {
    let begun = Instant::now();
    let setup = Setup::new(&args.observing)?;
    let port = setup.port(&args.port);
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
    let elapsed = begun.elapsed();
    match setup.format {
        Format::Json => super::print_json(&WaitReport {
            port,
            outcome,
            backend: observer.backend(),
            elapsed_us: micros(elapsed),
        })?,
        Format::Text => {
            let what = match (outcome, args.state) {
                (Outcome::Free, _) => format!("port {port} is free"),
                (Outcome::Listening, _) => format!("somebody listens on port {port}"),
                (_, Awaited::Free) => format!("port {port} is still held: time ran out"),
                (_, Awaited::Listening) => format!("nobody listens on port {port} yet: time ran out"),
            };
            super::print(&format!(
                "{what}  ({}, {})\n",
                observer.backend().name(),
                style::duration(elapsed)
            ))?;
        }
    }
    Ok(outcome.status())
}
