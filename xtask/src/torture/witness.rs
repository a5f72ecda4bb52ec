//! What the kernel itself saw of this process's descendants: who was sent which signal by whom, and which binds worked.
//!
//! It is an instance of the kernel's tracing of our own, so nobody else's tracing is disturbed, and it follows only
//! descendants, so nobody else's processes are seen.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(super) struct Witness {
    instance: PathBuf,
    /// tracefs, mounted where no path leads to it but this descriptor.
    _mount: OwnedFd,
}

/// Something that a process did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) by: u32,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Sent a signal to this process.
    Signalled(u32),
    /// Bound a socket.
    Bound,
}

impl Witness {
    /// Begins, unless this machine does not allow that.
    ///
    /// # Errors
    /// Why it can't.
    pub(super) fn begin() -> Result<Self> {
        let mount = mount_tracefs().context("tracefs can't be mounted")?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        let own = std::process::id();
        let instance = root.join(format!("instances/gatewatch-torture-{own}"));
        fs::create_dir(&instance).context("no instance of tracing can be made")?;
        let witness = Self { instance, _mount: mount };
        // Only signals that end: the torture itself suspends owners and resumes them.
        witness.set("events/signal/signal_generate/filter", "sig == 15 || sig == 9 || sig == 23")?;
        for option in ["options/event-fork", "options/record-tgid", "events/signal/signal_generate/enable"] {
            witness.set(option, "1")?;
        }
        witness.set("events/syscalls/sys_exit_bind/filter", "ret == 0")?;
        witness.set("events/syscalls/sys_exit_bind/enable", "1")?;
        witness.set("set_event_pid", &own.to_string())?;
        // In a pid namespace the kernel's tracing has other numbers than ours.
        kill(Pid::this(), Signal::SIGURG)?;
        let seen = witness.seen()?;
        ensure!(
            seen.iter().any(|seen| seen.what == What::Signalled(own)),
            "the kernel's tracing shows no signal of ours"
        );
        Ok(witness)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.instance.join(file), value).with_context(|| format!("{file} can't be written"))
    }

    /// What was seen since the last call, oldest first.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn seen(&self) -> Result<Vec<Seen>> {
        let text = fs::read_to_string(self.instance.join("trace"))?;
        self.set("trace", "")?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(parse).collect())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.set("events/enable", "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Reads a line such as
/// `gatewatch-812  ( 812) [001] d..1.  1234.567: signal_generate: sig=15 errno=0 code=0 comm=actor pid=799 grp=1 res=0`.
fn parse(line: &str) -> Option<Seen> {
    let (who, what) = line.split_once(" [")?;
    let (thread, group) = who.rsplit_once('(')?;
    let group = group.trim_end_matches(')').trim().parse().ok();
    let by = group.or_else(|| thread.trim().rsplit('-').next()?.parse().ok())?;
    let what = if what.contains("signal_generate: ") {
        let pid = what.split(' ').find_map(|word| word.strip_prefix("pid="))?;
        What::Signalled(pid.parse().ok()?)
    } else if what.contains("sys_bind -> 0x0") {
        What::Bound
    } else {
        return None;
    };
    Some(Seen { by, what })
}

fn mount_tracefs() -> io::Result<OwnedFd> {
    const CREATE: libc::c_uint = 6;
    // SAFETY: fsopen(2) reads the name and returns a new descriptor.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1) })?;
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: this command of fsconfig(2) takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, nothing, nothing, 0) };
    nix::errno::Errno::result(made)?;
    // SAFETY: fsmount(2) takes only numbers and returns a new descriptor.
    own(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(nix::errno::Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
