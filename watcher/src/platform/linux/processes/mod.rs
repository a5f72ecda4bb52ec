//! Processes, through /proc and pidfds.

mod cgroup;
pub(super) mod copy;
mod file;
pub(super) mod foreign;
#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing;
mod info;
pub(super) mod kin;
pub(super) mod pidfd;
pub(super) mod proc;
pub(super) mod root;
mod state;
pub(super) mod status;
mod time;
pub(super) mod unseen;
mod user;
pub(super) mod waiting;
