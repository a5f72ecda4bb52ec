//! Files of other processes.

use std::fs::{Metadata, OpenOptions};

use crate::platform::contract::Permissions;

/// How to open a file for reading.
pub(in crate::platform) fn reading() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    options
}

/// Whether the file that was opened can be the one that was found: Windows shows no number of it without a handle.
pub(in crate::platform) fn is_same(_found: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
}

/// Files belong to no user by a number.
pub(in crate::platform) fn permissions(_file: &Metadata) -> Option<Permissions> {
    None
}
