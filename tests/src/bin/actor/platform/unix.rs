//! What Linux and macOS have in common.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal};

/// SIGTERM, taken when the actor has time for it.
pub(crate) struct Ending(SigSet);

impl Ending {
    /// From here on.
    pub(crate) fn begin() -> Self {
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
