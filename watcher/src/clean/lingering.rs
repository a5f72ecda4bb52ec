//! Connections that would keep a port after its owners' end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{Port, Protocol, Socket, SocketState};
use crate::platform::contract::{BindAddress, ObserveError, Observer, System};
use crate::steps::owner::{Holding, Owner};
use crate::steps::prove::keeps_out;

/// How long connections in TIME_WAIT would keep these addresses, even from a server that sets `SO_REUSEADDR`, once these owners
/// of the port have ended: the kernel also asks whether the server that had them set it (`inet_csk_get_port`). `None` if they
/// would not, or if that can't be told. What becomes of connections that are still open is their clients' to decide.
///
/// # Errors
/// When the port can't be observed.
pub(super) fn after_the_end_of<'a>(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: Port,
    owners: impl Iterator<Item = &'a Owner>,
    addresses: &[BindAddress],
) -> Result<Option<Duration>, ObserveError> {
    let mut asked = HashSet::new();
    let servers: Vec<&Socket> = owners
        .flat_map(|owner| &owner.holdings)
        .filter(|Holding { socket, .. }| socket.protocol == Protocol::Tcp && socket.serves())
        .filter(|Holding { socket, .. }| asked.insert(socket.id()))
        .filter(|Holding { socket, descriptor }| {
            descriptor.as_ref().and_then(|descriptor| system.reuses_address(descriptor, socket))
                == Some(false)
        })
        .map(|Holding { socket, .. }| socket)
        .collect();
    if servers.is_empty() {
        return Ok(None);
    }
    let concerned = observer.time_wait(port)?.into_iter().filter(|&(ip, _)| {
        let address = SocketAddr::new(ip, port.number);
        let connection = Socket::new(port.protocol, address, SocketState::Connected);
        let place = BindAddress { protocol: port.protocol, address, v6_only: true };
        servers.iter().any(|server| keeps_out(server, &place))
            && addresses.iter().any(|wanted| keeps_out(&connection, wanted))
    });
    Ok(concerned.map(|(_, lasts)| lasts).max())
}
