//! Parents and children.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{file, foreign, info, proc};
use crate::platform::contract::Ancestor;

/// How much of a list of children is read, in bytes.
const MOST_OF_CHILDREN: u64 = 64 << 10;

/// The next process on the line of a process's ancestors.
pub(in crate::platform::linux) fn ancestor(pid: u32) -> Ancestor {
    if pid == 0 {
        return Ancestor::Top;
    }
    // `PIDFD_GET_INFO` knows also what /proc hides. It answers ESRCH for an ended process, and for one whose parent lies
    // outside of our pid namespace.
    let parent = info::parent(pid).ok().or_else(|| parent_by_proc(pid));
    match parent {
        Some(0) if pid == 1 => Ancestor::Top,
        // Of a process that is being reaped the kernel says 0 as well. By then its pid is no longer taken.
        Some(0) if exists(pid) => Ancestor::Top,
        Some(0) => Ancestor::Gone,
        Some(parent) => Ancestor::Parent(parent),
        None if exists(pid) => Ancestor::Hidden,
        None => Ancestor::Gone,
    }
}

/// The parent's pid, 0 if it is not visible; `None` if /proc does not say.
fn parent_by_proc(pid: u32) -> Option<u32> {
    if foreign::why().is_some() {
        return None;
    }
    parent_in(&file::read_once(Path::new(&format!("/proc/{pid}/stat"))).ok()?)
}

/// The second field after the name, which ends at the last `)`. The forty fields that follow are not parsed, because all
/// ancestors are walked for each answer.
pub(super) fn parent_in(stat: &[u8]) -> Option<u32> {
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    std::str::from_utf8(after_name).ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the pid is taken, in our own pid namespace and without /proc: by a zombie as well.
pub(super) fn exists(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

/// The children that have not ended, as far as they are visible.
pub(in crate::platform::linux) fn children(pid: u32) -> Vec<u32> {
    if foreign::why().is_some() {
        return Vec::new();
    }
    let mut children = listed_children(pid).unwrap_or_else(|| children_by_scan(pid));
    children.retain(|&child| proc::is_running(child));
    children.sort_unstable();
    children.dedup();
    children
}

/// From `/proc/PID/task/TID/children`; `None` on a kernel without these files (`CONFIG_PROC_CHILDREN`). Each thread has
/// its own children.
fn listed_children(pid: u32) -> Option<Vec<u32>> {
    let task = PathBuf::from(format!("/proc/{pid}/task"));
    let mut children = Vec::new();
    for tid in proc::numbers(&task).unwrap_or_default() {
        // One record a child, so a single read does not always give all. A process can have more children than anybody
        // wants to read of.
        let text = |file: std::fs::File| io::read_to_string(file.take(MOST_OF_CHILDREN));
        match std::fs::File::open(task.join(format!("{tid}/children"))).and_then(text) {
            Ok(text) => children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // The thread has ended, or no thread has this file.
            Err(_) if task.join(tid.to_string()).exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

fn children_by_scan(pid: u32) -> Vec<u32> {
    let mut all = proc::numbers(Path::new("/proc")).unwrap_or_default();
    all.retain(|&other| parent_by_proc(other) == Some(pid));
    all
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_can_contain_anything_and_the_parent_is_found_behind_it() {
        assert_eq!(parent_in(b"12 (a) Z 7) S 34 12 12 0 -1 4194560"), Some(34));
        assert_eq!(parent_in(b"1 (init) S 0 1 1"), Some(0));
        assert_eq!(parent_in(b"12 (a"), None);
        assert_eq!(parent_in(b""), None);
    }

    #[test]
    fn a_child_is_found_by_both_ways_as_long_as_it_lives() {
        let own = std::process::id();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(children(own).contains(&child.id()));
        assert!(children_by_scan(own).contains(&child.id()));
        assert_eq!(ancestor(child.id()), Ancestor::Parent(own));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!children(own).contains(&child.id()));
        assert_eq!(ancestor(child.id()), Ancestor::Gone);
    }

    #[test]
    fn the_line_ends_at_pid_1() {
        assert_eq!(ancestor(1), Ancestor::Top);
        assert_eq!(ancestor(0), Ancestor::Top);
    }
}
