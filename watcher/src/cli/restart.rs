//! `gatewatch restart`.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use tracing::warn;

use super::args::{CleanArgs, Format, RestartArgs};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::following::{Following, next_event, of_port};
use super::interrupts::NOT_RUN;
use super::picture::{self, Picture};
use super::ports::Asked;
use super::several::{self, Planned};
use super::started::Started;
use super::store::{self, UnitStore};
use super::unit::{self, Unit};
use super::watch::{Meant, Source};
use super::{clean, command, next, ports, starters, text};
use crate::clean::Cleaned;
use crate::model::{Action, Exclusion, Outcome, Port, Reason, WatchKind};
use crate::platform::contract::KeepError;
use crate::restart::Restart;
use crate::steps::end::OwnerOutcome;
use crate::steps::keep::Keeper;
use crate::steps::waiting::told;
use crate::wire::restart::RestartAnswer;

pub(super) async fn run(mut args: RestartArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.clean.observing)?;
    let asked = context.asked_to_end(&args.clean.ports)?;
    let Some(first) = asked.first() else { return Ok(Exit::Usage) };
    if let Some(exit) = refuse_to_keep(&context, &mut args, first.port).await? {
        return Ok(exit);
    }
    if let Some(exit) = command::refuse(&context, first.port, &args.command, args.check.as_deref()).await? {
        return Ok(exit);
    }
    let picture = args.svg.as_deref().map(Picture::open).transpose()?;
    prefer_unit(&mut args).await;
    let args = &args;
    let cannot = clean::not_for_agent(&args.clean).or(ports::not_for_agent(&asked));
    let mut restarts: Vec<(Port, Restart)> =
        asked.iter().map(|asked| (asked.port, Restart::new(args.adopt))).collect();
    let mut source =
        Source::new(&context, &args.clean.observing, cannot, Meant { asked: &asked, all: false }).await?;
    let mut awaited = asked.len();
    while awaited > 0 {
        let event = next_event(&mut source).await?;
        match event.kind {
            WatchKind::Held => of_port(&mut restarts, event.port).for_each(|it| it.held_before(&event)),
            WatchKind::Ready { .. } => awaited -= 1,
            WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Conflict { .. }
            | WatchKind::Refused
            | WatchKind::Release
            | WatchKind::Free
            | WatchKind::Lost { .. } => {}
        }
    }
    let plan = several::plan(&context, &args.clean, asked.clone()).await?;
    let keeper = args.clean.keeper.clone().unwrap_or_default();
    if let Some(error) = keeper.take_failure() {
        return cannot_keep(&context, first, args, &error);
    }
    let mut is_vain = args.clean.dry_run;
    for look in plan.iter().filter_map(|planned| planned.look.as_ref()) {
        is_vain |= !is_clear(&context, args, look).await?;
    }
    // Before the first signal, because it can fail.
    let id = match &args.clean.sparing.unit {
        Some(unit) if !is_vain => Some(Unit::ask(unit).await?.id().to_owned()),
        _ => None,
    };
    let (mut argv, mut done) = (Some(command_line(args)).filter(|_| !is_vain), Vec::new());
    for Planned { asked, args: own, look } in plan {
        // Where one port would stay held, nobody is ended for the others.
        let mut cleaned = match look {
            Some(look) if is_vain => look,
            _ => clean::clean_port(&context, &own, &asked, true).await?,
        };
        if let Some(error) = keeper.take_failure() {
            if done.is_empty() {
                return cannot_keep(&context, &asked, args, &error);
            }
            // A socket that came after the look at all ports.
            warn!("port {} is left alone: {error}", asked.port);
        }
        let is_left = args.clean.dry_run && cleaned.outcome == Outcome::HeldByProtected;
        if is_left && is_clear(&context, args, &cleaned).await? {
            // What systemd would end is no obstacle.
            cleaned.outcome = Outcome::WouldClean;
        }
        for restart in of_port(&mut restarts, asked.port) {
            restart.cleaned(&cleaned);
            keeper.since(asked.port).into_iter().for_each(|since| restart.keeps(since));
            if cleaned.reason == Some(Reason::Interrupted) {
                restart.note(NOT_RUN);
            }
        }
        let is_clear = is_vain || is_clear(&context, args, &cleaned).await?;
        let is_adopted = cleaned.outcome == Outcome::Respawned && args.adopt;
        done.push((asked, own, cleaned));
        if !is_clear {
            // Who has put a new owner there already needs no other.
            argv = argv.filter(|_| is_adopted).map(|_| Vec::new());
        }
        if !is_clear && !is_adopted {
            break;
        }
    }
    let mut rules = HashMap::new();
    for (asked, own, _) in &done {
        rules.insert(asked.port, context.rules(&own.matching, asked.port)?);
    }
    let mut signals = if argv.is_some() { Some(context.interrupts.take()?) } else { None };
    let mut store = None;
    let would_run = args.clean.dry_run && done.iter().all(|(_, _, look)| look.outcome == Outcome::WouldClean);
    let hands_on = args.keep_listening && (argv.is_some() || would_run);
    if let Some(unit) = args.clean.sparing.unit.as_deref().filter(|_| hands_on) {
        match keep_for_unit(&context, unit, args, &done, &mut restarts).await {
            Ok(kept) => store = kept,
            Err(error) if !done.iter().any(|(_, _, cleaned)| has_ended_one(cleaned)) => {
                return cannot_keep(&context, first, args, &error);
            }
            // The command has the ended one's place to take.
            Err(error) => {
                warn!("an ordinary restart all the same: {error}");
                keeper.close(&error.to_string());
                restarts.iter_mut().for_each(|(_, restart)| restart.fell_back());
            }
        }
    }
    let (outcomes, command) = match argv.zip(signals.take()) {
        Some((argv, signals)) => {
            let started = Started::new(context.host.clone(), rules, id);
            let awaited = waited_for(&done);
            let (format, restarts, source) = (context.format, &mut restarts, &mut source);
            if store.is_none() {
                keeper.open();
            }
            let keeper = keeper.clone();
            let mut following = Following { args, format, restarts, source, started, signals, keeper, store };
            let done = told(|| awaited, Some(args.listen_timeout), following.run(argv)).await;
            if let Some(store) = following.store {
                store.clear().await;
            }
            done?
        }
        None => (vec![None; done.len()], None),
    };
    let (mut exits, mut all) = (Vec::new(), Vec::new());
    for (((asked, own, cleaned), (_, restart)), outcome) in done.into_iter().zip(restarts).zip(outcomes) {
        let has_waited = outcome.is_some() || command.is_some();
        let outcome = outcome.unwrap_or(cleaned.outcome);
        exits.push(outcome.into());
        let handover = args.keep_listening.then(|| keeper.told(asked.port));
        let mut restarted = restart.finish(cleaned, outcome, command.clone(), handover);
        if context.format == Format::Text {
            starters::name(&context.host, &mut restarted.cleaned, Duration::ZERO).await;
        }
        match context.format {
            Format::Json => super::print_json(&RestartAnswer::from(&restarted))?,
            Format::Text => {
                let next = if has_waited {
                    next::after_restart(outcome, &asked)
                } else {
                    next::after_clean(&restarted.cleaned, &asked, &own, true)
                };
                super::print(&text::restart::answer(&restarted, next))?;
            }
        }
        all.push(restarted);
    }
    if let Some(picture) = picture
        && let Err(error) = picture.write(&picture::restart::drawn(&all))
    {
        // What was done is done, and the status is the restart's.
        warn!("the picture can't be written: {error}");
    }
    Ok(Exit::worst(exits))
}

