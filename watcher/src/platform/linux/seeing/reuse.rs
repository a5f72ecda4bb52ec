//! Whether a connection keeps other sockets from its port: it does if it does not have `SO_REUSEADDR`, which no socket
//! table tells. The option is read from a copy of the descriptor (`pidfd_getfd`, Linux 5.6), which lives for microseconds.

use std::io;

use nix::sys::socket::{getsockopt, sockopt};

use crate::model::{Descriptor, Socket};
use crate::platform::linux::processes::copy;

/// Whether one of the descriptors shows that `SO_REUSEADDR` is not set. Where that can't be found out, the connection does
/// not count: it may as well be one that a closing server has accepted.
pub(super) fn is_unset(socket: &Socket) -> bool {
    socket.descriptors.iter().any(|descriptor| reuses_address(descriptor, socket).is_ok_and(|set| !set))
}

/// Whether the option is set.
pub(in crate::platform::linux) fn reuses_address(
    descriptor: &Descriptor,
    socket: &Socket,
) -> io::Result<bool> {
    Ok(getsockopt(&copy::of(descriptor, socket)?, sockopt::ReuseAddr)?)
}
