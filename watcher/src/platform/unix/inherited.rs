//! Descriptors that this program was started with, besides the standard ones.

use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

#[cfg(target_os = "linux")]
const DESCRIPTORS: &str = "/proc/self/fd";
#[cfg(not(target_os = "linux"))]
const DESCRIPTORS: &str = "/dev/fd";

/// Closes the internet sockets that a careless parent has left to this program: a service that runs it while its own
/// listener is inheritable would otherwise find that gatewatch itself holds the port. Other descriptors stay open (a
/// shell's `<(…)` is one), but the commands that this program runs don't get them. Those that a service manager has passed
/// on (`LISTEN_FDS`) are left alone.
pub(in crate::platform) fn close_inherited() {
    let Ok(entries) = fs::read_dir(DESCRIPTORS) else { return };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let descriptors: Vec<RawFd> = entries.flatten().filter_map(number).filter(|&fd| fd > 2).collect();
    let passed_on = passed_on();
    for fd in descriptors.into_iter().filter(|&fd| fd >= 3 + passed_on) {
        if is_internet_socket(fd) {
            // SAFETY: nothing in this program has this descriptor: it was there before `main`.
            unsafe { libc::close(fd) };
        } else {
            // That of the folder read above is closed by now, and the call fails.
            // SAFETY: it is borrowed for this call only, and the call closes nothing.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    }
}

/// How many descriptors, from 3 on, a service manager has passed to this process (sd_listen_fds(3)).
fn passed_on() -> RawFd {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS").filter(|_| ours).and_then(|count| count.try_into().ok()).unwrap_or(0)
}

fn is_internet_socket(fd: RawFd) -> bool {
    let family = getsockname::<SockaddrStorage>(fd).ok().and_then(|address| address.family());
    matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6))
}
