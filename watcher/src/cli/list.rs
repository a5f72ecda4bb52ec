//! `gatewatch list`.

use super::args::{Format, ListArgs};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::ports::Asked;
use super::text;
use crate::model::{Port, Protocol};
use crate::platform::contract::Interest;
use crate::steps::exclude::Exclusions;
use crate::steps::owner::Owners;
use crate::wire::answers::OwnersAnswer;

pub(super) fn run(args: &ListArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.observing)?;
    // Without either flag, every port.
    let protocols = [(Protocol::Tcp, args.tcp), (Protocol::Udp, args.udp)];
    let protocols = protocols.iter().filter(|(_, named)| *named || args.tcp == args.udp);
    let protocols: Vec<Protocol> = protocols.map(|(protocol, _)| *protocol).collect();
    let asked: Vec<Asked> = protocols.iter().copied().flat_map(Port::all).map(Asked::from).collect();
    let mut observer = context.observer(&asked, Interest::Snapshots)?;
    let exclusions = Exclusions::new(&context.host, std::process::id(), &[], false);
    let rules_of = |port| context.rules_of(port);
    let all = Owners::of_all(&context.host, observer.as_mut(), &protocols, rules_of, &exclusions)?;
    match context.format {
        Format::Json => all.iter().try_for_each(|owners| super::print_json(&OwnersAnswer::from(owners)))?,
        Format::Text => super::print(&text::list::table(&all))?,
    }
    Ok(Exit::Done)
}
