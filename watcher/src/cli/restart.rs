//! `gatewatch restart`.

use std::fmt::Write as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::args::{Format, RestartArgs};
use super::setup::Setup;
use super::style::{self, Colour, Paint};
use super::watch::Source;
use super::{CliError, clean, unit};
use crate::clock;
use crate::end::Action;
use crate::exclude::Relation;
use crate::outcome::Outcome;
use crate::report::CleanReport;
use crate::restart::{CommandReport, Restart, RestartReport, Step};
use crate::watch::What;

pub(super) async fn run(args: &RestartArgs) -> Result<u8, CliError> {
    let setup = Setup::new(&args.clean.observing)?;
    let port = setup.port(&args.clean.port);
    let command = command_line(args);
    let mut restart = Restart::default();
    let cannot = clean::not_for_agent(&args.clean);
    let mut source = Source::new(&setup, &args.clean.observing, cannot, &[port]).await?;
    loop {
        let (line, _) = source.next().await?;
        match line.event {
            What::Held => restart.held_before(&line),
            What::Ready => break,
            _ => {}
        }
    }
    let cleaned = clean::clean_port(&setup, &args.clean, port).await?;
    restart.cleaned(&cleaned);
    let (outcome, command) = if args.clean.dry_run {
        (cleaned.outcome, None)
    } else if is_clear(args, &cleaned).await? {
        follow(args, &mut restart, &mut source, command).await?
    } else if cleaned.outcome == Outcome::Respawned && args.adopt {
        follow(args, &mut restart, &mut source, Vec::new()).await?
    } else {
        (cleaned.outcome, None)
    };
    let report = restart.report(cleaned, outcome, command);
    match setup.format {
        Format::Json => super::print_json(&report)?,
        Format::Text => super::print(&text(&report))?,
    }
    Ok(outcome.status())
}

/// The command that is given, else the one that restarts the unit, else none.
fn command_line(args: &RestartArgs) -> Vec<String> {
    match &args.clean.sparing.unit {
        Some(unit) if args.command.is_empty() => {
            ["systemctl", "restart", "--", unit].map(str::to_owned).into()
        }
        _ => args.command.clone(),
    }
}

/// Whether the command can be run: the port can be bound, or only the unit's own main process holds it, which systemd
/// will end by itself.
async fn is_clear(args: &RestartArgs, cleaned: &CleanReport) -> Result<bool, CliError> {
    if matches!(cleaned.outcome, Outcome::Free | Outcome::Cleaned) {
        return Ok(true);
    }
    let (Some(unit), Outcome::HeldByProtected) = (&args.clean.sparing.unit, cleaned.outcome) else {
        return Ok(false);
    };
    let main = unit::main_pid(unit).await?;
    let mut left = cleaned.owners.iter().filter(|ended| ended.action == Action::Spared);
    Ok(left.all(|ended| ended.owner.relation == Some(Relation::Protected) && ended.owner.pid == main))
}

/// Runs the command and follows the port until the new owner listens, or it is certain that none will.
async fn follow(
    args: &RestartArgs,
    restart: &mut Restart,
    source: &mut Source<'_>,
    argv: Vec<String>,
) -> Result<(Outcome, Option<CommandReport>), CliError> {
    // What has happened by now was not the command's doing.
    let mut outcome = None;
    while let Ok(line) = timeout(Duration::ZERO, source.next()).await {
        outcome = restart.take_in(&line?.0).or(outcome);
    }
    if restart.is_respawned() && !args.adopt && !argv.is_empty() {
        return Ok((Outcome::Respawned, None));
    }
    let deadline = Instant::now() + args.listen_timeout;
    let mut child = None;
    if !restart.is_listening() && !argv.is_empty() {
        // A supervisor's process that has come and gone by now decides nothing.
        outcome = None;
        // Before the start: its process can be further by the time that this one goes on.
        let at = clock::monotonic_ns(Instant::now());
        let started = start(&argv)?;
        restart.command_started(at, started.id());
        child = Some(started);
    }
    let mut status = None;
    while outcome.is_none() {
        tokio::select! {
            line = source.next() => outcome = restart.take_in(&line?.0),
            ended = exit_of(&mut child) => {
                child = None;
                status = ended.code();
                restart.command_ended(clock::monotonic_ns(Instant::now()), status);
                if !ended.success() {
                    // What it did before its end has happened, though it may be read only now.
                    while let Ok(line) = timeout(Duration::from_millis(1), source.next()).await {
                        outcome = restart.take_in(&line?.0).or(outcome);
                    }
                    outcome = outcome.or(Some(Outcome::CommandFailed));
                }
            }
            () = sleep(deadline.saturating_duration_since(Instant::now())) => outcome = Some(Outcome::TimedOut),
        }
    }
    if outcome == Some(Outcome::Restarted) {
        outcome = settle(args.settle, restart, source).await?.or(outcome);
    }
    let command = (!argv.is_empty()).then_some(CommandReport { argv, status });
    Ok((outcome.unwrap_or(Outcome::TimedOut), command))
}

