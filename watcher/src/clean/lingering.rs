//! Connections that would keep a port after its owners' end.

use std::time::Duration;

use crate::model::Protocol;
use crate::platform::contract::{ObserveError, Observer, System};
use crate::steps::owner::{Holding, Owner};

/// How long connections in TIME_WAIT would keep a port, even from a server that sets `SO_REUSEADDR`, once these owners have
/// ended: the kernel also asks whether the server that had them set it (`inet_csk_get_port`). `None` if they would not, or if
/// that can't be told. What becomes of connections that are still open is their clients' to decide.
///
/// # Errors
/// When the port can't be observed.
pub(super) fn after_the_end_of<'a>(
    system: &dyn System,
    observer: &mut dyn Observer,
    mut owners: impl Iterator<Item = &'a Owner>,
) -> Result<Option<Duration>, ObserveError> {
    let without_reuse = |holding: &&Holding| {
        let Holding { socket, descriptor } = holding;
        let copied = || system.take_over(descriptor.as_ref()?, socket).ok();
        socket.protocol == Protocol::Tcp
            && socket.serves()
            && copied().and_then(|socket| socket.reuses_address()) == Some(false)
    };
    match owners.find_map(|owner| owner.holdings.iter().find(without_reuse)) {
        Some(holding) => observer.time_wait(holding.socket.port()),
        None => Ok(None),
    }
}
