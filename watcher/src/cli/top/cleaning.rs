//! Cleaning a port from the screen: first a dry run, and after a person has said yes, those whom it has shown and no others.

use anstream::adapter::strip_str;

use super::question::{Dialog, Plan};
use crate::clean::Cleaned;
use crate::cli::args::{AgentChoice, CleanArgs, Confirming, EndingArgs, TopArgs, UntilEnded};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::cli::ports::Asked;
use crate::cli::{clean, next, text};
use crate::model::{Action, Backend, Outcome, Process, Verdict};

/// The clean that the command line of `top` means. It never asks by itself.
pub(super) fn arguments(args: &TopArgs) -> CleanArgs {
    CleanArgs {
        ports: args.ports.clone(),
        matching: args.matching.clone(),
        sparing: args.sparing.clone(),
        dry_run: true,
        term_timeout: None,
        kill_timeout: None,
        free_timeout: None,
        ending: EndingArgs { signal: None, no_kill: false, until: UntilEnded::Exited, drop_time_wait: false },
        confirming: Confirming { yes: false, no_input: true },
        observing: args.observing.clone(),
        keeper: None,
    }
}

/// Signals nobody, and says whom a clean would end: what to ask, or why there is nothing to ask.
pub(super) async fn dry_run(context: &Context, args: &CleanArgs, asked: &Asked) -> Result<Dialog, CliError> {
    Ok(match plan(context, args, asked).await? {
        Ok(plan) => Dialog::Ask(plan),
        Err(cleaned) => {
            let title = format!("port {}: there is nothing to end", asked.port);
            Dialog::Answer { title, lines: lines(&cleaned) }
        }
    })
}

/// What a clean would do; the answer of the dry run where it would do nothing.
async fn plan(context: &Context, args: &CleanArgs, asked: &Asked) -> Result<Result<Plan, Cleaned>, CliError> {
    let mut args = CleanArgs { dry_run: true, ..args.clone() };
    let mut cleaned = clean::clean_port(context, &args, asked, false).await?;
    let mut chosen = Vec::new();
    if args.observing.asking.agent != AgentChoice::Only
        && let Some(owners) = next::endable(&cleaned)
    {
        // They match no rule, as a person who is asked will see.
        chosen = owners.iter().filter_map(|owner| owner.process.clone()).collect();
        args.matching.chosen.clone_from(&chosen);
        let by_rules =
            std::mem::replace(&mut cleaned, clean::clean_port(context, &args, asked, false).await?);
        explain(&mut cleaned, &by_rules);
    }
    if cleaned.outcome != Outcome::WouldClean {
        return Ok(Err(cleaned));
    }
    let targets = cleaned.owners.iter().filter(|dealt| dealt.action == Action::WouldKill);
    let targets: Option<Vec<Process>> = targets.map(|dealt| dealt.owner.process.clone()).collect();
    // Nobody can confirm what is not shown.
    let Some(targets) = targets.filter(|all| !all.is_empty() && cleaned.left_out.count == 0) else {
        return Ok(Err(cleaned));
    };
    let by_agent = cleaned.backend == Backend::Agent;
    Ok(Ok(Plan { port: asked.port, answer: lines(&cleaned), targets, chosen, by_agent }))
}

/// Says of those that match only because they were chosen what the rules say of them.
fn explain(cleaned: &mut Cleaned, by_rules: &Cleaned) {
    for dealt in &mut cleaned.owners {
        let judged = by_rules.owners.iter().find(|other| other.owner.same_process(&dealt.owner));
        if let Some(judged) = judged.filter(|judged| judged.owner.verdict != Verdict::Match) {
            dealt.owner.why = format!("no match by the rules: {}", judged.owner.why);
        }
    }
}

/// Ends those whom the plan has shown. Where a new dry run shows others, it is asked anew, and nobody is signalled.
pub(super) async fn confirmed(
    context: &Context,
    args: &CleanArgs,
    asked: &Asked,
    shown: &Plan,
) -> Result<Dialog, CliError> {
    let now = match plan(context, args, asked).await? {
        Ok(now) if now.is_same(shown) && now.by_agent == shown.by_agent => now,
        Ok(mut changed) => {
            changed.answer.insert(0, "its owners have changed: no process was signalled".to_owned());
            return Ok(Dialog::Ask(changed));
        }
        Err(cleaned) => {
            let title = format!("port {}: its owners have changed, none was signalled", asked.port);
            return Ok(Dialog::Answer { title, lines: lines(&cleaned) });
        }
    };
    let mut args = CleanArgs { dry_run: false, ..args.clone() };
    if now.by_agent {
        // Its own rules decide, and must: where it is gone, this process would decide by others.
        args.observing.asking.agent = AgentChoice::Only;
    } else {
        args.observing.asking.agent = AgentChoice::Never;
        args.matching.chosen = now.chosen;
        args.matching.only = Some(shown.targets.clone());
    }
    let cleaned = clean::clean_port(context, &args, asked, false).await?;
    Ok(Dialog::Answer { title: format!("port {}", asked.port), lines: lines(&cleaned) })
}

fn lines(cleaned: &Cleaned) -> Vec<String> {
    let answer = text::clean::answer(cleaned, None);
    strip_str(&answer).to_string().lines().map(str::to_owned).collect()
}
