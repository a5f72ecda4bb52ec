//! Several ports that one server wants: all are decided before the first signal.

use super::args::CleanArgs;
use super::context::Context;
use super::exit::CliError;
use super::ports::Asked;
use super::{clean, confirm};
use crate::clean::Cleaned;

/// A port that is to be cleaned.
pub(super) struct Planned {
    pub(super) asked: Asked,
    /// With the processes that a person chose to be ended on this port.
    pub(super) args: CleanArgs,
    /// What a clean would do; `None` where there is only one port, whose clean decides by itself.
    pub(super) look: Option<Cleaned>,
}

/// Looks what a clean of each port would do, where there are several or nothing is to be done, and asks a person where one
/// would stay held.
pub(super) async fn plan(
    context: &Context,
    args: &CleanArgs,
    asked: Vec<Asked>,
) -> Result<Vec<Planned>, CliError> {
    let is_needed = args.dry_run || asked.len() > 1;
    let mut plan = Vec::new();
    for asked in asked {
        let mut args = args.clone();
        let look = if is_needed { Some(chosen(context, &mut args, &asked).await?) } else { None };
        plan.push(Planned { asked, args, look });
    }
    Ok(plan)
}

async fn chosen(context: &Context, args: &mut CleanArgs, asked: &Asked) -> Result<Cleaned, CliError> {
    let seen = look(context, args, asked).await?;
    if !args.dry_run
        && let Some(chosen) = confirm::chosen(args, context.format, &seen)
    {
        args.matching.chosen = chosen;
        return look(context, args, asked).await;
    }
    Ok(seen)
}

/// What a clean would do now.
pub(super) async fn look(context: &Context, args: &CleanArgs, asked: &Asked) -> Result<Cleaned, CliError> {
    let args = CleanArgs { dry_run: true, ..args.clone() };
    clean::clean_port(context, &args, asked, true).await
}
