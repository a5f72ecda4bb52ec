//! Rules of what is read of /proc, for any bytes.

use std::path::{Path, PathBuf};

use super::cgroup::{self, Place};
use super::{foreign, kin, pidfd, proc, state, status, time};
use crate::model::ProcessState;
use crate::platform::contract::SignalError;

/// Each file is read as each of those that the program reads, because a process's name and title can be anything.
pub(crate) fn proc_files(bytes: &[u8]) {
    stat(bytes);
    command_line(bytes);
    let text = String::from_utf8_lossy(bytes);
    groups(&text);
    status::users(&text);
    foreign::is_own(&text, 7);
    pidfd_info(&text);
    super::super::seeing::fuzzing::tables(&text);
    let path = PathBuf::from(text.trim_end().to_owned());
    let without = proc::without_deleted(path.clone());
    assert!(path.to_string_lossy().starts_with(&*without.to_string_lossy()));
}

fn stat(bytes: &[u8]) {
    let Ok(stat) = proc::parse_stat(bytes) else { return };
    // Both ways of reading a parent agree, whatever the name is.
    if let (Some(parent), Ok(expected)) = (kin::parent_in(bytes), u32::try_from(stat.ppid)) {
        assert_eq!(parent, expected);
    }
    assert_eq!(time::start(stat.starttime).raw, stat.starttime);
    let now = state::of(&stat, true, false);
    assert_eq!(now == ProcessState::Leaving, state::is_leaving(&stat));
    assert!(now != ProcessState::Frozen && state::of(&stat, true, true) != ProcessState::Stopped);
}

fn command_line(bytes: &[u8]) {
    let (argv, cut) = proc::arguments(bytes);
    let Some(argv) = argv else {
        assert!(bytes.iter().all(|&byte| byte == 0));
        return;
    };
    assert!(!argv.is_empty() && argv.last().is_some_and(|last| !last.is_empty()));
    assert!(argv.iter().all(|argument| !argument.contains('\0')));
    if std::str::from_utf8(bytes).is_ok() && !cut {
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        assert_eq!(argv.join("\0").as_bytes(), &bytes[..end]);
    }
}

fn groups(text: &str) {
    let Place { unit, container, pod } = cgroup::place(text);
    assert!(unit.is_none_or(|unit| unit.ends_with(".service") && !unit.contains(['/', '\n'])));
    assert!(container.is_none_or(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    let digits = |uid: &str| uid.bytes().filter(u8::is_ascii_hexdigit).count();
    assert!(pod.is_none_or(|uid| digits(&uid) == 32 && uid.len() - digits(&uid) <= 4));
    // No group's path leads out of the mount: the folder beside it has what would say that a group is frozen.
    assert!(!cgroup::is_frozen_under(Path::new("/nonexistent/gatewatch/cgroup"), text));
}

/// A pidfd is another process's unless its `fdinfo` says otherwise.
fn pidfd_info(text: &str) {
    let named = |name: &str| text.lines().any(|line| line.starts_with(name));
    match pidfd::agree(text, 7) {
        Ok(()) => assert!(text.contains('7') && named("Pid:")),
        Err(SignalError::Gone) => assert!(text.contains("-1") && named("Pid:")),
        Err(_) => {}
    }
}
