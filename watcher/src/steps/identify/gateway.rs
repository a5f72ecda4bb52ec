//! Which command line is an OpenClaw gateway's.
//!
//! The name does not tell: Node's processes are all called `node` until they set a title, and other programs have
//! `openclaw` in their names or arguments. The executable, the script, the package that it belongs to, and the first
//! sub-command do.

use super::argument::Argument;
use super::runtime::Runtime;
use super::subcommand::{self, Subcommand};
use super::{Judgement, environment, product, script};
use crate::model::{Process, Verdict};

/// Judges a process by its command line.
pub(super) fn judge(process: &Process) -> Judgement {
    let Some(argv) = &process.argv else { return Judgement::unreadable_argv() };
    if process.argv_cut {
        return Judgement::cut_argv();
    }
    let arguments: Vec<Argument<'_>> = argv.iter().filter_map(|raw| Argument::new(raw)).collect();
    let Some((first, rest)) = arguments.split_first() else { return Judgement::unreadable_argv() };
    let judgement = by_command_line(process, first, rest);
    if judgement.verdict == Verdict::Match {
        return judgement;
    }
    environment::judge_wrapper(process, &arguments).unwrap_or(judgement)
}

fn by_command_line(process: &Process, first: &Argument<'_>, rest: &[Argument<'_>]) -> Judgement {
    let program = first.program();
    if product::is_title(program) {
        return Judgement::matching(format!("its title is {program}"));
    }
    if product::is_name(program) {
        return match subcommand::read(rest) {
            Subcommand::Gateway => Judgement::matching("it is openclaw's gateway sub-command"),
            Subcommand::Other => Judgement::other("it runs another sub-command than gateway"),
            Subcommand::Unclear => unclear_subcommand(),
        };
    }
    if rest.is_empty() {
        if product::is_cut_title(program, &process.comm) {
            return Judgement::matching(format!("its title is a gateway's, cut to {program:?}"));
        }
        if let Some(judgement) = environment::judge_pm2(process, first) {
            return judgement;
        }
    }
    match Runtime::of(process, program) {
        Some(runtime) => by_runtime(process, runtime, rest),
        None => by_unknown_program(process, rest),
    }
}

fn unclear_subcommand() -> Judgement {
    Judgement::unclassified("its sub-command depends on an option that is not known")
}

/// Judges every way in which a runtime's arguments can be read. They must agree.
fn by_runtime(process: &Process, runtime: Runtime, arguments: &[Argument<'_>]) -> Judgement {
    let unclear = || Judgement::unclassified("its script depends on an option that is not known");
    let Some(places) = runtime.script_places(arguments) else { return unclear() };
    let judge = |place: Option<usize>| match place {
        Some(at) => by_script(process, &arguments[at], &arguments[at + 1..]),
        None => Judgement::other("its runtime runs no script file"),
    };
    let judgements: Vec<Judgement> = places.into_iter().map(judge).collect();
    let all = |identity| judgements.iter().all(|judgement| judgement.verdict == identity);
    match judgements.first() {
        Some(first) if all(first.verdict) => first.clone(),
        _ => unclear(),
    }
}

fn by_script(process: &Process, script: &Argument<'_>, rest: &[Argument<'_>]) -> Judgement {
    match subcommand::read(rest) {
        // No file is looked at for the many that aren't a gateway by this alone.
        Subcommand::Other => Judgement::other("its script does not run the sub-command gateway"),
        Subcommand::Gateway => script::judge(process, script),
        Subcommand::Unclear => match script::judge(process, script) {
            ours if ours.verdict == Verdict::Match => unclear_subcommand(),
            judgement => judgement,
        },
    }
}

/// A program that is not known may be a runtime under a new name, when it was given what is certainly the gateway's
/// script: not enough to end it, and too much to call it another.
fn by_unknown_program(process: &Process, rest: &[Argument<'_>]) -> Judgement {
    let is_gateway = rest.split_first().is_some_and(|(script, rest)| {
        subcommand::read(rest) != Subcommand::Other && script::is_ours(process, script)
    });
    if is_gateway {
        Judgement::unclassified("its script is a gateway's, its program is not a known runtime")
    } else {
        Judgement::other("its program is not a gateway's")
    }
}

#[cfg(test)]
mod tests;
