//! `gatewatch clean`.

use std::slice;

use tracing::warn;

use super::args::{AgentChoice, CleanArgs, EndingArgs, Format, Sparing as SparingArgs, UntilEnded};
use super::context::{Context, NOT_ALL_IS_SEEN};
use super::exit::{CliError, Exit};
use super::ports::{self, Asked};
use super::{confirm, next, starters, text, udp_beside, unit};
use crate::agent::client::Client;
use crate::agent::socket_path;
use crate::clean::{Cleaned, Request, clean};
use crate::model::{Exclusion, Outcome, Port, Reason, Socket};
use crate::owner_record;
use crate::platform::contract::{Interest, Observer, System};
use crate::steps::exclude::Exclusions;
use crate::steps::plan::Sparing;
use crate::steps::prove::Plain;
use crate::wire::agent::{CleanRequest, MOST_PROTECTED};
use crate::wire::answers::CleanAnswer;

pub(super) async fn run(args: &CleanArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.observing)?;
    let mut exits = Vec::new();
    for asked in context.asked_to_end(&args.ports)? {
        let mut cleaned = clean_port(&context, args, &asked, false).await?;
        if context.format == Format::Text {
            starters::name(&context.host, &mut cleaned, starters::MOMENT).await;
        }
        match context.format {
            Format::Json => super::print_json(&CleanAnswer::from(&cleaned))?,
            Format::Text => {
                let next = next::after_clean(&cleaned, &asked, args, false);
                super::print(&text::clean::answer(&cleaned, next))?;
                if cleaned.outcome == Outcome::Free
                    && let Some(note) = udp_beside::note(&context, &asked)
                {
                    super::print(&format!("  {:<8} {note}\n", "note"))?;
                }
            }
        }
        exits.push(cleaned.outcome.into());
    }
    Ok(Exit::worst(exits))
}

/// Cleans the port, and once more if it is held by a process that matches no rule and a person says that it may go. With
/// `all_or_nothing` nobody is ended unless that frees the addresses.
pub(super) async fn clean_port(
    context: &Context,
    args: &CleanArgs,
    asked: &Asked,
    all_or_nothing: bool,
) -> Result<Cleaned, CliError> {
    let first = clean_once(context, args, asked, all_or_nothing).await?;
    if args.dry_run {
        return Ok(first);
    }
    let Some(chosen) = confirm::chosen(args, context.format, &first) else { return Ok(first) };
    let mut args = args.clone();
    args.matching.chosen = chosen;
    let second = clean_once(context, &args, asked, all_or_nothing).await?;
    Ok(second.after(first))
}

/// Cleans the port: through the agent, if it answers and can run this clean, else in this process.
async fn clean_once(
    context: &Context,
    args: &CleanArgs,
    asked: &Asked,
    all_or_nothing: bool,
) -> Result<Cleaned, CliError> {
    let port = asked.port;
    let rules = context.rules(&args.matching, port)?;
    let mut protect = args.sparing.protect.clone();
    if rules.is_gateways() {
        protect.extend(service_pid());
    }
    if let Some(unit) = &args.sparing.unit {
        protect.extend(unit::family(&context.host, unit).await?);
    }
    protect.sort_unstable();
    protect.dedup();
    let said = args.overrides();
    let cannot = not_for_agent(args)
        .or_else(|| ports::not_for_agent(slice::from_ref(asked)))
        .or_else(|| too_many(&protect));
    let asking = &args.observing.asking;
    if let Some(why) = too_many(&protect)
        && asking.agent == AgentChoice::Auto
        && socket_path(asking.socket.as_deref(), &context.config).exists()
    {
        warn!("the agent is not asked: {why}");
    }
    let request = CleanRequest::new(&said, &protect, args.sparing.min_age, args.dry_run, all_or_nothing);
    // What an agent that broke off has done already, the next one finds done.
    let ask = async |agent: &mut Client| agent.clean(port, &request).await;
    if let Some(cleaned) = context.ask_agent(&args.observing, cannot, ask).await? {
        return Ok(cleaned);
    }
    for &pid in &args.sparing.protect {
        if context.host.process(pid).is_err() {
            warn!("--protect {pid}: there is no such process");
        }
    }
    let mut observer = context.observer(slice::from_ref(asked), Interest::ReleasesLater)?;
    let exclude =
        |pids: &[u32]| Exclusions::new(&context.host, std::process::id(), pids, args.sparing.include_init);
    let unrecorded = exclude(&protect);
    let exclusions = match &args.sparing.owner_record {
        Some(record) => {
            let users = users_of(&context.host, observer.as_mut(), port)?;
            protect.extend(owner_record::live(record, &users, &context.host).await?);
            exclude(&protect)
        }
        None => unrecorded.clone(),
    };
    let mut request = Request {
        sparing: Sparing { min_age: args.sparing.min_age, inherited: args.sparing.inherited },
        asked: asked.at.clone(),
        dry_run: args.dry_run,
        all_or_nothing,
        // Its answer is in the JSON alone, and to try it can disturb a server that starts.
        plain: if context.format == Format::Json { Plain::Try } else { Plain::Leave },
        drop_time_wait: args.ending.drop_time_wait,
        keeper: args.keeper.clone(),
        longest_pause: context.poll_interval,
        ..Request::new(port, rules, exclusions)
    };
    said.apply(&mut request.ending);
    request.ending.kill &= !args.ending.no_kill;
    request.ending.until = args.ending.until.into();
    let interrupt = request.ending.interrupt.clone();
    let job = clean(&context.host, observer.as_mut(), &request);
    let mut cleaned =
        if args.dry_run { job.await? } else { context.interrupts.heeded(&interrupt, job).await?? };
    if cleaned.outcome == Outcome::Unknown {
        context.tell_fallback(NOT_ALL_IS_SEEN);
    }
    if is_kept_by_record(&cleaned, &unrecorded) {
        cleaned.reason = Some(Reason::ProtectedByRecord);
    }
    Ok(cleaned)
}

