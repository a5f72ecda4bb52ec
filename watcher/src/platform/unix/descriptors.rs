//! How many descriptors this process may have.

use std::os::fd::{AsRawFd, RawFd};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Twice as many as there can be connections, each with a handle of its process, and as many again.
const ENOUGH: u32 = 4096;

/// Raises the limit as far as is allowed and of use.
pub(in crate::platform) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| {
        // More is never needed, and macOS refuses as much as it says is allowed.
        let wanted = most.min(libc::rlim_t::from(ENOUGH));
        if now < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, most) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of descriptors can't be raised");
    }
}

/// Whether this many descriptors are left besides this one, under the limit as it is now: another process can change it
/// (prlimit(2)). The kernel gives the lowest free number, so about as many are open as the number says.
pub(in crate::platform) fn has_room_beside(descriptor: &impl AsRawFd, left: u32) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(libc::rlim_t::MAX, |(now, _)| now);
    let number = RawFd::max(descriptor.as_raw_fd(), 0);
    libc::rlim_t::try_from(number).is_ok_and(|number| number.saturating_add(left.into()) < limit)
}
