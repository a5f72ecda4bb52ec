//! Whether a process can run, from what /proc shows of it.

use procfs::process::Stat;

use crate::model::ProcessState;

/// `PF_EXITING` of linux/sched.h, in the field `flags` of `stat`: the thread is on its way out.
const EXITING: u32 = 0x4;
/// `PF_KTHREAD`: a kernel thread, which never has memory of its own.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Whether the thread has ended, or is about to: its files go only after its memory, which can take long.
pub(super) fn is_leaving(stat: &Stat) -> bool {
    stat.flags & EXITING != 0
}

/// Whether the thread has ended: only its entry in the process table remains (proc_pid_stat(5)).
pub(super) fn has_ended(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X')
}

/// The state of the process of which this is a living thread. `has_memory` is whether its program or its command line can
/// be seen, or may not be seen.
pub(super) fn of(stat: &Stat, has_memory: bool, frozen: bool) -> ProcessState {
    let memory_gone = !has_memory && stat.flags & KERNEL_THREAD == 0;
    if is_leaving(stat) || memory_gone {
        ProcessState::Leaving
    } else if frozen {
        ProcessState::Frozen
    } else if matches!(stat.state, 'T' | 't') {
        ProcessState::Stopped
    } else if stat.state == 'D' {
        ProcessState::Uninterruptible
    } else {
        ProcessState::Running
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    fn stat(state: char, flags: u32) -> Stat {
        let rest = "0 ".repeat(43);
        Stat::from_read(format!("7 (a) b) {state} 1 7 7 0 -1 {flags} {rest}").as_bytes()).unwrap()
    }

    #[test]
    fn each_state_is_known_by_its_sign() {
        let ordinary = 0x0040_0100;
        assert_eq!(of(&stat('S', ordinary), true, false), ProcessState::Running);
        assert_eq!(of(&stat('T', ordinary), true, false), ProcessState::Stopped);
        assert_eq!(of(&stat('t', ordinary), true, false), ProcessState::Stopped);
        assert_eq!(of(&stat('D', ordinary), true, false), ProcessState::Uninterruptible);
        assert_eq!(of(&stat('D', ordinary), true, true), ProcessState::Frozen);
        assert_eq!(of(&stat('S', ordinary), true, true), ProcessState::Frozen);
        assert_eq!(of(&stat('R', ordinary | EXITING), true, false), ProcessState::Leaving);
        assert_eq!(of(&stat('R', ordinary), false, false), ProcessState::Leaving);
        assert_eq!(of(&stat('I', KERNEL_THREAD), false, false), ProcessState::Running);
        assert!(has_ended(&stat('Z', EXITING)) && !has_ended(&stat('D', 0)));
    }
}
