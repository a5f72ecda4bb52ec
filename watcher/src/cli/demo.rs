//! `gatewatch demo`: a stale gateway of its own, watched and cleaned.

use std::process::Stdio;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::CliError;
use super::args::{BackendChoice, DemoArgs};
use super::style::{self, Colour, Paint};
use super::{owners, setup};
use crate::clean::{Request, clean};
use crate::end::Timeouts;
use crate::exclude::Exclusions;
use crate::identify::{OPENCLAW_GATEWAY, Rules};
use crate::observe::{Interest, Socket};
use crate::outcome::Outcome;
use crate::platform::host::{self, Host};
use crate::report::{CleanReport, OwnerReport};
use crate::watch::{Watch, What};

/// How often the demo's polling looks.
const PACE: std::time::Duration = std::time::Duration::from_millis(10);

pub(super) async fn run(args: &DemoArgs) -> Result<u8, CliError> {
    let paint = Paint::stdout();
    let step = |text: &str| super::print(&format!("\n{}\n", paint.paint(Colour::Strong, text)));
    let host = Host::new(None)?;
    let port = unused_port().await?;

    step(&format!("1. A watch on port {port}, then a gateway that is started and forgotten"))?;
    let observer = setup::observer(&host, args.backend, &[port], Interest::Everything, PACE)?;
    let backend = observer.backend();
    // What polling loses has been said; the second observer need not repeat it.
    let second =
        if backend == crate::observe::Backend::Poll { BackendChoice::Poll } else { BackendChoice::Ebpf };
    let mut watch = Watch::begin(&host, observer, &[port])?;
    let mut gateway = start_gateway(port)?;
    loop {
        let line = watch.next().await?;
        super::print(&format!("   {}", super::watch::text(paint, &line)))?;
        if line.event == What::Listen {
            break;
        }
    }

    step("2. Who owns the port, and is it one that may be ended?")?;
    let mut observer = match second {
        BackendChoice::Poll => host.by_polling(&[port], PACE),
        _ => host.by_events(&[port], Interest::Releases)?.0,
    };
    let exclusions = Exclusions::new(&host, std::process::id(), &[], false);
    let rules = Rules::openclaw_gateway();
    let mut sockets = observer.snapshot(port)?;
    sockets.retain(Socket::owns_port);
    for owner in crate::owner::owners(&sockets, &host, &rules, &exclusions) {
        super::print(&format!(
            "   {}\n",
            owners::describe(paint, &OwnerReport::from(&owner)).replace('\n', "\n   ")
        ))?;
    }

    step("3. gatewatch clean")?;
    let request =
        Request { port, rules, exclusions, timeouts: Timeouts::default(), dry_run: false, pace: PACE };
    let cleaned = clean(&host, observer.as_mut(), &request).await?;
    super::print(&indent(&super::clean::text(&CleanReport::from(&cleaned))))?;

    if cleaned.outcome != Outcome::Cleaned {
        return Ok(cleaned.outcome.status().max(1));
    }

    step("4. What the watch saw of it")?;
    loop {
        let line = watch.next().await?;
        super::print(&format!("   {}", super::watch::text(paint, &line)))?;
        if line.event == What::Free {
            break;
        }
    }
    let _ = gateway.wait().await;

    step("5. And the new gateway can start")?;
    let begun = std::time::Instant::now();
    let bound = TcpListener::bind(("127.0.0.1", port)).await;
    let took = style::duration(begun.elapsed());
    match bound {
        Ok(_) => super::print(&format!(
            "   bound and listening on 127.0.0.1:{port} in {took}, at the first attempt\n"
        ))?,
        Err(error) => super::print(&format!("   {}\n", paint.paint(Colour::Bad, &error.to_string())))?,
    }
    if second == BackendChoice::Poll {
        super::print(
            "\n   As root, the kernel itself tells of each bind, listen and release, within microseconds.\n",
        )?;
    }
    Ok(0)
}

/// The gateway: listens, and ends when asked to.
pub(super) async fn gateway(port: u16) -> Result<u8, CliError> {
    let failed = |error| CliError::Io { what: "the demo's gateway can't listen", error };
    let mut signals = host::signals::Signals::new().map_err(failed)?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(failed)?;
    // Wine leaves a listener that was never asked anything with no process in its socket table.
    listener.ttl().map_err(failed)?;
    signals.next().await;
    Ok(0)
}

fn start_gateway(port: u16) -> Result<Child, CliError> {
    let failed = |error| CliError::Io { what: "the demo's gateway can't be started", error };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = host::titled(&program, OPENCLAW_GATEWAY).map_err(failed)?;
    command.args(["demo-gateway", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn().map_err(failed)
}

async fn unused_port() -> Result<u16, CliError> {
    let find = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(listener.local_addr()?.port())
    };
    find.await.map_err(|error| CliError::Io { what: "no port can be found for the demo", error })
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
