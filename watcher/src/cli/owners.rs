//! `gatewatch owners`.

use std::collections::HashSet;
use std::time::Instant;

use tracing::warn;

use super::args::{Format, OwnersArgs};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::ports::{Asked, not_for_agent};
use super::{next, text, udp_beside};
use crate::agent::client::Client;
use crate::platform::contract::{Interest, Platform as _};
use crate::steps::exclude::Exclusions;
use crate::steps::owner::Owners;
use crate::wire::answers::OwnersAnswer;

/// Of so many ports each by itself is told more of, which takes a look of its own.
const FEW: usize = 16;

pub(super) async fn run(args: &OwnersArgs) -> Result<Exit, CliError> {
    let begun = Instant::now();
    let context = Context::new(&args.observing)?;
    let asked = context.asked(&args.ports);
    let own_rules = args.matching.is_given().then_some("its configuration decides what matches");
    let cannot = own_rules.or_else(|| not_for_agent(&asked));
    let netns = context.host.netns();
    let request = async |agent: &mut Client| {
        let mut answers = Vec::new();
        for Asked { port, .. } in &asked {
            answers.push(agent.owners(*port, netns).await?);
        }
        Ok(answers)
    };
    if let Some(answers) = context.ask_agent(&args.observing, cannot, request).await? {
        return print_all(&context, args, &asked, &answers, begun);
    }
    let rules =
        asked.iter().map(|asked| context.rules(&args.matching, asked.port)).collect::<Result<Vec<_>, _>>()?;
    let mut observer = context.observer(&asked, Interest::Snapshots)?;
    let exclusions = Exclusions::new(&context.host, std::process::id(), &[], false);
    if asked.len() > FEW {
        let ports: Vec<_> = asked.iter().map(|asked| asked.port).zip(rules).collect();
        let answers = Owners::of_ports(&context.host, observer.as_mut(), &ports, &exclusions)?;
        context.tell_unseen(&answers);
        return print_all(&context, args, &asked, &answers, begun);
    }
    let mut answers = Vec::new();
    for (Asked { port, .. }, rules) in asked.iter().zip(rules) {
        answers.push(Owners::of_port(&context.host, observer.as_mut(), *port, &rules, &exclusions)?);
    }
    context.tell_unseen(&answers);
    print_all(&context, args, &asked, &answers, begun)
}

fn print_all(
    context: &Context,
    args: &OwnersArgs,
    asked: &[Asked],
    answers: &[Owners],
    begun: Instant,
) -> Result<Exit, CliError> {
    let mut told = HashSet::new();
    for (owners, asked) in answers.iter().zip(asked) {
        if args.pids {
            let pids = owners.owners.iter().filter_map(|owner| owner.pid).filter(|pid| told.insert(*pid));
            super::print(&pids.map(|pid| format!("{pid}\n")).collect::<String>())?;
            if owners.left_out > 0 {
                warn!("{} more are left out by the agent; `--agent never` prints all", owners.left_out);
            }
        } else {
            print(context, owners, asked, begun)?;
            if context.format == Format::Text
                && owners.owners.is_empty()
                && answers.len() <= FEW
                && let Some(note) = udp_beside::note(context, asked)
            {
                super::print(&format!("  {note}\n"))?;
            }
        }
    }
    let held = answers.iter().any(|owners| !owners.owners.is_empty());
    Ok(if args.exit_code && held { Exit::HeldByOther } else { Exit::Done })
}

fn print(context: &Context, owners: &Owners, asked: &Asked, begun: Instant) -> Result<(), CliError> {
    match context.format {
        Format::Json => super::print_json(&OwnersAnswer::from(owners)),
        Format::Text => super::print(&text::owners::answer(
            owners,
            asked,
            begun.elapsed(),
            next::after_owners(owners, asked),
        )),
    }
}
