//! What is known of a process, on any system, and what is decided about it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use strum::{EnumString, IntoStaticStr, VariantNames};

/// When a process began. Two processes that had the same pid at different times have different start times, so
/// pid and start time together identify a process.
#[derive(Debug, Clone, Copy)]
pub struct StartTime {
    /// In the system's own unit: clock ticks since boot on Linux (field 22 of `/proc/PID/stat`, proc(5)),
    /// microseconds since the epoch on macOS, 100 ns units since 1601 on Windows. 0 if another program, such as
    /// the host agent, reported the start: then only the wall clock below is known.
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

impl StartTime {
    /// Whether both are the start of one process, where one of them may have been told by another program, in milliseconds
    /// and without the raw number.
    #[must_use]
    pub(crate) fn is_same(self, other: Self) -> bool {
        const APART: Duration = Duration::from_millis(20);
        let apart = self.wall.duration_since(other.wall).or_else(|_| other.wall.duration_since(self.wall));
        if self.raw == 0 || other.raw == 0 { apart.is_ok_and(|apart| apart < APART) } else { self == other }
    }
}

/// A process as it was at one moment. A field that could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The process id, in the caller's own pid namespace.
    pub pid: u32,
    /// When it began.
    pub start_time: StartTime,
    /// The parent; `None` for a process without a visible parent (PID 1, or the parent lives outside of the pid
    /// namespace).
    pub parent: Option<Parent>,
    /// The session id (setsid(2)); `None` where it is not known, as on Windows.
    pub session: Option<u32>,
    /// The real user id; `None` on Windows.
    pub uid: Option<u32>,
    /// The effective user id, which sockets are made under; `None` where it is not known.
    pub effective_uid: Option<u32>,
    /// The real user's name; `None` where the host's database has none.
    pub user: Option<String>,
    /// Whether it can run.
    pub state: ProcessState,
    /// The kernel's short name (15 bytes on Linux).
    pub comm: String,
    /// The arguments, empty trailing ones dropped; `None` if the command line can't be read. Bytes that are
    /// not UTF-8 are replaced.
    pub argv: Option<Vec<String>>,
    /// Whether the command line is longer than what was read of it: a process can make its own as long as it likes.
    pub argv_cut: bool,
    /// The executable. Linux's mark ` (deleted)` is taken off.
    pub exe: Option<PathBuf>,
    /// The user who owns the executable's file; `None` if it can't be read, and on Windows.
    pub exe_owner: Option<u32>,
    /// The working directory, as the process sees it.
    pub cwd: Option<PathBuf>,
    /// Where the process's own root directory is visible from here (`/proc/PID/root` on Linux: a process in a
    /// container has another one); `None` if both see the same files.
    pub root: Option<PathBuf>,
    /// The systemd unit (`openclaw-gateway.service`) that it belongs to.
    pub unit: Option<String>,
    /// The container that it runs in, by its id.
    pub container: Option<String>,
    /// The Kubernetes pod that it belongs to.
    pub pod: Option<Pod>,
    /// What the container's runtime calls it; `None` outside of a container, and where that was not asked. It is for people
    /// alone: whoever made the container chose it.
    pub naming: Option<Naming>,
}

impl Process {
    /// How long ago it began, by the wall clock.
    #[must_use]
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.start_time.wall).unwrap_or_default()
    }
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, which no other pod ever has; `None` if neither its control group nor the runtime tells it.
    pub uid: Option<String>,
    /// Its name and its namespace; `None` if the container's runtime does not tell them.
    pub name: Option<PodName>,
}

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// The Kubernetes namespace that it is in.
    pub namespace: String,
    /// Its name, which is its own within the namespace.
    pub name: String,
}

/// What is known of a container's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// Its runtime's state was read.
    Known {
        /// The runtime: `containerd`, `cri-o`, `docker` or `podman`.
        runtime: String,
        /// The container's name; `None` for one that has none, as the one that keeps a pod's namespaces.
        name: Option<String>,
    },
    /// It can't be read, for this reason.
    Unknown(String),
}

/// A process's parent, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The pid.
    pub pid: u32,
    /// The short name; `None` where it can't be read.
    pub comm: Option<String>,
}

/// Whether a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs, or waits for something.
    Running,
    /// It is suspended (job control, a debugger): it gets a SIGTERM only after SIGCONT.
    Stopped,
    /// Its control group is frozen: it gets no signal but, in version 2, SIGKILL.
    Frozen,
    /// It waits inside the kernel, and no signal reaches it until that is over: for a disk or a network drive, say.
    Uninterruptible,
    /// It is on its way out: its memory has gone already, its sockets go next.
    Leaving,
}

/// The verdict on an owner: is it one that the caller asked to end?
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Verdict {
    /// It is one.
    Match,
    /// It is something else.
    Other,
    /// The deciding facts could not be read. Such an owner is never ended.
    Unclassified,
}

impl Verdict {
    /// The name in JSON.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// Why a process is never ended, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Exclusion {
    /// It is gatewatch itself.
    #[strum(serialize = "self")]
    Myself,
    /// It is the caller, or an ancestor of the caller.
    Ancestor,
    /// It asked the agent, or is an ancestor of the process that asked.
    Requester,
    /// It was named as protected, or is an ancestor of a protected process.
    Protected,
    /// It is PID 1.
    Init,
}
