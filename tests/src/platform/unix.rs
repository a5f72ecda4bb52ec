//! What Linux and macOS have in common.

use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How an owner is asked to end.
pub const ASKED: &str = "SIGTERM";
/// How it is forced.
pub const FORCED: &str = "SIGKILL";
/// A program that holds ports for others.
pub const FORWARDER: &str = "docker-proxy";

/// Gives a program another name, by a link: a copy could be busy (ETXTBSY), because another thread's fork holds the
/// descriptor that wrote it for a moment.
pub(crate) fn name_again(program: &Path, name: &Path) -> std::io::Result<()> {
    std::fs::hard_link(program, name)
}

/// Nothing to do: programs can be interrupted as they are.
pub(crate) fn interruptible(_command: &mut Command) {}

/// Interrupts a program as a person at its terminal would.
pub(crate) fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

/// The user who runs the tests, as gatewatch names it.
pub fn user() -> Value {
    nix::unistd::getuid().as_raw().into()
}

/// Whether root runs the tests.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
