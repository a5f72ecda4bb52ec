//! `gatewatch demo`: a stale gateway of its own, watched and cleaned.

use std::process::Stdio;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::args::DemoArgs;
use super::exit::{CliError, Exit};
use super::text::style::{self, Colour};
use super::{context, text};
use crate::clean::{Request, clean};
use crate::model::{Backend, Outcome, Port, WatchKind};
use crate::platform::Host;
use crate::platform::contract::{Interest, Platform, Signals as _};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::{OPENCLAW_GATEWAY, Rules};
use crate::steps::owner::Owners;
use crate::watch::Watch;

/// How often the demo's polling looks.
const PACE: std::time::Duration = std::time::Duration::from_millis(10);

pub(super) async fn run(args: &DemoArgs) -> Result<Exit, CliError> {
    let step = |text: &str| super::print(&format!("\n{}\n", style::paint(Colour::Strong, text)));
    let mut lines = text::watch::Lines::new(false);
    let host = Host::new(None)?;
    let port = unused_port().await?;

    step(&format!("1. A watch on port {port}, then a gateway that is started and left running"))?;
    let observer = context::observer(&host, args.backend, &[port], Interest::Everything, PACE)?.observer;
    let polls = observer.backend() == Backend::Poll;
    let mut watch = Watch::begin(Arc::new(host.clone()), observer, &[port])?;
    let mut gateway = start_gateway(port)?;
    loop {
        let event = watch.next().await?;
        super::print(&format!("   {}", lines.next(&event)))?;
        if event.kind == WatchKind::Listen {
            break;
        }
    }

    step("2. Who owns the port, and may that owner be ended?")?;
    // What polling loses was already reported, so the second observer need not repeat it.
    let mut observer =
        if polls { host.by_polling(&[port], PACE) } else { host.by_events(&[port], Interest::Releases)?.0 };
    let exclusions = Exclusions::new(&host, std::process::id(), &[], false);
    let rules = Rules::openclaw_gateway();
    for owner in Owners::of_port(&host, observer.as_mut(), port, &rules, &exclusions)?.owners {
        let described = text::owners::describe(&owner).replace('\n', "\n   ");
        super::print(&format!("   {described}\n"))?;
    }

    step("3. gatewatch clean")?;
    let request = Request { longest_pause: PACE, ..Request::new(port, rules, exclusions) };
    let cleaned = clean(&host, observer.as_mut(), &request).await?;
    super::print(&indent(&text::clean::answer(&cleaned, None)))?;

    if cleaned.outcome != Outcome::Cleaned {
        return Ok(match Exit::from(cleaned.outcome) {
            Exit::Done => Exit::Failed,
            exit => exit,
        });
    }

    step("4. What the watch saw of it")?;
    loop {
        let event = watch.next().await?;
        super::print(&format!("   {}", lines.next(&event)))?;
        if event.kind == WatchKind::Free {
            break;
        }
    }
    let _ = gateway.wait().await;

    step("5. And the new gateway can start")?;
    let begun = std::time::Instant::now();
    let bound = TcpListener::bind(("127.0.0.1", port.number)).await;
    let took = style::duration(begun.elapsed());
    match bound {
        Ok(_) => super::print(&format!(
            "   bound and listening on 127.0.0.1:{port} in {took}, at the first attempt\n"
        ))?,
        Err(error) => super::print(&format!("   {}\n", style::paint(Colour::Bad, &error.to_string())))?,
    }
    if polls {
        super::print(
            "\n   As root, the kernel itself tells of each bind, listen and release, within microseconds.\n",
        )?;
    }
    Ok(Exit::Done)
}

/// The gateway: listens, and ends when asked to.
pub(super) async fn gateway(port: Port) -> Result<Exit, CliError> {
    let failed = |error| CliError::Io { what: "the demo's gateway can't listen", error };
    let mut signals = <Host as Platform>::Signals::new().map_err(failed)?;
    let listener = TcpListener::bind(("127.0.0.1", port.number)).await.map_err(failed)?;
    // In Wine's socket table, a listener has no process until the socket is first queried.
    listener.ttl().map_err(failed)?;
    signals.next().await;
    Ok(Exit::Done)
}

fn start_gateway(port: Port) -> Result<Child, CliError> {
    let failed = |error| CliError::Io { what: "the demo's gateway can't be started", error };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Host::titled(&program, OPENCLAW_GATEWAY).map_err(failed)?;
    command.args(["demo-gateway", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn().map_err(failed)
}

async fn unused_port() -> Result<Port, CliError> {
    let find = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Port::tcp(listener.local_addr()?.port()))
    };
    find.await.map_err(|error| CliError::Io { what: "no free port was found for the demo", error })
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
