//! What Linux and macOS have in common.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, fork};

/// SIGTERM, taken when the actor has time for it.
pub(crate) struct Ending(SigSet);

impl Ending {
    /// From here on.
    pub(crate) fn begin() -> Self {
        // A shell that runs in the background hands an ignored SIGINT down to all that it starts.
        // SAFETY: the default action runs no code of ours.
        unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.unwrap();
        let mut term = SigSet::empty();
        term.add(Signal::SIGTERM);
        term.thread_block().unwrap();
        Self(term)
    }

    /// Waits until the actor is asked to end.
    pub(crate) fn wait(&self) {
        self.0.wait().unwrap();
    }
}

/// This program once more, by the same name.
pub(crate) fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg0(std::env::args_os().next().unwrap());
    command
}

/// Standard input.
pub(crate) fn input() -> File {
    File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap())
}

/// Ends this process, and goes on in a fork of it, which has the same listeners: not for longer than a test lasts.
pub(crate) fn go_on_in_a_fork() {
    // SAFETY: the child goes on in this thread alone, and only waits, forks and ends.
    if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() {
        // SAFETY: ends at once, without a word to the test's pipes.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: takes a number of seconds.
    unsafe { libc::alarm(120) };
}
