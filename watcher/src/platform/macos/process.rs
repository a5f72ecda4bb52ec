//! Processes, through libproc and sysinfo.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::unistd::{Uid, User};

use crate::model::{Parent, Process, ProcessState, StartTime};
use crate::platform::contract::ProcessError;
use crate::platform::without_kernel_events as sysinfo;

/// Reads a process. Its arguments come from `KERN_PROCARGS2` (through sysinfo), because the kernel's own name for a
/// gateway is that of its runtime.
pub(in crate::platform) fn read(pid: u32) -> Result<Process, ProcessError> {
    let info = info(pid)?;
    let told = sysinfo::query(pid, true).ok_or(ProcessError::Gone)?;
    Ok(Process {
        parent: parent_of(info.pbi_ppid),
        uid: Some(info.pbi_ruid),
        effective_uid: Some(info.pbi_uid),
        user: User::from_uid(Uid::from_raw(info.pbi_ruid)).ok().flatten().map(|user| user.name),
        state: if info.pbi_status == libc::SSTOP { ProcessState::Stopped } else { ProcessState::Running },
        exe_owner: told.exe.as_deref().and_then(|exe| exe.metadata().ok()).map(|file| file.uid()),
        ..told.into_process(pid, started(&info))
    })
}

fn parent_of(pid: u32) -> Option<Parent> {
    (pid != 0).then(|| Parent { pid, comm: name(pid) })
}

/// The parent's pid. Another user's process may not be looked into by all calls, so sysinfo is asked as well.
pub(in crate::platform) fn parent(pid: u32) -> Option<u32> {
    let known = info(pid).ok().map(|info| info.pbi_ppid);
    let parent = known.or_else(|| sysinfo::query(pid, false)?.parent);
    parent.filter(|&parent| parent != 0)
}

/// The kernel's short name.
pub(in crate::platform) fn name(pid: u32) -> Option<String> {
    info(pid).ok().map(|info| text(&info.pbi_comm))
}

/// When a process began.
pub(in crate::platform) fn start_time(pid: u32) -> Result<StartTime, ProcessError> {
    info(pid).map(|info| started(&info))
}

fn started(info: &libc::proc_bsdinfo) -> StartTime {
    let since_1970 = Duration::from_secs(info.pbi_start_tvsec) + Duration::from_micros(info.pbi_start_tvusec);
    let raw = info.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(info.pbi_start_tvusec);
    StartTime { raw, wall: SystemTime::UNIX_EPOCH + since_1970 }
}

fn info(pid: u32) -> Result<libc::proc_bsdinfo, ProcessError> {
    let unreadable = |error: &dyn std::fmt::Display| ProcessError::Unreadable(error.to_string());
    let number = i32::try_from(pid).map_err(|error| unreadable(&error))?;
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).map_err(|error| unreadable(&error))?;
    let (flavor, into) = (libc::PROC_PIDTBSDINFO, info.as_mut_ptr());
    // SAFETY: libproc writes at most `size` bytes into the record, and returns how many.
    let got = unsafe { libc::proc_pidinfo(number, flavor, 0, into.cast(), size) };
    if got != size {
        let error = io::Error::last_os_error();
        return Err(if error.raw_os_error() == Some(libc::ESRCH) {
            ProcessError::Gone
        } else {
            unreadable(&error)
        });
    }
    // SAFETY: the record was zeroed first, and then written completely.
    let info = unsafe { info.assume_init() };
    // A zombie has ended, whether or not its parent has reaped it.
    if info.pbi_status == libc::SZOMB { Err(ProcessError::Gone) } else { Ok(info) }
}

fn text(bytes: &[libc::c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