/// The users whose processes hold the port.
fn users_of(system: &dyn System, observer: &mut dyn Observer, port: Port) -> Result<Vec<u32>, CliError> {
    let mut sockets = observer.snapshot(port)?;
    sockets.retain(Socket::owns_port);
    let mut users: Vec<u32> = Vec::new();
    for socket in &sockets {
        let holders = socket.descriptors.iter().filter_map(|holder| system.process(holder.pid).ok()?.uid);
        users.extend(holders);
        // All that is known of a holder that can't be seen.
        users.extend(socket.uid.filter(|_| socket.descriptors.is_empty()));
    }
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// Whether the port is held by protected processes, none of which is excluded but by OpenClaw's record.
fn is_kept_by_record(cleaned: &Cleaned, unrecorded: &Exclusions) -> bool {
    let mut protected = cleaned.owners.iter().filter(|dealt| dealt.owner.exclusion.is_some()).peekable();
    cleaned.outcome == Outcome::HeldByProtected
        && protected.peek().is_some()
        && protected.all(|dealt| {
            dealt.owner.exclusion == Some(Exclusion::Protected)
                && dealt.owner.pid.is_some_and(|pid| unrecorded.exclusion(pid).is_none())
        })
}

/// Why the agent can't spare all of these, if so.
fn too_many(protect: &[u32]) -> Option<&'static str> {
    let why = "it spares 64 processes at most, and more are to be spared";
    (protect.len() > MOST_PROTECTED).then_some(why)
}

/// Why the agent can't run this clean, if so: its callers may not choose which processes it ends.
pub(super) fn not_for_agent(args: &CleanArgs) -> Option<&'static str> {
    if args.keeper.is_some() {
        Some("a socket is handed on by the process that took it over")
    } else if args.matching.is_given() {
        Some("its configuration decides what may be ended")
    } else {
        // To spare more than the agent would is its callers' to say.
        let SparingArgs { include_init, min_age: _, inherited, owner_record, protect: _, unit: _ } =
            &args.sparing;
        let EndingArgs { signal, no_kill, until, drop_time_wait } = args.ending;
        let how = signal.is_some() || no_kill || drop_time_wait || until == UntilEnded::Released;
        (*include_init || *inherited || owner_record.is_some() || how)
            .then_some("how it ends owners, and which it ends, is not its callers' to say")
    }
}

/// OpenClaw's gateway sets this for its children: the pid that a cleaner must spare, also where the caller has been
/// re-parented and ancestry does not show it.
pub(super) fn service_pid() -> Option<u32> {
    std::env::var("OPENCLAW_GATEWAY_SERVICE_PID").ok()?.trim().parse().ok().filter(|&pid| pid != 0)
}
