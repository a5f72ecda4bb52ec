//! Users and groups by their names, as the host's databases have them (nsswitch.conf(5)).

use nix::unistd::{Group, User, geteuid};

/// The user whom this program acts as.
pub(crate) fn own() -> u32 {
    geteuid().as_raw()
}

/// A user's number.
pub(crate) fn user(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// A group's number.
pub(crate) fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
