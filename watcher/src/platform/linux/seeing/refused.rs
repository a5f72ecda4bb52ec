//! Why the kernel takes no programs from this process, and what an administrator can do about it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::libc;

use super::load::LoadError;
use crate::platform::linux::processes::status;

/// `PROC_USER_INIT_INO`, linux/proc_ns.h.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
/// `SECCOMP_MODE_FILTER`, linux/seccomp.h.
const FILTER: &str = "2";

/// A capability by its number (linux/capability.h). `CAP_SYS_ADMIN` includes those for programs, and before Linux 5.8 it
/// was all there was.
type Needed = (u32, &'static str);
const NET_ADMIN: Needed = (12, "CAP_NET_ADMIN");
const SYS_PTRACE: Needed = (19, "CAP_SYS_PTRACE");
const SYS_ADMIN: u32 = 21;
const PERFMON: Needed = (38, "CAP_PERFMON");
const BPF: Needed = (39, "CAP_BPF");
const ALL: &str = "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_PTRACE";

/// What decides whether a process may load programs.
#[derive(Debug, Clone)]
struct Standing {
    is_root: bool,
    /// The effective capabilities; `None` if they can't be read.
    capabilities: Option<u64>,
    in_own_user_namespace: bool,
    is_filtered: bool,
    lockdown: Option<String>,
}

/// The reason, where it is known, and the mend.
pub(super) fn explain(error: &LoadError) -> (Option<String>, String) {
    Standing::own().explain(error.refusal(), &[BPF, PERFMON])
}

/// The error of a hook without which the rest works, with the reason where it is known.
pub(super) fn with_reason(error: &LoadError) -> String {
    match Standing::own().explain(error.refusal(), &[BPF, PERFMON, NET_ADMIN]) {
        (Some(why), _) => format!("{error}: {why}"),
        (None, _) => error.reason(),
    }
}

impl Standing {
    fn own() -> Self {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let value = |name| status::numbers(&text, name).and_then(|mut values| values.next());
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            capabilities: value("CapEff").and_then(|digits| u64::from_str_radix(digits, 16).ok()),
            in_own_user_namespace: fs::metadata("/proc/self/ns/user")
                .is_ok_and(|namespace| namespace.ino() != INITIAL_USER_NAMESPACE),
            is_filtered: value("Seccomp") == Some(FILTER),
            lockdown: locked_down(&lockdown),
        }
    }

    fn explain(&self, refusal: Option<i32>, needed: &[Needed]) -> (Option<String>, String) {
        let because = |why: &str, mend: &str| (Some(why.to_owned()), mend.to_owned());
        let denied = matches!(refusal, Some(libc::EPERM | libc::EACCES));
        if denied && self.in_own_user_namespace {
            return because(
                "the kernel takes programs only from its first user namespace, and this process is in another one",
                &format!("run as root outside of that namespace, or there with {ALL}"),
            );
        }
        let missing = self.missing(needed);
        if denied && !missing.is_empty() {
            let all = self.missing(&[BPF, PERFMON, NET_ADMIN, SYS_PTRACE]);
            return if self.is_root {
                because(
                    &format!("root has no {} here", listed(&missing, "and no")),
                    &format!(
                        "grant {} (`--cap-add` of a container, `CapabilityBoundingSet=` of a unit)",
                        listed(&all, "and")
                    ),
                )
            } else {
                because(
                    &format!("this user has no {}", listed(&missing, "and no")),
                    &format!("run as root, or with {ALL}"),
                )
            };
        }
        // A kernel that is locked down for confidentiality lets no program read its memory: to the verifier, the helper for
        // that does not exist then.
        if let Some(mode) = self.lockdown.as_deref().filter(|&mode| mode == "confidentiality")
            && (denied || refusal == Some(libc::EINVAL))
        {
            return because(
                &format!("the kernel is locked down ({mode}), and lets no program read its memory"),
                "boot it with `lockdown=integrity`; `--backend poll` works all the same",
            );
        }
        if self.is_filtered && (denied || refusal == Some(libc::ENOSYS)) {
            return because(
                "a filter of system calls (seccomp) refuses bpf(2)",
                "let the filter pass bpf and perf_event_open (`--security-opt seccomp=` of a container, `SystemCallFilter=` of a \
                 unit)",
            );
        }
        if denied && self.capabilities.is_some() {
            return because(
                "no capability is missing, so it is a security module's refusal, or a limit of locked memory",
                "see the kernel's log (SELinux, AppArmor), or raise `ulimit -l` before Linux 5.11",
            );
        }
        let mend = if denied && self.is_root {
            format!("grant {ALL}")
        } else if denied {
            format!("run as root, or with {ALL}")
        } else {
            "see `gatewatch doctor`; `--backend poll` works everywhere".to_owned()
        };
        (None, mend)
    }

    fn missing(&self, wanted: &[Needed]) -> Vec<&'static str> {
        let Some(capabilities) = self.capabilities else { return Vec::new() };
        let has = |number: u32| capabilities >> number & 1 == 1;
        let stands_in = |number| number != SYS_PTRACE.0 && has(SYS_ADMIN);
        wanted
            .iter()
            .filter(|(number, _)| !has(*number) && !stands_in(*number))
            .map(|(_, name)| *name)
            .collect()
    }
}

