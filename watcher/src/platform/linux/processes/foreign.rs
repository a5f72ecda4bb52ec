//! Whether /proc shows our own pid namespace. Without `--mount-proc`, `unshare --pid --fork` leaves the outer
//! namespace's mount in place: there `/proc/7` is another process than our process 7.

use std::path::Path;
use std::sync::OnceLock;

use super::{file, status};

const FOREIGN: &str = "/proc shows another pid namespace's processes, so nobody can be identified; \
                       mount our own: unshare --mount-proc";
const MISSING: &str =
    "/proc does not show this program, so nobody can be identified; mount our own: mount -t proc proc /proc";

/// Why nothing in /proc may be believed; `None` if it is our own namespace's. It is found out once, because nothing here
/// changes mounts.
pub(in crate::platform::linux) fn why() -> Option<&'static str> {
    static WHY: OnceLock<Option<&'static str>> = OnceLock::new();
    *WHY.get_or_init(|| {
        // `/proc/self` leads nowhere where the mount's namespace does not contain us (proc(5)).
        match file::text(Path::new("/proc/self/status")) {
            Ok(status) if is_own(&status, std::process::id()) => None,
            Ok(_) => Some(FOREIGN),
            Err(_) => Some(MISSING),
        }
    })
}

/// Whether this process's `status` comes from its own namespace's /proc. `NSpid:` has a number for each namespace from
/// the mount's down to the process's own. A kernel without namespaces has no such line.
pub(super) fn is_own(text: &str, own: u32) -> bool {
    let expected = [own.to_string()];
    match status::numbers(text, "NSpid") {
        Some(numbers) => numbers.eq(expected),
        None => status::numbers(text, "Tgid").is_some_and(|numbers| numbers.eq(expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_another_namespace_has_more_numbers_or_another_one() {
        assert!(is_own("Name:\tx\nTgid:\t12\nNSpid:\t12\n", 12));
        // an outer namespace's mount
        assert!(!is_own("Tgid:\t812\nNSpid:\t812\t12\n", 12));
        assert!(!is_own("Tgid:\t12\nNSpid:\t12\t12\n", 12));
        // no namespaces in this kernel
        assert!(is_own("Tgid:\t12\n", 12));
        assert!(!is_own("Tgid:\t13\n", 12));
        assert!(!is_own("", 12));
    }

    #[test]
    fn the_tests_see_their_own_namespace() {
        assert_eq!(why(), None);
    }
}