/// Prepares to keep the old owner's sockets, if that is asked for. Returns the exit status, having said why, if nobody could
/// get them.
async fn refuse_to_keep(
    context: &Context,
    args: &mut RestartArgs,
    port: Port,
) -> Result<Option<Exit>, CliError> {
    if !args.keep_listening {
        return Ok(None);
    }
    // After a reload, the old owner is the new one.
    let reloads = args.command.iter().any(|word| word == "reload-or-restart");
    let restarted = restarted_unit(&args.command).filter(|_| !reloads);
    let why = match args.clean.sparing.unit.as_deref().or(restarted_unit(&args.command)) {
        Some(unit) if args.command.is_empty() || restarted == Some(unit) => match store::why_closed(unit, port).await {
            Ok(why) => why,
            Err(error) => Some(error.to_string()),
        },
        Some(unit) => Some(format!("--keep-listening restarts {unit} by itself: leave the command out")),
        None if args.command.is_empty() => Some(
            "--keep-listening needs a command or a unit to hand the sockets to: gatewatch restart PORT --keep-listening -- CMD"
                .to_owned(),
        ),
        None => None,
    };
    let Some(why) = why else {
        args.clean.keeper = Some(Keeper::default());
        return Ok(None);
    };
    command::not_run(context, port, &args.command, Reason::CannotKeepListening, why)?;
    Ok(Some(Exit::Usage))
}

