//! Why no descriptor leads to a socket, where every process that can be seen was looked at.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::model::{Reason, Socket};
use crate::platform::linux::processes::proc;

/// Marks the sockets that no process holds with the reason, where there can only be one.
pub(super) fn explain(sockets: &mut [Socket]) {
    let is_unheld = |socket: &Socket| socket.descriptors.is_empty() && !socket.is_left_out();
    if sockets.iter().any(is_unheld) {
        let reason = reason();
        for socket in sockets.iter_mut().filter(|socket| is_unheld(socket)) {
            socket.unheld = reason;
        }
    }
}

/// In the initial pid namespace there is nobody who can't be seen. From inside another one, the processes outside of it
/// can't: one of these holds the socket, unless a message may be on its way here inside.
fn reason() -> Option<Reason> {
    let own = u32::try_from(fs::metadata("/proc/self/ns/pid").ok()?.ino()).ok()?;
    if own == proc::INITIAL_PID_NAMESPACE {
        Some(Reason::InFlight)
    } else if proc::messages_may_carry_descriptors() {
        None
    } else {
        Some(Reason::OtherNamespace)
    }
}
