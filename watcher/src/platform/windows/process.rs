//! Processes, through sysinfo and their handles.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, HANDLE};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
};

use crate::model::{Parent, Process, StartTime};
use crate::platform::contract::ProcessError;
use crate::platform::without_kernel_events as sysinfo;

/// From 1601, where Windows begins to count, to 1970, in units of 100 ns.
const EPOCH: u64 = 116_444_736_000_000_000;

/// Reads a process.
pub(in crate::platform) fn read(pid: u32) -> Result<Process, ProcessError> {
    let start_time = start_time(pid)?;
    let told = sysinfo::query(pid, true).ok_or(ProcessError::Gone)?;
    let parent = parent(pid).map(|pid| Parent { pid, comm: name(pid) });
    Ok(Process { parent, ..told.into_process(pid, start_time) })
}

/// The parent's pid. A parent that began later than its child is another process, which got the pid after the real
/// parent had ended.
pub(in crate::platform) fn parent(pid: u32) -> Option<u32> {
    let parent = sysinfo::query(pid, false)?.parent?;
    let (Ok(own), Ok(parents)) = (start_time(pid), start_time(parent)) else { return Some(parent) };
    (parents.raw <= own.raw).then_some(parent)
}

/// The program's file name.
pub(in crate::platform) fn name(pid: u32) -> Option<String> {
    sysinfo::query(pid, false).map(|told| told.name)
}

/// When it began, read through its handle.
pub(super) fn start_time(pid: u32) -> Result<StartTime, ProcessError> {
    // SAFETY: the call takes numbers and returns a new handle, or null.
    let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) };
    if handle.is_null() {
        let error = io::Error::last_os_error();
        let gone = error.raw_os_error().map(i32::cast_unsigned) == Some(ERROR_INVALID_PARAMETER);
        return Err(if gone { ProcessError::Gone } else { ProcessError::Unreadable(error.to_string()) });
    }
    // SAFETY: the system has just created this handle for this process.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    let zero = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    let (mut created, mut exited, mut in_kernel, mut in_user) = (zero, zero, zero, zero);
    // SAFETY: the handle is open, and each time is written to a variable of ours.
    let known = unsafe {
        GetProcessTimes(
            handle.as_raw_handle() as HANDLE,
            &raw mut created,
            &raw mut exited,
            &raw mut in_kernel,
            &raw mut in_user,
        )
    };
    if known == 0 {
        return Err(ProcessError::Unreadable(io::Error::last_os_error().to_string()));
    }
    let ticks = |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    if ticks(exited) != 0 {
        // It has ended, but another process holds a handle of it.
        return Err(ProcessError::Gone);
    }
    let raw = ticks(created);
    let since_1970 = Duration::from_nanos(raw.saturating_sub(EPOCH).saturating_mul(100));
    Ok(StartTime { raw, wall: SystemTime::UNIX_EPOCH + since_1970 })
}
