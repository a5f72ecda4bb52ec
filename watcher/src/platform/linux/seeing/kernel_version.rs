//! Which kernels the kernel program was written for, so that an older one's refusal is told by its version instead of by
//! an error number.

use std::fmt;
use std::sync::LazyLock;

use nix::sys::utsname::uname;

/// A kernel's major and minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KernelVersion {
    major: u32,
    minor: u32,
}

/// The first one that has all helpers that the kernel program calls. A distributor's older one may have them too, so
/// this is asked only after a refusal.
const FIRST: KernelVersion = KernelVersion { major: 5, minor: 15 };

/// The first one whose sock_diag lists sockets that are bound and do not listen.
const LISTS_BOUND: KernelVersion = KernelVersion { major: 6, minor: 8 };

/// The first one with the helper `bpf_loop`.
const HAS_LOOPS: KernelVersion = KernelVersion { major: 5, minor: 17 };

/// The first one on which the end of a pid namespace does not wait for ever for a process in it that follows functions.
const ENDS_FOLLOWERS: KernelVersion = KernelVersion { major: 6, minor: 9 };

/// Whether the running kernel may take the iterator and refuse the programs of events, as Linux 5.10 does.
pub(super) fn may_lack_events() -> bool {
    !is_at_least(FIRST)
}

/// Whether the running kernel lists all sockets that are bound and do not listen. A distributor's older one may do so too.
pub(super) fn lists_bound() -> bool {
    is_at_least(LISTS_BOUND)
}

/// Whether a kernel program may loop over as much as it likes.
pub(super) fn has_loops() -> bool {
    is_at_least(HAS_LOOPS)
}

/// Whether a process that follows the ends of functions can be killed because PID 1 of its pid namespace has ended. On older
/// kernels, to let go of a function is to wait for all that are about to end (`synchronize_rcu_tasks`), and that PID 1 waits for
/// this process: neither ends, nor does whatever follows a function on the whole machine from then on.
pub(super) fn ends_followers() -> bool {
    is_at_least(ENDS_FOLLOWERS)
}

fn is_at_least(version: KernelVersion) -> bool {
    static RUNNING: LazyLock<Option<KernelVersion>> =
        LazyLock::new(|| KernelVersion::of(&uname().ok()?.release().to_string_lossy()));
    RUNNING.is_some_and(|running| running >= version)
}

/// Why the running kernel can't give kernel events, as a sentence; `None` if its version is no reason.
pub(super) fn too_old() -> Option<String> {
    let name = uname().ok()?;
    reason(&name.release().to_string_lossy())
}

fn reason(release: &str) -> Option<String> {
    let running = KernelVersion::of(release)?;
    (running < FIRST).then(|| format!("kernel events take Linux {FIRST}; this is {running}"))
}

impl KernelVersion {
    /// The version in a release as uname(2) gives it, such as `5.10.0-35-cloud-amd64` or `6.19+deb14-amd64`.
    fn of(release: &str) -> Option<Self> {
        let mut numbers = release.split(|char: char| !char.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        for old in ["5.10.0-35-cloud-amd64", "5.14.0-427.el9.x86_64", "5.9", "4.18.0", "5.2-rc1", "2.6.32"] {
            assert!(reason(old).is_some(), "{old}");
        }
        for new in ["5.15.0", "5.15-rc1", "5.100.1", "6.1.0-37-cloud-amd64", "6.19+deb14-amd64", "10.0.1"] {
            assert_eq!(reason(new), None, "{new}");
        }
    }

    #[test]
    fn an_old_kernel_is_told_by_its_version() {
        let told = reason("5.10.0-35-cloud-amd64");
        assert_eq!(told.as_deref(), Some("kernel events take Linux 5.15; this is 5.10"));
    }

    #[test]
    fn what_is_no_version_is_no_reason() {
        for odd in ["", "unknown", "5", "five.ten", "5.x"] {
            assert_eq!(reason(odd), None, "{odd}");
        }
    }
}
