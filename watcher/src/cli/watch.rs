//! `gatewatch watch`.

use std::fmt::Write as _;
use std::future::pending;

use tokio::time::sleep;

use super::CliError;
use super::args::{Format, Observing, WatchArgs};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use crate::agent::client::{Client, ClientError, Lines};
use crate::observe::Interest;
use crate::platform::host::Host;
use crate::platform::host::signals::Signals;
use crate::watch::{Line, Watch, What};

pub(super) async fn run(args: &WatchArgs) -> Result<u8, CliError> {
    let setup = Setup::new(&args.observing)?;
    let ports = setup.ports(&args.ports);
    let failed = |error| CliError::Io { what: "signals can't be received", error };
    let mut signals = Signals::new().map_err(failed)?;
    let mut source = Source::new(&setup, &args.observing, None, &ports).await?;
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
        let (line, json) = tokio::select! {
            biased;
            line = source.next() => line?,
            () = &mut over => break,
            _ = signals.next() => break,
        };
        match setup.format {
            Format::Json => super::print(&json)?,
            Format::Text => super::print(&text(paint, &line))?,
        }
        if !matches!(line.event, What::Held | What::Ready) {
            left = left.map(|left| left - 1);
        }
    }
    Ok(0)
}

/// Where the lines come from.
pub(super) enum Source<'a> {
    Own(Box<Watch<&'a Host>>),
    Agent(Box<Lines>),
}

impl<'a> Source<'a> {
    /// What happens to the ports, in the agent's words or in our own; `cannot` as for [`Setup::agent`].
    pub(super) async fn new(
        setup: &'a Setup,
        observing: &Observing,
        cannot: Option<&'static str>,
        ports: &[u16],
    ) -> Result<Self, CliError> {
        if let Some(agent) = setup.agent(observing, cannot).await? {
            let answer = Self::of_agent(agent, ports, &setup.host).await;
            if let Some(source) = Setup::answered(observing, answer)? {
                return Ok(source);
            }
        }
        let observer = setup.observer(ports, Interest::Everything)?;
        Ok(Self::Own(Box::new(Watch::begin(&setup.host, observer, ports)?)))
    }

    /// What the agent sees of the ports in our network namespace.
    async fn of_agent(agent: Client, ports: &[u16], host: &Host) -> Result<Self, ClientError> {
        let ports: String = ports.iter().map(|port| format!("port={port}&")).collect();
        let lines = agent.lines(&format!("/v1/events?{ports}netns={}", host.netns())).await?;
        Ok(Self::Agent(Box::new(lines)))
    }

    /// The next line, and the same as JSON.
    pub(super) async fn next(&mut self) -> Result<(Line, String), CliError> {
        match self {
            Self::Own(watch) => {
                let line = watch.next().await?;
                let json = super::json_line(&line)?;
                Ok((line, json))
            }
            Self::Agent(lines) => {
                let json = lines.next().await?;
                let line = serde_json::from_str(&json).map_err(|error| CliError::Output(error.into()))?;
                Ok((line, json + "\n"))
            }
        }
    }
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
        (What::Ready, ..) => match line.resolution_us {
            None => out.push_str("  nothing later is missed"),
            Some(resolution) => {
                let _ = write!(out, "  what is shorter than {} can be missed", style::micros(resolution));
            }
        },
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
        (_, None, Some(pid)) => {
            let _ = write!(out, "  pid {pid}");
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
