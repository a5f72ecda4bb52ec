//! What Linux and macOS have in common.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::program;

/// How an owner is asked to end.
pub const ASKED: &str = "SIGTERM";
/// How it is forced.
pub const FORCED: &str = "SIGKILL";
/// A program that holds ports for others.
pub const FORWARDER: &str = "docker-proxy";

/// The actor under a name: its first argument.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(program("actor"));
    command.arg0(name);
    command
}

/// Gives a program another name. By a link: a copy could be busy, since another thread's fork holds the descriptor that
/// wrote it for a moment (ETXTBSY).
pub(crate) fn name_again(program: &Path, name: &Path) -> std::io::Result<()> {
    std::fs::hard_link(program, name)
}

/// Nothing has to be done so that a program can be interrupted.
pub(crate) fn interruptible(_command: &mut Command) {}

/// Interrupts a program as a person at its terminal would.
pub(crate) fn interrupt(child: &Child) {
    send(child.id(), Signal::SIGINT);
}

/// Sends a signal.
///
/// # Panics
/// When there is no such process, or this user may not.
pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// The user who runs the tests, as gatewatch names it.
pub fn user() -> Value {
    nix::unistd::getuid().as_raw().into()
}

/// Whether root runs the tests.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
