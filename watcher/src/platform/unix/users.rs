//! Looks up users and groups by name in the host's databases (nsswitch.conf(5)).

use nix::unistd::{Group, User, geteuid};

/// The user that this program runs as.
pub(in crate::platform) fn own_user() -> u32 {
    geteuid().as_raw()
}

/// The command line, run by `sudo`; `None` for root.
pub(in crate::platform) fn with_all_rights(words: Vec<String>) -> Option<Vec<String>> {
    (!geteuid().is_root()).then(|| std::iter::once("sudo".to_owned()).chain(words).collect())
}

/// A user's numeric id.
pub(in crate::platform) fn user(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// A group's numeric id.
pub(in crate::platform) fn group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
