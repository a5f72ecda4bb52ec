//! Why the holder of a socket can't be seen, where that is not because this is an ordinary user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use caps::{CapSet, Capability};
use nix::unistd::geteuid;

use super::{foreign, proc};

/// `PROC_USER_INIT_INO`, linux/proc_ns.h.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// The reason; `None` if it is known of no other than the user.
pub(in crate::platform::linux) fn why() -> Option<&'static str> {
    foreign::why().or_else(|| {
        let may_trace = || caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap_or(true);
        if !geteuid().is_root() {
            None
        } else if is_in_own_user_namespace() {
            Some(
                "its holder can't be seen: this is root of a user namespace, who may not look into processes outside of it",
            )
        } else if may_trace() {
            // In another pid namespace than the first it may as well be outside.
            let refused = "its holder can't be seen: /proc does not show where all descriptors lead, not even to root";
            proc::own_pid_namespace().is_none().then_some(refused)
        } else if proc::own_pid_namespace().is_some() {
            Some(
                "its holder can't be seen: root has no CAP_SYS_PTRACE here, or it is a process outside of this pid namespace",
            )
        } else {
            Some("its holder can't be seen: root has no CAP_SYS_PTRACE here")
        }
    })
}

fn is_in_own_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() != INITIAL_USER_NAMESPACE)
}
