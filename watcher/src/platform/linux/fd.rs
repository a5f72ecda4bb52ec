//! Descriptors that system calls return which no library wraps.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// The new descriptor that a system call has returned.
///
/// # Errors
/// What the system said, where it returned none.
pub(super) fn own(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(returned)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
