//! `PIDFD_GET_INFO`, Linux 6.13: what the kernel says of a process without /proc, so also where /proc hides it
//! (`hidepid`), is another pid namespace's, or is not mounted.

use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::libc;

use super::pidfd;

/// `struct pidfd_info` of linux/pidfd.h in its first version, of 64 bytes. The kernel fills in as much as it is asked for.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    /// ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid
    users: [u32; 8],
    exit_code: i32,
}

const PIDFD_GET_INFO: libc::Ioctl = libc::_IOWR::<PidfdInfo>(0xFF, 11);

/// `PIDFD_INFO_PID`: asks for `pid`, `tgid` and `ppid`.
const PIDFD_INFO_PID: u64 = 1;

/// The parent's pid, in our own pid namespace; 0 if the parent is not in it.
pub(super) fn parent(pid: u32) -> nix::Result<u32> {
    static SWITCHED_OFF: LazyLock<bool> =
        LazyLock::new(|| crate::platform::linux::is_switched_off("pidfd-info"));
    if *SWITCHED_OFF {
        return Err(Errno::ENOTTY);
    }
    let fd = pidfd::open(pid)?;
    let mut info = PidfdInfo { mask: PIDFD_INFO_PID, ..PidfdInfo::default() };
    // SAFETY: the request's number contains the structure's size, and the kernel writes no more than that.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) })?;
    if info.mask & PIDFD_INFO_PID == 0 || info.tgid != pid {
        return Err(Errno::ENOTTY);
    }
    Ok(info.ppid)
}

const _: () = assert!(size_of::<PidfdInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_the_one_that_getppid_says() {
        match parent(std::process::id()) {
            Ok(parent) => assert_eq!(parent, std::os::unix::process::parent_id()),
            // before Linux 6.13
            Err(errno) => assert!(matches!(errno, Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS), "{errno}"),
        }
    }
}