fn listed(names: &[&str], last: &str) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., name] => format!("{} {last} {name}", names.join(", ")),
    }
}

/// The chosen one of `none integrity [confidentiality]` (kernel_lockdown(7)); `None` where it is none.
fn locked_down(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(mode.to_owned()).filter(|mode| mode != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Standing = Standing {
        is_root: true,
        capabilities: Some(u64::MAX),
        in_own_user_namespace: false,
        is_filtered: false,
        lockdown: None,
    };

    fn why(standing: &Standing, refusal: i32) -> String {
        let (why, mend) = standing.explain(Some(refusal), &[BPF, PERFMON]);
        if standing.is_root && !standing.in_own_user_namespace {
            assert!(!mend.contains("as root"), "{mend}");
        }
        why.unwrap_or_default()
    }

    #[test]
    fn the_mode_of_a_lockdown_is_the_one_in_brackets() {
        let mode = |text| locked_down(text);
        assert_eq!(mode("[none] integrity confidentiality\n"), None);
        assert_eq!(mode("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(mode("none integrity [confidentiality]\n").as_deref(), Some("confidentiality"));
        assert_eq!((mode(""), mode("none [integ")), (None, None));
    }

    #[test]
    fn a_locked_down_kernel_is_named_only_where_that_is_the_reason() {
        let locked = |mode: &str| Standing { lockdown: Some(mode.to_owned()), ..ROOT };
        for refusal in [libc::EPERM, libc::EINVAL] {
            assert!(why(&locked("confidentiality"), refusal).contains("locked down (confidentiality)"));
            assert!(!why(&locked("integrity"), refusal).contains("locked down"));
        }
        assert_eq!(why(&locked("confidentiality"), libc::ENOSPC), "");
    }

    #[test]
    fn the_capabilities_that_are_missing_are_named_and_no_others() {
        let without = |numbers: &[u32]| Standing {
            capabilities: Some(numbers.iter().fold(u64::MAX, |all, number| all & !(1 << number))),
            ..ROOT
        };
        assert_eq!(why(&without(&[SYS_ADMIN, BPF.0]), libc::EPERM), "root has no CAP_BPF here");
        assert_eq!(
            why(&without(&[SYS_ADMIN, 38, 39]), libc::EPERM),
            "root has no CAP_BPF and no CAP_PERFMON here"
        );
        // CAP_SYS_ADMIN stands in for both.
        assert!(why(&without(&[38, 39]), libc::EPERM).contains("no capability is missing"));
        let user = Standing { is_root: false, capabilities: Some(0), ..ROOT };
        assert!(user.explain(Some(libc::EPERM), &[BPF]).1.starts_with("run as root"));
    }

    #[test]
    fn a_filter_and_a_user_namespace_are_named() {
        let filtered = Standing { is_filtered: true, ..ROOT };
        for refusal in [libc::EPERM, libc::ENOSYS] {
            assert!(why(&filtered, refusal).contains("seccomp"));
        }
        let inside = Standing { in_own_user_namespace: true, ..ROOT };
        assert!(why(&inside, libc::EPERM).contains("user namespace"));
    }
}
