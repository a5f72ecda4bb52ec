//! Users' names.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::unistd::{Uid, User};

/// The name of a user; `None` where the host's database has none. Names are remembered, because a database over the
/// network is slow.
pub(super) fn name(uid: u32) -> Option<String> {
    static NAMES: LazyLock<Mutex<HashMap<u32, String>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(&uid) {
        return Some(known.clone());
    }
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten()?.name;
    names.insert(uid, found.clone());
    Some(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_has_a_name_and_a_number_in_use_by_nobody_has_none() {
        assert_eq!(super::name(0).as_deref(), Some("root"));
        assert_eq!(super::name(0).as_deref(), Some("root"));
        assert_eq!(super::name(3_999_999_999), None);
    }
}
