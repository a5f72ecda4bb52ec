//! Processes, through libproc and sysinfo.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

use nix::libc;

use crate::platform::elsewhere;
use crate::process::{Process, StartTime};
use crate::system::ProcessError;

/// Reads a process. Its arguments come from `KERN_PROCARGS2` (through sysinfo): the kernel's own name of a gateway is
/// that of its runtime.
pub(in crate::platform) fn read(pid: u32) -> Result<Process, ProcessError> {
    let info = info(pid)?;
    let told = elsewhere::ask(pid, true).ok_or(ProcessError::Gone)?;
    Ok(Process {
        pid,
        start_time: started(&info),
        parent: Some(info.pbi_ppid).filter(|&parent| parent != 0),
        uid: Some(info.pbi_ruid),
        comm: told.name,
        argv: told.argv,
        exe: told.exe,
        cwd: told.cwd,
        root: None,
        unit: None,
        container: None,
    })
}

/// The parent's pid. Another user's process may not be looked into by all calls, so sysinfo is asked as well.
pub(in crate::platform) fn parent(pid: u32) -> Option<u32> {
    let known = info(pid).ok().map(|info| info.pbi_ppid);
    let parent = known.or_else(|| elsewhere::ask(pid, false)?.parent);
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
    // SAFETY: libproc writes at most `size` bytes into the record, and says how many.
    let got =
        unsafe { libc::proc_pidinfo(number, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size) };
    if got != size {
        let error = io::Error::last_os_error();
        return Err(if error.raw_os_error() == Some(libc::ESRCH) {
            ProcessError::Gone
        } else {
            unreadable(&error)
        });
    }
    // SAFETY: all of it was written, and zero before.
    let info = unsafe { info.assume_init() };
    // A zombie has ended, whether or not its parent has taken note.
    if info.pbi_status == libc::SZOMB { Err(ProcessError::Gone) } else { Ok(info) }
}

fn text(bytes: &[libc::c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
