//! What the program needs of a system at its start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::files::ProcessRoot;
use super::observing::{AgentObserver, ByEvents, Hook, Interest, ObserveError, Observer};
use super::system::{FileId, System};
use crate::model::{Port, Protocol, RecordFault, RecordFile, Socket};

/// What the program needs of a system besides [`System`]. The rest of the program names the system's type
/// [`Host`](super::Host).
pub(crate) trait Platform: System + Clone + Sized + 'static {
    /// Whether the kernel reports events to this program.
    const HAS_EVENTS: bool;
    /// The default path of the configuration.
    const CONFIG: &'static str;
    /// The default path of the agent's socket.
    const AGENT_SOCKET: &'static str;
    /// The default path of the agent's history.
    const HISTORY: &'static str = "/var/lib/gatewatch/history.sqlite";
    /// The shell, and its option before a command line.
    const SHELL: [&'static str; 2];

    /// The signals that long-running commands wait for.
    type Signals: Signals;
    /// The root folder of a process.
    type Root: ProcessRoot;

    /// The system as seen in the network namespace at a path, or in the caller's.
    ///
    /// # Errors
    /// [`NetnsError`].
    fn new(netns: Option<&Path>) -> Result<Self, NetnsError>;

    /// The inode number of the network namespace that it sees; 0 on a system without network namespaces.
    fn netns(&self) -> u32;

    /// Watches ports by kernel events.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] if privileges or kernel features are missing.
    fn by_events(&self, ports: &[Port], interest: Interest) -> ByEvents<dyn Observer>;

    /// Like [`Self::by_events`], but in all network namespaces of the system, and with events of every kind. Ports of these
    /// protocols can be followed, now and later.
    ///
    /// # Errors
    /// As for [`Self::by_events`].
    fn by_events_everywhere(&self, ports: &[Port], protocols: &[Protocol]) -> ByEvents<dyn AgentObserver>;

    /// Watches ports by polling, every `pace`.
    fn by_polling(&self, ports: &[Port], pace: Duration) -> Box<dyn AgentObserver>;

    /// Tries every hook of the eBPF backend.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] if not even the required hooks are available.
    fn try_hooks(&self) -> Result<Vec<Hook>, ObserveError>;

    /// The clock behind `Instant` and behind the timestamps of kernel events, in nanoseconds.
    fn monotonic_now() -> u64;

    /// The system's name and version, for people.
    fn version() -> String;

    /// What must be done before `main` continues. Returns an exit status if this process was started as a helper.
    fn before_main() -> Option<u8>;

    /// Ready once the reader of standard output has gone; never, if that can't be told.
    fn reader_gone() -> impl Future<Output = ()>;

    /// The user that this process runs as; `None` on a system that does not number its users.
    fn caller() -> Option<u32>;

    /// The command line that runs this one with all rights; `None` if this user has them, or the system has no such command.
    fn with_all_rights(words: Vec<String>) -> Option<Vec<String>>;

    /// A user's home folder, where it is known.
    fn home(user: u32) -> Option<PathBuf> {
        let _ = user;
        None
    }

    /// OpenClaw's own record of its live gateway, as JSON; `None` if the file has none. By default none can be read.
    ///
    /// # Errors
    /// [`RecordFault`].
    fn owner_record(file: &RecordFile) -> Result<Option<String>, RecordFault> {
        let _ = file;
        Err(RecordFault::NeedsLinux)
    }

    /// Opens a file by which this program is told what to do: a plain file, for root one that no other user can change or
    /// replace. Whatever is there instead, this never waits.
    ///
    /// # Errors
    /// [`NotObeyed`].
    fn open_to_obey(path: &Path) -> Result<File, NotObeyed>;

    /// What tells the file at a path from all others; `None` where that can't be read, or the system does not number files.
    fn file(path: &Path) -> Option<FileId> {
        let _ = path;
        None
    }

    /// Whether this user may execute the file.
    fn is_executable(path: &Path) -> bool;

    /// How the system would run the file, as far as that is certain.
    fn runs(path: &Path) -> Runs;

    /// Makes the processes that a command leaves behind our own children, where the system can do that: then they are
    /// still known as the command's.
    fn keep_descendants();

    /// Whether this process has children, once those that have ended are reaped. False where the system leaves orphans to
    /// its first process. Call it only while no child of ours is waited for elsewhere.
    fn has_descendants() -> bool;

    /// Prepares a command that [`Self::end_group`] can end together with its own children.
    fn lead_group(command: &mut Command);

    /// Ends the processes of a command that [`Self::lead_group`] has prepared: by SIGTERM, or by force.
    fn end_group(leader: u32, force: bool);

    /// Whether the process is in the group that the command leads.
    fn is_in_group(pid: u32, leader: u32) -> bool;

    /// Prepares a command that gets these descriptors by the protocol of sd_listen_fds(3): from number 3 on, in this order,
    /// with these names between colons.
    ///
    /// # Errors
    /// Where the system has no such protocol, or no descriptors are left.
    fn hand_on(command: &mut Command, descriptors: &[i32], names: &str) -> io::Result<()> {
        let _ = (command, descriptors, names);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the service manager this of a process (`sd_notify(3)`), with copies of the descriptors, and waits until the manager
    /// has dealt with it, for seconds at most.
    ///
    /// # Errors
    /// Where the system has no such manager, it does not answer, or this user may not speak for the process.
    fn notify_for(pid: u32, state: &str, descriptors: &[i32]) -> io::Result<()> {
        let _ = (pid, state, descriptors);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Becomes the command. Where the system can't replace a running program, runs it to its end and returns its exit
    /// status.
    ///
    /// # Errors
    /// If it can't be run.
    fn become_command(command: &mut Command) -> io::Result<u8>;

    /// All sockets that serve by this protocol, with their holders.
    ///
    /// # Errors
    /// If the tables can't be read.
    fn all_listeners(&self, protocol: Protocol) -> Result<Vec<Socket>, String>;

    /// A command that runs under another title than its program's name.
    ///
    /// # Errors
    /// If it can't be created.
    fn titled(program: &Path, title: &str) -> io::Result<Command>;
}

/// The signals that long-running commands obey, received from the creation of this value on.
pub(crate) trait Signals: Sized {
    /// # Errors
    /// If signals can't be received.
    fn new() -> io::Result<Self>;

    /// The same, without those that whoever started this program has it ignore: a command that is run in its place is to ignore
    /// them as well (execve(2) forgets a handler, and keeps that a signal is ignored).
    ///
    /// # Errors
    /// As there.
    fn unless_ignored() -> io::Result<Self> {
        Self::new()
    }

    /// The next signal.
    async fn next(&mut self) -> Signal;
}

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(windows, expect(dead_code, reason = "no signal of Windows asks for a reload"))]
pub(crate) enum Signal {
    /// Reload the configuration (SIGHUP).
    Reload,
    /// Shut down (SIGTERM, SIGINT; a closed console).
    End,
}

/// How a system would run a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(dead_code, reason = "each system tells some of it")]
pub(crate) enum Runs {
    /// Nothing speaks against it.
    Itself,
    /// By an interpreter, which gets these arguments and then the file.
    By {
        /// The interpreter's path.
        interpreter: String,
        /// As the system hands them on.
        arguments: Vec<String>,
    },
    /// The system knows no such format. A shell, and what calls execvp(3), may take it for a script of a shell's.
    NoFormat,
    /// Not at all; why, as a clause.
    Never(String),
}

/// Why a file is not obeyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotObeyed {
    /// It can't be opened, or is no plain file, or others can put another one in its place.
    #[error(transparent)]
    Unopened(#[from] io::Error),
    /// This user can change it.
    #[error("can be changed by {0}")]
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no root"))]
    Strangers(String),
}

/// Why a path can't be used as a network namespace.
#[derive(Debug, thiserror::Error)]
#[allow(dead_code, reason = "a system has namespaces or says `Unsupported`, not both")]
pub(crate) enum NetnsError {
    /// This system has no network namespaces.
    #[error("network namespaces exist on Linux only: leave --netns out")]
    Unsupported,
    /// It can't be opened.
    #[error("the network namespace {path} can't be opened: {error}", path = path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not a network namespace.
    #[error("{path} is not a network namespace; name one as /run/netns/NAME or /proc/PID/ns/net", path = .0.display())]
    Other(PathBuf),
    /// It can't be entered.
    #[error("the network namespace {path} can't be entered: {error}; this needs CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}
