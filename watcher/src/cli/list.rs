//! `gatewatch list`.

use super::args::{Format, ListArgs};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::ports::Asked;
use super::text;
use crate::agent::client::Client;
use crate::model::{Port, Protocol};
use crate::platform::contract::{Interest, Platform as _};
use crate::steps::exclude::Exclusions;
use crate::steps::owner::Owners;
use crate::wire::answers::OwnersAnswer;

pub(super) async fn run(args: &ListArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.observing)?;
    // Without either flag, every port.
    let protocols = [(Protocol::Tcp, args.tcp), (Protocol::Udp, args.udp)];
    let protocols = protocols.iter().filter(|(_, named)| *named || args.tcp == args.udp);
    let protocols: Vec<Protocol> = protocols.map(|(protocol, _)| *protocol).collect();
    let netns = context.host.netns();
    let request = async |agent: &mut Client| agent.sockets(netns).await;
    let mut all = match context.ask_agent(&args.observing, None, request).await? {
        Some(all) => all,
        None => own(&context, &protocols)?,
    };
    all.retain(|owners| protocols.contains(&owners.port.protocol));
    match context.format {
        Format::Json => all.iter().try_for_each(|owners| super::print_json(&OwnersAnswer::from(owners)))?,
        Format::Text => super::print(&text::list::table(&all))?,
    }
    Ok(Exit::Done)
}

/// What this process sees itself.
fn own(context: &Context, protocols: &[Protocol]) -> Result<Vec<Owners>, CliError> {
    let asked: Vec<Asked> = protocols.iter().copied().flat_map(Port::all).map(Asked::from).collect();
    let mut observer = context.observer(&asked, Interest::Snapshots)?;
    let exclusions = Exclusions::new(&context.host, std::process::id(), &[], false);
    let rules_of = |port| context.rules_of(port);
    let all = Owners::of_all(&context.host, observer.as_mut(), protocols, rules_of, &exclusions)?;
    context.tell_unseen(&all);
    Ok(all)
}
