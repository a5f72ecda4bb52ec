//! Privileges: those that the agent keeps once its programs are loaded.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use tracing::{debug, warn};

/// The capabilities that are kept, and what each is needed for.
const NEEDED: &[(Capability, &str)] = &[
    (Capability::CAP_KILL, "to end owners"),
    (Capability::CAP_SYS_PTRACE, "to read what a process is, and to open its network namespace"),
    (Capability::CAP_DAC_READ_SEARCH, "to read the package.json beside a gateway's script in a user's home"),
    (Capability::CAP_SYS_ADMIN, "to enter a caller's network namespace: setns(2) requires it"),
    (Capability::CAP_NET_BIND_SERVICE, "to prove that a port below 1024 can be bound"),
    (Capability::CAP_NET_ADMIN, "to mark its own binds, so that they are left out of the events"),
    (Capability::CAP_BPF, "to run the iterator, and to change the watched ports on a reload"),
    (Capability::CAP_PERFMON, "to run the iterator, which reads kernel memory"),
];

/// Permanently gives up all other capabilities, and the possibility to gain any by running a program. It applies to the
/// calling thread and those that it starts later, so it must come before other threads exist.
pub(super) fn keep_needed() {
    let needed: CapsHashSet = NEEDED.iter().map(|(capability, _)| *capability).collect();
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let keep: CapsHashSet = held.intersection(&needed).copied().collect();
    for &capability in caps::all().difference(&needed) {
        // Needs CAP_SETPCAP. An agent that was started without it already has a bounded set.
        if let Err(error) = caps::drop(None, CapSet::Bounding, capability) {
            debug!(%capability, %error, "can't be removed from the bounding set");
        }
    }
    let _ = caps::clear(None, CapSet::Ambient);
    let nothing = CapsHashSet::new();
    for (set, wanted) in
        [(CapSet::Inheritable, &nothing), (CapSet::Effective, &keep), (CapSet::Permitted, &keep)]
    {
        if let Err(error) = caps::set(None, set, wanted) {
            warn!(%error, "capabilities can't be given up");
        }
    }
    if let Err(error) = prctl::set_no_new_privs() {
        warn!(%error, "no_new_privs can't be set");
    }
}

/// The current capabilities, and what each is needed for.
pub(super) fn held() -> Vec<(String, &'static str)> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let why = |capability: &Capability| {
        NEEDED.iter().find(|(needed, _)| needed == capability).map_or("not needed", |(_, why)| *why)
    };
    let mut held: Vec<_> = held.iter().map(|capability| (capability.to_string(), why(capability))).collect();
    held.sort();
    held
}

/// Whether `no_new_privs` is set.
pub(super) fn no_new_privileges() -> bool {
    prctl::get_no_new_privs().unwrap_or(false)
}
