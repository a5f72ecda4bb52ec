//! What people are told beside a TCP port that nobody holds: that the UDP port of the same number is held.

use super::context::Context;
use super::ports::Asked;
use super::text::style;
use crate::model::{Port, Protocol, Socket};
use crate::platform::contract::{Platform as _, System as _};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::steps::observe::limited::meets;
use crate::steps::owner::owners;

/// Who serves on the UDP port of this TCP port's number, and how to ask about it; `None` if nobody does, or it can't be read.
pub(super) fn note(context: &Context, asked: &Asked) -> Option<String> {
    let Asked { port: Port { protocol: Protocol::Tcp, number }, at } = asked else { return None };
    let port = Port::udp(*number);
    let is_asked_for = |socket: &Socket| {
        let address = socket.address.ip();
        socket.serves() && (at.is_empty() || at.iter().any(|&wanted| meets(address, socket.v6_only, wanted)))
    };
    // Where the system lists the sockets of one port, most answers need no walk over the processes.
    if context.host.bound(port).is_some_and(|listed| !listed.iter().any(is_asked_for)) {
        return None;
    }
    let mut sockets = context.host.by_polling(&[port], context.poll_interval).snapshot(port).ok()?;
    sockets.retain(is_asked_for);
    let owners = owners(&sockets, &context.host, &Rules::any(), &Exclusions::default());
    let first = style::process(owners.first()?);
    let more = match owners.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let at = Asked { port, at: at.clone() };
    Some(format!("UDP port {number} is held by {first}{more}: `gatewatch owners {at}`"))
}
