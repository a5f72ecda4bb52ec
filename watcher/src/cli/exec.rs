//! `gatewatch exec`: frees the port, then becomes its server.

use std::process::Command;

use super::args::{CleanArgs, ExecArgs, Format};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::interrupts::NOT_RUN;
use super::ports::Asked;
use super::several::{self, Planned};
use super::{clean, command, next, text};
use crate::clean::Cleaned;
use crate::model::{Action, Outcome, Reason};
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::restart::Restart;
use crate::wire::answers::CleanAnswer;
use crate::wire::line;
use crate::wire::restart::RestartAnswer;

pub(super) async fn run(args: &ExecArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.clean.observing)?;
    let asked = context.asked_to_end(&args.clean.ports)?;
    let Some(first) = asked.first() else { return Ok(Exit::Usage) };
    let check = args.check.as_deref();
    if let Some(exit) = command::refuse(&context, first.port, &args.command, check).await? {
        return Ok(exit);
    }
    // Where one would stay held, nobody is ended for the others.
    let plan = several::plan(&context, &args.clean, asked).await?;
    let mut exits = Vec::new();
    for Planned { asked, args: own, look } in &plan {
        let Some(look) = look else { continue };
        if args.clean.dry_run || Exit::from(look.outcome) != Exit::Done {
            super::print(&answer(&context, own, asked, look)?)?;
        }
        exits.push(look.outcome.into());
    }
    let worst = Exit::worst(exits);
    if args.clean.dry_run || worst != Exit::Done {
        return Ok(worst);
    }
    let mut done = Vec::new();
    for Planned { asked, args: own, .. } in &plan {
        let cleaned = clean::clean_port(&context, own, asked, true).await?;
        if cleaned.reason == Some(Reason::Interrupted) {
            done.push(cleaned);
            return not_run(&context, done, Outcome::TimedOut, NOT_RUN);
        }
        if let Some(exit) = refused(&context, own, asked, &cleaned)? {
            return Ok(exit);
        }
        done.push(cleaned);
    }
    // Meanwhile somebody may have taken one that was free.
    if plan.len() > 1 {
        for Planned { asked, args: own, .. } in &plan {
            let mut now = several::look(&context, own, asked).await?;
            if now.outcome != Outcome::Free {
                now.outcome = Outcome::Respawned;
                super::print(&answer(&context, own, asked, &now)?)?;
                return Ok(now.outcome.into());
            }
        }
    }
    if args.overrides_guards {
        let observing = &args.clean.observing;
        context.ask_agent(observing, None, async |agent| agent.override_guards().await).await?;
    }
    if context.interrupts.have_come().await {
        return not_run(&context, done, Outcome::TimedOut, NOT_RUN);
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(Exit::Usage) };
    match Host::become_command(Command::new(program).args(arguments)) {
        Ok(status) => Ok(Exit::Command(status)),
        Err(error) => {
            let error = CliError::Command { program: program.clone(), error };
            not_run(&context, done, Outcome::CommandFailed, &error.to_string())
        }
    }
}

/// Tells all where the command is not run after all, because old owners have ended for it. No command has standard output.
fn not_run(context: &Context, done: Vec<Cleaned>, outcome: Outcome, why: &str) -> Result<Exit, CliError> {
    for cleaned in done {
        let mut restart = Restart::new(false);
        restart.cleaned(&cleaned);
        restart.note(why);
        let restarted = restart.finish(cleaned, outcome, None, None);
        match context.format {
            Format::Json => super::print_json(&RestartAnswer::from(&restarted))?,
            Format::Text => super::print(&text::restart::answer(&restarted, None))?,
        }
    }
    Ok(outcome.into())
}

/// The status with which to end, the answer being told, if the port could not be had.
fn refused(
    context: &Context,
    args: &CleanArgs,
    asked: &Asked,
    cleaned: &Cleaned,
) -> Result<Option<Exit>, CliError> {
    let answer = answer(context, args, asked, cleaned)?;
    if !matches!(cleaned.outcome, Outcome::Free | Outcome::Cleaned) {
        super::print(&answer)?;
        return Ok(Some(cleaned.outcome.into()));
    }
    // Standard output is the command's from now on.
    if context.format == Format::Json || cleaned.owners.iter().any(|dealt| dealt.action == Action::Killed) {
        super::say(&answer);
    }
    Ok(None)
}

fn answer(context: &Context, args: &CleanArgs, asked: &Asked, cleaned: &Cleaned) -> Result<String, CliError> {
    match context.format {
        Format::Json => line(&CleanAnswer::from(cleaned)).map_err(|error| CliError::Output(error.into())),
        Format::Text => Ok(text::clean::answer(cleaned, next::after_clean(cleaned, asked, args, true))),
    }
}
