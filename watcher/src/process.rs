//! What is known of a process, on any system.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When a process began. Two processes that had the same pid at different times differ in this, so pid and
/// start time together name a process.
#[derive(Debug, Clone, Copy)]
pub struct StartTime {
    /// The system's own measure: clock ticks since boot on Linux (field 22 of `/proc/PID/stat`, proc(5)),
    /// microseconds since the epoch on macOS, 100 ns units since 1601 on Windows.
    pub raw: u64,
    /// The same moment on the wall clock, for people. It may be off by one tick.
    pub wall: SystemTime,
}

impl PartialEq for StartTime {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for StartTime {}

/// A process as it was read at one moment. A field that could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The process id, in the caller's own pid namespace.
    pub pid: u32,
    /// When it began.
    pub start_time: StartTime,
    /// The parent's pid; `None` for a process without a visible parent (PID 1, or the parent lives outside of
    /// the pid namespace).
    pub parent: Option<u32>,
    /// The real user id; `None` on Windows.
    pub uid: Option<u32>,
    /// The kernel's short name (15 bytes on Linux).
    pub comm: String,
    /// The arguments, empty trailing ones dropped; `None` where the command line can't be read. Bytes that are
    /// not UTF-8 are replaced.
    pub argv: Option<Vec<String>>,
    /// The executable. Linux's mark ` (deleted)` is taken off.
    pub exe: Option<PathBuf>,
    /// The working directory, as the process sees it.
    pub cwd: Option<PathBuf>,
    /// Where the process's own root directory is seen from here (`/proc/PID/root` on Linux: a process in a
    /// container has another one); `None` where both see the same files.
    pub root: Option<PathBuf>,
    /// The systemd unit (`openclaw-gateway.service`) that it belongs to.
    pub unit: Option<String>,
    /// The container that it runs in, by its id.
    pub container: Option<String>,
}

/// The verdict on an owner: is it one that the caller asked to end?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// It is.
    Match,
    /// It is something else.
    Other,
    /// What would tell could not be read. Never ended.
    Unclassified,
}
