//! macOS: nothing beyond what all systems can do.

use std::net::SocketAddr;

use socket2::{Protocol, Socket};

pub(crate) use super::unix::{Ending, again, go_on_in_a_fork, input};
use crate::{Part, play};

/// Nothing of its own.
#[derive(clap::Args)]
pub(crate) struct Own {}

/// Nothing to do.
pub(crate) fn dress(_own: &Own) {}

/// TCP.
pub(crate) fn protocol(_own: &Own) -> Protocol {
    Protocol::TCP
}

/// Sets the option that nearly all servers set.
pub(crate) fn reuse(part: &Part, socket: &Socket) -> std::io::Result<()> {
    socket.set_reuse_address(!part.no_reuse)
}

/// None: no service manager gives any.
pub(crate) fn given(_own: &Own) -> Option<Vec<Socket>> {
    None
}

/// Nothing to set.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail here")]
pub(crate) fn share(_own: &Own, _socket: &Socket) -> std::io::Result<()> {
    Ok(())
}

/// Nothing more.
#[expect(clippy::unnecessary_wraps, reason = "other systems can fail here")]
pub(crate) fn after_listen(_part: &Part, _socket: &Socket) -> std::io::Result<()> {
    Ok(())
}

/// The actor holds its sockets itself.
#[expect(clippy::needless_pass_by_value, reason = "on Linux another thread takes them over")]
pub(crate) fn act(part: Part, ending: Ending, sockets: Vec<Socket>, address: Option<SocketAddr>) -> ! {
    play(&part, &ending, sockets, address, &[std::process::id()])
}
