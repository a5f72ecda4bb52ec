//! `gatewatch watch`.

use std::fmt::Write as _;
use std::future::pending;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::CliError;
use super::args::{Format, WatchArgs};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use crate::observe::Interest;
use crate::watch::{Line, Watch, What};

pub(super) async fn run(args: &WatchArgs) -> Result<u8, CliError> {
    let setup = Setup::new(&args.observing)?;
    let ports = setup.ports(&args.ports);
    let failed = |error| CliError::Io { what: "signals can't be received", error };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let observer = setup.observer(&ports, Interest::Everything)?;
    let mut watch = Watch::begin(&setup.host, observer, &ports)?;
    let paint = Paint::stdout();
    let over = async {
        match args.lasting {
            Some(time) => sleep(time).await,
            None => pending().await,
        }
    };
    tokio::pin!(over);
    let mut left = args.count;
    while left != Some(0) {
        let line = tokio::select! {
            biased;
            line = watch.next() => line?,
            () = &mut over => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        match setup.format {
            Format::Json => super::print_json(&line)?,
            Format::Text => super::print(&text(paint, &line))?,
        }
        if !matches!(line.event, What::Held | What::Ready) {
            left = left.map(|left| left - 1);
        }
    }
    Ok(0)
}

/// One line for people.
pub(super) fn text(paint: Paint, line: &Line) -> String {
    let time = line.time.get(11..26).unwrap_or(&line.time);
    let (colour, event) = match line.event {
        What::Held => (Colour::Strong, "held"),
        What::Ready => (Colour::Faint, "ready"),
        What::Bind => (Colour::Strong, "bind"),
        What::Listen => (Colour::Odd, "listen"),
        What::Conflict => (Colour::Bad, "conflict"),
        What::Release => (Colour::Good, "release"),
        What::Free => (Colour::Good, "free"),
        What::Lost => (Colour::Bad, "lost"),
    };
    let address = line.address.clone().unwrap_or_else(|| format!("port {}", line.port));
    let event = paint.paint(colour, &format!("{event:<8}"));
    let mut out = format!("{}  {event}  {address:<22}", paint.paint(Colour::Faint, time));
    match (line.event, &line.comm, line.pid) {
        (What::Ready, ..) => out.push_str("  nothing later is missed"),
        (What::Lost, ..) => {
            let _ = write!(
                out,
                "  {} events were dropped; what holds the port now follows",
                line.count.unwrap_or(0)
            );
        }
        (_, Some(comm), Some(pid)) => {
            let _ = write!(out, "  {} (pid {pid})", style::printable(comm));
        }
        (What::Free, ..) => {}
        _ => {
            let _ = write!(out, "  an unseen process");
        }
    }
    for holder in line.holders.iter().flatten() {
        let name = holder.comm.as_deref().map_or_else(|| "an unseen process".to_owned(), style::printable);
        let _ = write!(
            out,
            "; held by {name} (pid {})",
            holder.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        );
    }
    if let Some(delay) = line.delay_us {
        let _ = write!(out, "  {}", paint.paint(Colour::Faint, &format!("+{delay} µs")));
    }
    out.push('\n');
    out
}
