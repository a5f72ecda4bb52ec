//! Linux: pidfds, namespaces, capabilities, other users.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use super::unix::{ASKED, FORCED, FORWARDER, user};
pub(crate) use super::unix::{interrupt, interruptible, is_root, name_again};
use crate::{Actor, Backend, Gatewatch, Needs, Part, program};

/// How ports can be observed.
pub const BACKENDS: &[Backend] = &[Backend::Ebpf, Backend::Poll];

/// Sends a signal.
///
/// # Panics
/// When there is no such process, or this user may not.
pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// The actor under a name: its first argument.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(program("actor"));
    command.arg0(name);
    command
}

/// Goes on meaning a process when its pid is used again.
pub struct Life(OwnedFd);

impl Life {
    /// Takes hold of it.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(pid: u32) -> Self {
        // SAFETY: pidfd_open(2) takes two numbers and gives a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(nix::errno::Errno::result(fd).unwrap()).unwrap();
        // SAFETY: the kernel has just made this descriptor for us.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Whether it has ended by now, or does within this time. A zombie has ended.
    ///
    /// # Panics
    /// When that can't be told.
    pub fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap() > 0
    }
}

/// What this system can't show, and why: nothing that the machine has.
pub(crate) fn cannot(_needs: Needs) -> Option<&'static str> {
    None
}

impl Part {
    /// With this short name, whatever the program and its arguments are.
    pub fn with_comm(self, name: &str) -> Self {
        self.with(&["--comm", name])
    }

    /// As an ordinary user.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(65_534).gid(65_534);
        self
    }

    /// In a network namespace of its own, whose loopback is up.
    pub fn in_own_network(mut self) -> Self {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            self.command.pre_exec(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        self
    }

    /// Raises the curtain in a pid namespace of its own, where it is PID 1. Its pid here is that of the outer namespace.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_as_init(self) -> Actor {
        let name = "openclaw-gateway";
        let mut outer = Command::new("unshare");
        outer.args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c"]);
        outer.arg(format!("exec -a {name} \"$0\" \"$@\"")).arg(self.command.get_program());
        outer.args(self.command.get_args());
        let mut actor = Self::program(outer).start();
        let outer = actor.started_pid();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        actor.replace_holders(vec![children.trim().parse().unwrap()]);
        actor
    }
}

impl Actor {
    /// Asks the first holder to end.
    pub fn ask_to_end(&self) {
        send(self.pid(), Signal::SIGTERM);
    }

    /// Its network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }
}

impl Gatewatch {
    /// As an ordinary user.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(65_534).gid(65_534);
        self
    }

    /// Within the pid namespace of a process, though not as a descendant of it.
    pub fn inside(self, pid: u32) -> Self {
        self.through(&["nsenter", "--pid", "--mount", "--target", &pid.to_string(), "--"])
    }

    /// Within the network namespace of a process.
    pub fn in_network_of(self, pid: u32) -> Self {
        self.through(&["nsenter", "--net", "--target", &pid.to_string(), "--"])
    }

    /// Without a capability, though as root.
    pub fn without_capability(self, name: &str) -> Self {
        self.through(&["setpriv", &format!("--bounding-set=-{name}"), &format!("--inh-caps=-{name}"), "--"])
    }

    fn through(self, outer: &[&str]) -> Self {
        let mut command = Command::new(outer[0]);
        command.args(&outer[1..]).args(self.words());
        Self { command }
    }
}
