//! Privileges: what the agent keeps once its programs are loaded.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use tracing::{debug, warn};

/// What is kept, and what for.
const NEEDED: &[(Capability, &str)] = &[
    (Capability::CAP_KILL, "to end owners"),
    (Capability::CAP_SYS_PTRACE, "to read what a process is, and to open its network namespace"),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "to read the package.json beside a gateway's script in somebody's home",
    ),
    (Capability::CAP_SYS_ADMIN, "to enter a caller's network namespace: setns(2) takes nothing less"),
    (Capability::CAP_NET_BIND_SERVICE, "to prove that a port below 1024 can be bound"),
    (Capability::CAP_NET_ADMIN, "to mark its own binds, so that its events leave them out"),
    (Capability::CAP_BPF, "to run the iterator, and to change the watched ports on a reload"),
    (Capability::CAP_PERFMON, "to run the iterator, which reads kernel memory"),
];

/// Gives up all other capabilities for good, and the way to gain any by running a program. For the calling thread and
/// those that it starts later, so it comes before there are others.
pub(crate) fn keep_needed() {
    let needed: CapsHashSet = NEEDED.iter().map(|(capability, _)| *capability).collect();
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let keep: CapsHashSet = held.intersection(&needed).copied().collect();
    for &capability in caps::all().difference(&needed) {
        // Takes CAP_SETPCAP, which an agent that was started with less has not got; then the set is bounded already.
        if let Err(error) = caps::drop(None, CapSet::Bounding, capability) {
            debug!(%capability, %error, "can't be taken out of the bounding set");
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

/// What is held now, and what for.
pub(crate) fn held() -> Vec<(String, &'static str)> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let why = |capability: &Capability| {
        NEEDED.iter().find(|(needed, _)| needed == capability).map_or("not needed", |(_, why)| *why)
    };
    let mut held: Vec<_> = held.iter().map(|capability| (capability.to_string(), why(capability))).collect();
    held.sort();
    held
}

/// Whether nothing that this process runs can gain privileges.
pub(crate) fn no_new_privileges() -> bool {
    prctl::get_no_new_privs().unwrap_or(false)
}
