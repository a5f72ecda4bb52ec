//! Files of other processes.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;

use crate::platform::contract::Permissions;
use crate::platform::unix;

/// How to open a file for reading without waiting for it, and without following a link.
pub(in crate::platform) fn reading() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    options.read(true).custom_flags(flags.bits());
    options
}

/// Whether the file that was opened is the one that was found.
pub(in crate::platform) fn is_same(found: &Metadata, opened: &Metadata) -> bool {
    (found.dev(), found.ino()) == (opened.dev(), opened.ino())
}

/// Who may read a file.
#[expect(clippy::unnecessary_wraps, reason = "on Windows nothing is known")]
pub(in crate::platform) fn permissions(file: &Metadata) -> Option<Permissions> {
    Some(unix::permissions(file))
}