/// Watches the new owner for a while; the outcome, if that changes it.
async fn settle(
    time: Duration,
    restart: &mut Restart,
    source: &mut Source<'_>,
) -> Result<Option<Outcome>, CliError> {
    let deadline = Instant::now() + time;
    while let Ok(line) = timeout(deadline.saturating_duration_since(Instant::now()), source.next()).await {
        if let Some(outcome) = restart.take_in(&line?.0).filter(|outcome| *outcome != Outcome::Restarted) {
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

/// Starts the command. Its standard output goes to our standard error: ours carries the answer and nothing else.
fn start(argv: &[String]) -> Result<Child, CliError> {
    let (program, arguments) =
        argv.split_first().ok_or_else(|| CliError::Usage("the command is empty".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::from(std::io::stderr()));
    command.spawn().map_err(|error| CliError::Command { program: program.clone(), error })
}

/// The end of the child; never, where there is none.
async fn exit_of(child: &mut Option<Child>) -> ExitStatus {
    match child {
        Some(child) => match child.wait().await {
            Ok(status) => status,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn text(report: &RestartReport) -> String {
    let paint = Paint::stdout();
    let RestartReport { cleaned, command, timeline, downtime_us, new_owner, why } = report;
    let good = cleaned.outcome.status() == 0;
    let headline = match (cleaned.outcome, new_owner) {
        (Outcome::Restarted, Some(owner)) => format!(
            "port {} is served by {} (pid {}): restarted",
            cleaned.port,
            style::printable(owner.comm.as_deref().unwrap_or("an unseen process")),
            owner.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        ),
        // The port was clean; it is the new owner that did not come.
        (Outcome::TimedOut, None) if cleaned.released.is_some() || command.is_some() => {
            format!("nobody new listens on port {} yet: time ran out", cleaned.port)
        }
        _ => clean::headline(cleaned),
    };
    let mut out = paint.paint(if good { Colour::Good } else { Colour::Bad }, &headline);
    if let Some(downtime) = downtime_us {
        let _ = write!(
            out,
            "  {}",
            paint.paint(Colour::Faint, &format!("(down for {})", style::micros(*downtime)))
        );
    }
    out.push('\n');
    if let Some(why) = why {
        let _ = writeln!(out, "  {why}");
    }
    clean::owners(&mut out, cleaned);
    for at in timeline {
        let step = match at.step {
            Step::Sigterm => "SIGTERM sent",
            Step::Sigkill => "SIGKILL sent",
            Step::Exited => "old process exited",
            Step::Released => "port released",
            Step::CommandStarted => "command started",
            Step::CommandEnded => "command ended",
            Step::Bind => "new process bound",
            Step::Listen => "listening",
            Step::Conflict => "bind failed",
            Step::Lost => "port given back",
        };
        let pid = at.pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
        let time = format!("{:+.3} ms", f64::from(i32::try_from(at.at_us).unwrap_or(i32::MAX)) / 1e3);
        let _ = writeln!(out, "  {time:>14}  {step}{}", paint.paint(Colour::Faint, &pid));
    }
    if let Some(CommandReport { argv, status: Some(status) }) = command {
        let _ = writeln!(out, "  {} ended with status {status}", style::printable(&argv.join(" ")));
    }
    out
}