/// Puts the sockets by which a unit's processes serve the ports into systemd's store, beside those of the owners that were
/// ended. None where there are no such sockets.
async fn keep_for_unit(
    context: &Context,
    unit: &str,
    args: &RestartArgs,
    done: &[(Asked, CleanArgs, Cleaned)],
    restarts: &mut [(Port, Restart)],
) -> Result<Option<UnitStore>, KeepError> {
    let keeper = args.clean.keeper.clone().unwrap_or_default();
    let failed = |error: CliError| KeepError::Store {
        unit: unit.to_owned(),
        error: io::Error::other(error.to_string()),
    };
    let family = unit::family(&context.host, unit).await.map_err(failed)?;
    let dealt = done.iter().flat_map(|(_, _, cleaned)| &cleaned.owners);
    let left = dealt.filter(|dealt| is_systemds(dealt, &family)).map(|dealt| &dealt.owner);
    if !keeper.take(&context.host, left) {
        return Err(keeper.take_failure().unwrap_or(KeepError::Unsupported));
    }
    if keeper.is_empty() {
        return Ok(None);
    }
    keeper.is_stored();
    let store =
        if args.clean.dry_run { None } else { Some(UnitStore::put(&context.host, unit, &keeper).await?) };
    for (port, restart) in restarts {
        keeper.since(*port).into_iter().for_each(|since| restart.keeps(since));
    }
    Ok(store)
}

fn has_ended_one(cleaned: &Cleaned) -> bool {
    cleaned.owners.iter().any(|dealt| dealt.action == Action::Killed)
}

/// Says that a socket can't be kept, before anybody was signalled.
fn cannot_keep(
    context: &Context,
    asked: &Asked,
    args: &RestartArgs,
    error: &KeepError,
) -> Result<Exit, CliError> {
    let reason = Reason::CannotKeepListening;
    command::not_run(context, asked.port, &args.command, reason, error.to_string())?;
    Ok(match error {
        KeepError::NotPermitted { .. } => Exit::NotPermitted,
        KeepError::Store { error, .. } if error.kind() == ErrorKind::PermissionDenied => Exit::NotPermitted,
        KeepError::Changed { .. } | KeepError::Store { .. } | KeepError::Other { .. } => Exit::Failed,
        KeepError::Unsupported => Exit::Usage,
    })
}

fn waited_for(done: &[(Asked, CleanArgs, Cleaned)]) -> String {
    let ports: Vec<String> = done.iter().map(|(asked, ..)| asked.port.to_string()).collect();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    format!("waiting for a new owner to listen on {noun} {}", ports.join(", "))
}

/// Where the command is `systemctl restart UNIT`, the unit's own main process is left to systemd, as with `--unit`: ended
/// behind its back, it would be down for longer, and systemd might take that for a crash.
async fn prefer_unit(args: &mut RestartArgs) {
    if args.clean.sparing.unit.is_some() {
        return;
    }
    if let Some(unit) = restarted_unit(&args.command)
        && let Ok(Some(_)) = unit::main_pid(unit).await
    {
        warn!("systemd restarts {unit} and ends its main process itself; `--unit {unit}` says so");
        args.clean.sparing.unit = Some(unit.to_owned());
    }
}

/// The unit that a command restarts by `systemctl restart UNIT`, with nothing else that systemctl is told.
fn restarted_unit(argv: &[String]) -> Option<&str> {
    let (program, words) = argv.split_first()?;
    let is_systemctl = Path::new(program).file_name().is_some_and(|name| name == "systemctl");
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|&word| word != "--").collect();
    match words[..] {
        ["restart" | "try-restart" | "reload-or-restart", unit] if is_systemctl => {
            Some(unit).filter(|unit| !unit.starts_with('-'))
        }
        _ => None,
    }
}

/// The given command, else the one that restarts the unit, else none.
fn command_line(args: &RestartArgs) -> Vec<String> {
    match &args.clean.sparing.unit {
        Some(unit) if args.command.is_empty() => {
            ["systemctl", "restart", "--", unit].map(str::to_owned).into()
        }
        _ => args.command.clone(),
    }
}

/// Whether the command can be run: either the port can be bound, or will be, or only the unit's own processes hold it, and systemd
/// will end those by itself.
async fn is_clear(context: &Context, args: &RestartArgs, cleaned: &Cleaned) -> Result<bool, CliError> {
    if matches!(cleaned.outcome, Outcome::Free | Outcome::Cleaned | Outcome::WouldClean) {
        return Ok(true);
    }
    let (Some(unit), Outcome::HeldByProtected) = (&args.clean.sparing.unit, cleaned.outcome) else {
        return Ok(false);
    };
    let family = unit::family(&context.host, unit).await?;
    let mut left = cleaned.owners.iter().filter(|dealt| dealt.action == Action::Spared);
    // Of those that the agent left out nothing is known.
    Ok(cleaned.left_out.count == 0 && left.all(|dealt| is_systemds(dealt, &family)))
}

/// Whether it was left to systemd, as one of these processes of the unit.
fn is_systemds(dealt: &OwnerOutcome, family: &[u32]) -> bool {
    dealt.action == Action::Spared
        && dealt.owner.exclusion == Some(Exclusion::Protected)
        && dealt.owner.pid.is_some_and(|pid| family.contains(&pid))
}
