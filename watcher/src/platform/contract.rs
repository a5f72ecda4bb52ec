//! The contract of a system: everything that the rest of the program needs from one, on one page. Read this to port the
//! program.
//!
//! A port to another system is one row in [`super`] and one folder beside `linux`, with a type that implements
//! [`System`] (processes and binds, for the jobs), [`Platform`] (what the program needs at its start), and
//! [`AgentSystem`] with [`ServiceSystem`] (what the host agent needs: `unix/agent.rs` has the first for systems with Unix
//! sockets, and `without_agent.rs` both for a system without an agent). The jobs and the steps know this page and nothing
//! below it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Host;
pub(crate) use super::choose::{BackendChoice, Chosen, choose};
use crate::config::NatsConfig;
use crate::model::{
    Backend, Descriptor, EndSignal, Event, GapReason, Observation, OpenSocket, Port, Process, Protocol,
    Record, RecordFault, RecordFile, Socket, Span,
};

// ---------------------------------------------------------------------------------------------------------------
// Observing

/// Which events a command needs. Fewer events, fewer programs to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interest {
    /// Snapshots alone.
    Snapshots,
    /// Snapshots, and releases once [`Observer::follow`] asks for them: to attach to the kernel can wait for a grace period
    /// of 15 ms, and most commands are over before they need an event.
    ReleasesLater,
    /// Also releases.
    Releases,
    /// Also the start and end of listening.
    Listening,
    /// Everything that the backend can see: also binds and conflicts.
    Everything,
}

/// Observes the sockets of certain ports, in one network namespace.
///
/// A socket that is opened after the observer was created is reported by an event, an earlier one by the snapshot. None
/// is missed in between, because the events are switched on first.
pub(crate) trait Observer: Send {
    /// The backend that it uses.
    fn backend(&self) -> Backend;

    /// The sockets that hold one of the ports now, with all their descriptors, found by one pass however many ports there
    /// are. This includes connections that can keep other sockets from a port (see
    /// [`SocketState::Connected`](crate::model::SocketState::Connected)).
    ///
    /// # Errors
    /// [`ObserveError::Snapshot`] if the tables can't be read: then nothing is known, and no port must count as free.
    fn look(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError>;

    /// Like [`Self::look`], for one port.
    ///
    /// # Errors
    /// As there.
    fn snapshot(&mut self, port: Port) -> Result<Vec<Socket>, ObserveError> {
        self.look(&[port])
    }

    /// Like [`Self::look`], without the connections: for many ports, those would be all that a host has.
    ///
    /// # Errors
    /// As there.
    fn owning(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.look(ports)?;
        sockets.retain(Socket::owns_port);
        Ok(sockets)
    }

    /// The next event; pending until one arrives.
    ///
    /// # Errors
    /// [`ObserveError::Stream`] if no more events will come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>>;

    /// Switches the events on that [`Interest::ReleasesLater`] has put off. What happened before is told by none, so look again
    /// after it. Where they are not to be had, looks must do.
    fn follow(&mut self) {}

    /// Changes shorter than this may be missed; `None` if none can be.
    fn resolution(&self) -> Option<Duration> {
        None
    }

    /// What can no longer be observed, though it could at the start, as sentences.
    fn losses(&self) -> Vec<String> {
        Vec::new()
    }

    /// How long until the last connection in TIME_WAIT on the port is gone; `None` where there is none, or the system does
    /// not say. Those of a server that did not set `SO_REUSEADDR` keep even binds with it out, with no process anywhere.
    ///
    /// # Errors
    /// As for [`Observer::snapshot`].
    fn time_wait(&mut self, port: Port) -> Result<Option<Duration>, ObserveError> {
        let _ = port;
        Ok(None)
    }

    /// Takes the connections in TIME_WAIT on the port away (`SOCK_DESTROY`), and says how many there were.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] where the system or the user's privileges do not allow it.
    fn drop_time_wait(&mut self, port: Port) -> Result<usize, ObserveError> {
        let _ = port;
        Err(cannot_drop_time_wait())
    }

    /// The other ports of the same protocol that these processes listen on, or by UDP are bound to, each in its own network
    /// namespace: the lowest [`MOST_OTHER_PORTS`], in order. A process of which that can't be told is left out.
    fn other_ports(&mut self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        let _ = (port, pids);
        HashMap::new()
    }

    /// The processes that listen on any other port of the network namespace; `None` where to find them takes as long as to
    /// read the name of each process.
    fn listening_elsewhere(&mut self, port: Port) -> Option<Vec<u32>> {
        let _ = port;
        None
    }

    /// After a plain bind has failed: could an invisible socket be the reason? The socket tables of some kernels leave
    /// out sockets that are bound and do not listen. Connections that linger explain such a failure as well; where
    /// there are none, another process has the port.
    ///
    /// # Errors
    /// As for [`Observer::snapshot`].
    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError>;

    /// Whether no socket at all has the port, in our network namespace; false also where that can't be told at once.
    fn nobody_has(&mut self, port: Port) -> bool {
        let _ = port;
        false
    }
}

/// How many of a process's other ports are told at most.
pub(crate) const MOST_OTHER_PORTS: usize = 16;

/// The observer of the host agent: it sees all network namespaces if the system allows it, and its ports can change.
pub(crate) trait AgentObserver: Observer {
    /// Watches these ports instead of the previous ones.
    ///
    /// # Errors
    /// When the change can't be made.
    fn set_ports(&mut self, ports: &[Port]) -> Result<(), ObserveError>;

    /// Makes ready to guard ports. From then on this observer's end opens all of them.
    ///
    /// # Errors
    /// Why ports can't be guarded here.
    fn begin_guard(&mut self) -> Result<Box<dyn Guard>, String> {
        Err("that takes kernel events".to_owned())
    }

    /// Takes over from the agent before: reads what happened before this moment of the monotonic clock, if that agent left
    /// something in this folder that went on to observe, and leaves the same there for the next.
    ///
    /// # Errors
    /// If nothing can be left there.
    fn relieve(&mut self, folder: &Path, until_ns: u64) -> io::Result<Relieved> {
        let _ = (folder, until_ns);
        Err(io::Error::other("ports are polled here, by the agent itself"))
    }
}

/// The guard of ports, in the kernel: in the agent's own network namespace, whoever was not let in to a guarded port can't
/// bind it (`EPERM`).
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has guards"))]
pub(crate) trait Guard: Send {
    /// Guards the port: these can bind it, and nobody else. If they are none, the port is open.
    ///
    /// # Errors
    /// What the kernel said; if there is no more room, `E2BIG`.
    fn set(&mut self, port: Port, whom: &[Admitted]) -> io::Result<()>;

    /// By what the kernel knows a program's file.
    ///
    /// # Errors
    /// If it does not tell.
    fn number(&self, program: &File) -> io::Result<ProgramNumber>;

    /// Says that the agent lives. A guard that was not told so for ten seconds lets everybody in.
    fn beat(&mut self);

    /// Lets a process in to all ports, with those that it starts, until `false` is said.
    ///
    /// # Errors
    /// What the kernel said.
    fn override_for(&mut self, pid: u32, is_let_in: bool) -> io::Result<()>;
}

/// Whom a guard lets in: a user, whoever runs a program, or the user who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The real user id.
    pub(crate) user: Option<u32>,
    pub(crate) program: Option<ProgramNumber>,
}

/// A program's file, as the kernel numbers it. What stat(2) says can be other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has guards"))]
pub(crate) struct ProgramNumber {
    pub(crate) device: u32,
    pub(crate) inode: u64,
}

/// What an agent has taken over.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux lets kernel programs go on"))]
pub(crate) struct Relieved {
    /// The number of its own ring of events, which is left for the next. No other map has it until the next boot.
    pub(crate) ring: u32,
    /// What was left for it.
    pub(crate) left: Option<Left>,
}

/// What happened between two agents.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux lets kernel programs go on"))]
pub(crate) struct Left {
    /// The number of the ring that it was in.
    pub(crate) ring: u32,
    /// Binds, listens and releases, in the order in which they happened.
    pub(crate) events: Vec<Event>,
    /// Whether there was room for all of them.
    pub(crate) is_whole: bool,
}

/// Why observing failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The backend is unavailable: privileges or kernel features are missing.
    #[error("{what}: {why}; {mend}")]
    Unavailable {
        /// What is unavailable.
        what: String,
        /// Why.
        why: String,
        /// How to fix it.
        mend: String,
    },
    /// Reading the sockets or their holders failed.
    #[error("reading the sockets of port {port} failed: {why}")]
    Snapshot {
        /// The port.
        port: Port,
        /// What the system said.
        why: String,
    },
    /// The stream of events broke.
    #[error("the stream of kernel events broke: {0}")]
    Stream(#[from] io::Error),
}

/// Why connections in TIME_WAIT can't be dropped on a system that has no way to.
pub(crate) fn cannot_drop_time_wait() -> ObserveError {
    ObserveError::Unavailable {
        what: "dropping connections in TIME_WAIT".to_owned(),
        why: "it needs Linux".to_owned(),
        mend: "leave --drop-time-wait out".to_owned(),
    }
}

/// A hook in the kernel, and its state.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The kernel's name for it.
    pub(crate) name: &'static str,
    /// What it provides.
    pub(crate) gives: &'static str,
    /// Why it is not attached; `None` if it is.
    pub(crate) failure: Option<String>,
}

/// An observer by kernel events, and what is lost where a hook is missing, as sentences.
pub(crate) type ByEvents<O> = Result<(Box<O>, Vec<String>), ObserveError>;

/// How often ports are polled by default. Also, with every backend, the longest pause between two looks at a port that
/// no process seems to hold.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

// ---------------------------------------------------------------------------------------------------------------
// Processes and binds

/// Processes and binds of the running system, in one network namespace.
pub(crate) trait System: Send + Sync {
    /// Reads all that can be known about a process.
    ///
    /// # Errors
    /// [`ProcessError`] if it has ended, or not even its start time can be read.
    fn process(&self, pid: u32) -> Result<Process, ProcessError>;

    /// The process's short name, if `comm` is that of another of its threads, which acted so long ago: the kernel names the
    /// thread that acts.
    fn name_beside_thread(&self, pid: u32, comm: &str, ago: Duration) -> Option<String> {
        let _ = (pid, comm, ago);
        None
    }

    /// Adds what the runtime of its container calls the container and its pod, or why that can't be read: for people, so
    /// nothing may be decided by it. It reads files, but none that a user other than root can choose.
    fn name_container(&self, process: &mut Process) {
        let _ = process;
    }

    /// The short name of a process, and its user if known: all that an event tells. `None` if it can't be read.
    fn name(&self, pid: u32) -> Option<(String, Option<u32>)> {
        self.process(pid).ok().map(|process| (process.comm, process.uid))
    }

    /// A number that changes when another process, or another program, has the pid; `None` if that can't be told.
    fn incarnation(&self, pid: u32) -> Option<u64> {
        let _ = pid;
        None
    }

    /// Why no process can be identified here at all; `None` if they can.
    fn blindness(&self) -> Option<&'static str> {
        None
    }

    /// The parent's pid; `None` if no parent is visible.
    fn parent(&self, pid: u32) -> Option<u32>;

    /// Like [`Self::parent`], and tells why there is none.
    fn ancestor(&self, pid: u32) -> Ancestor {
        self.parent(pid).map_or(Ancestor::Top, Ancestor::Parent)
    }

    /// The children that have not ended, as far as they are visible. A process that ends leaves its children to another
    /// one, so they must be asked for before.
    fn children(&self, pid: u32) -> Vec<u32> {
        let _ = pid;
        Vec::new()
    }

    /// The processes of our network namespace whose name contains one of these texts, in whatever case: on Linux the first
    /// argument, elsewhere the short name. With `among`, no others than these are read.
    fn processes_named(&self, texts: &[&str], among: Option<Vec<u32>>) -> Vec<u32> {
        let _ = (texts, among);
        Vec::new()
    }

    /// The process with which this program ends as well: on Linux, PID 1 of its own pid namespace.
    fn own_init(&self) -> Option<u32> {
        None
    }

    /// Opens a handle that always means this very process, even when its pid is reused.
    ///
    /// # Errors
    /// [`SignalError`].
    fn open(&self, pid: u32) -> Result<Box<dyn ProcessHandle>, SignalError>;

    /// Whether the process holds the socket at this moment, by this descriptor or by any other.
    ///
    /// # Errors
    /// If that can't be determined.
    fn holds(&self, descriptor: &Descriptor, socket: &Socket) -> io::Result<bool>;

    /// The file at a path of the host, open without the right to read it.
    ///
    /// # Errors
    /// If it can't be had.
    fn program_at(&self, path: &Path) -> io::Result<File> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// All sockets that are bound to the port and do not listen, with or without a process that can be seen to hold them;
    /// `None` where the system does not list them. To ask can take milliseconds.
    fn bound(&self, port: Port) -> Option<Vec<Socket>> {
        let _ = port;
        None
    }

    /// Whether any process listens in our network namespace; true where that can't be told.
    fn has_listeners(&self) -> bool {
        true
    }

    /// Takes a copy of a process's socket, which stays open here when the process ends: the very socket, or none.
    ///
    /// # Errors
    /// [`KeepError`].
    fn take_over(&self, descriptor: &Descriptor, socket: &Socket) -> Result<Box<dyn KeptSocket>, KeepError> {
        let _ = (descriptor, socket);
        Err(KeepError::Unsupported)
    }

    /// Binds once, and releases the port immediately; never listens.
    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind;
}

/// A file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// How many names it has.
    pub(crate) links: u64,
}

/// Why a process could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(String),
}

/// The next process on the line of a process's ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "these systems hide no parent"))]
pub(crate) enum Ancestor {
    /// Its parent, by its pid.
    Parent(u32),
    /// None: here the line ends. It is PID 1, or its parent lies outside of the pid namespace.
    Top,
    /// The process has ended, so its children have got another parent.
    Gone,
    /// It has one, and the system does not say which.
    Hidden,
}

/// A process that can be ended. Dropping the handle does nothing to the process.
pub(crate) trait ProcessHandle: Send {
    /// Asks the process to end by this signal.
    ///
    /// # Errors
    /// [`SignalError`].
    fn terminate(&self, signal: EndSignal) -> Result<Asked, SignalError>;

    /// Lets a suspended process run on, so that it gets what it was sent (SIGCONT).
    ///
    /// # Errors
    /// [`SignalError`].
    fn resume(&self) -> Result<(), SignalError> {
        Ok(())
    }

    /// Ends the process by force, and says by which method (`SIGKILL`, `terminate`).
    ///
    /// # Errors
    /// [`SignalError`].
    fn force(&self) -> Result<&'static str, SignalError>;

    /// Ready once the process has ended, whether or not its parent has reaped it.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The result of a request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was sent by this method (`SIGTERM`, `close`), and the process must be given time.
    By(&'static str),
    /// No request can reach this process alone, so only force remains.
    Unreachable,
}

/// Why a process could not be signalled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignalError {
    /// It has ended.
    #[error("it has ended")]
    Gone,
    /// This user may not signal it.
    #[error("this user may not signal it")]
    NotPermitted,
    /// Another error of the system.
    #[error(transparent)]
    Other(#[from] io::Error),
}

/// Where to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BindAddress {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The address and port.
    pub(crate) address: SocketAddr,
    /// `IPV6_V6ONLY`; ignored for IPv4.
    pub(crate) v6_only: bool,
}

/// Which socket options to bind with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindAs {
    /// The options that nearly all servers set: `SO_REUSEADDR` on Unix, `SO_EXCLUSIVEADDRUSE` on Windows. None by UDP on
    /// Unix, where few servers set it: with it, UDP sockets share a port, so that the bind would prove nothing.
    Server,
    /// No options.
    Plain,
}

/// The result of a bind.
#[derive(Debug)]
pub(crate) enum Bind {
    /// It succeeded.
    Free {
        /// Whether that proves that no process listens. Linux refuses a bind beside a listener on any address that
        /// includes the bound one; on macOS and Windows a bind to one address succeeds beside a listener on all of them.
        conclusive: bool,
    },
    /// The address is in use.
    Taken,
    /// The bind proves nothing: no permission for this port, or no such address family.
    Untried(io::Error),
}

// ---------------------------------------------------------------------------------------------------------------
// Sockets that are kept

/// A socket of another process, which stays open here when that process ends.
pub(crate) trait KeptSocket: Send + Sync + fmt::Debug {
    /// Whether clients can still reach it: a process that shuts a listener down stops it for all that hold it.
    fn serves(&self) -> bool;

    /// The connections that wait to be accepted; `None` where there is no such queue, or the system does not tell.
    fn queue(&self) -> Option<Queue>;

    /// Lets it listen, also if it was shut down, with room for so many connections, or for as many as the system allows.
    ///
    /// # Errors
    /// If the system refuses.
    fn listen(&self, room: u32) -> io::Result<()>;

    /// What a process does with it.
    fn used_by(&self, pid: u32) -> Use;

    /// Its number here, for [`Platform::hand_on`].
    fn descriptor(&self) -> i32;
}

/// The queue of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) struct Queue {
    /// How many connections wait.
    pub(crate) waiting: u32,
    /// How many may.
    pub(crate) room: u32,
}

/// What a process does with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) enum Use {
    /// It does not hold it.
    Absent,
    /// It holds it, and is not seen to wait for what comes on it.
    Held,
    /// It waits for what comes on it.
    Waited,
    /// It may hold it, or wait for what comes on it, and this is why that can't be told.
    Hidden(&'static str),
}

/// Why a socket could not be kept.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux keeps sockets"))]
pub(crate) enum KeepError {
    /// The system can't copy another process's socket.
    #[error("keeping a socket needs Linux 5.6 (pidfd_getfd): leave --keep-listening out")]
    Unsupported,
    /// This user may not.
    #[error(
        "this user may not copy the socket of process {pid} (pidfd_getfd): that takes root, or CAP_SYS_PTRACE, or a \
         process of the same user that Yama leaves alone"
    )]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// It is another one by now, or gone.
    #[error("process {pid} no longer holds the socket that was seen: try again")]
    Changed {
        /// The process.
        pid: u32,
    },
    /// Another error of the system.
    #[error("the socket of process {pid} can't be copied: {error}")]
    Other {
        /// The process.
        pid: u32,
        /// What the system said.
        error: io::Error,
    },
}

// ---------------------------------------------------------------------------------------------------------------
// Files that a process sees

/// The root folder of a process, beneath which files are found.
pub(crate) trait ProcessRoot: Sized {
    /// What is found.
    type Place: Place;

    /// # Errors
    /// When it can't be opened.
    fn of(process: &Process) -> io::Result<Self>;

    /// Finds a path that has no links in it but perhaps the last part.
    ///
    /// # Errors
    /// When there is no such file, or a link on the way.
    fn find(&self, path: &Path) -> io::Result<Self::Place>;

    /// Who may read a file; `None` where files have no such owners.
    fn permissions(file: &Metadata) -> Option<Permissions>;
}

/// The root folder of a process of the system that this program was built for.
pub(crate) type Root = <Host as Platform>::Root;

/// A file, folder or link that was found, and not opened yet.
pub(crate) trait Place {
    /// # Errors
    /// When the system does not say.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Where a link leads to.
    ///
    /// # Errors
    /// When it is not a link.
    fn target(&self) -> io::Result<PathBuf>;

    /// Opens the very file that was found, and does not wait for it.
    ///
    /// # Errors
    /// When it can't be opened, or another has its name by now.
    fn open(&self) -> io::Result<File>;
}

/// The owner, the group and the permission bits of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permissions {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// The bits, as chmod(2) takes them.
    pub(crate) mode: u32,
}

// ---------------------------------------------------------------------------------------------------------------
// The program's start

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

    /// Who, besides root, can change an open file that root is about to obey; `None` for nobody, and for any other user
    /// than root.
    ///
    /// # Errors
    /// If that can't be read.
    fn who_else_commands_root(file: &File) -> io::Result<Option<String>>;

    /// What tells the file at a path from all others; `None` where that can't be read, or the system does not number files.
    fn file(path: &Path) -> Option<FileId> {
        let _ = path;
        None
    }

    /// Whether this user may execute the file.
    fn is_executable(path: &Path) -> bool;

    /// The words of a script's first line, if that names the interpreter by which the system runs the file.
    fn interpreter(path: &Path) -> Option<Vec<String>>;

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

// ---------------------------------------------------------------------------------------------------------------
// The host agent

/// What the host agent needs of a system: a socket, and its clients' credentials.
pub(crate) trait AgentSystem: Platform {
    /// The agent's listening socket.
    type Listener: Send;
    /// A connection to it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The process at the other end of a connection.
    type Peer: Peer<Self>;

    /// Connects to the agent at the path, for as long as that takes.
    ///
    /// # Errors
    /// If no agent answers there, or one of a user other than root and this one.
    fn connect(path: &Path) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The service manager's socket, or a new one at the path. Every user may connect to it: what a client may do is
    /// decided for each request, by the client's credentials.
    ///
    /// # Errors
    /// If it can't be created, or another agent answers there.
    fn listen(path: &Path) -> io::Result<Self::Listener>;

    /// The next client.
    ///
    /// # Errors
    /// If it can't be accepted, for example because no descriptors are left.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The process at the other end, as the kernel reports it.
    ///
    /// # Errors
    /// If the kernel does not report it.
    fn peer(stream: &Self::Stream) -> io::Result<Self::Peer>;

    /// Raises the limit of descriptors as far as this user may.
    fn raise_limits();

    /// Whether this many descriptors are left besides that of the connection, under the limit as it is at this moment.
    fn has_room_beside(stream: &Self::Stream, left: u32) -> bool;

    /// The numeric id of the user that this program runs as.
    fn own_user() -> u32;

    /// A user's numeric id, by name.
    fn user(name: &str) -> Option<u32>;

    /// A group's numeric id, by name.
    fn group(name: &str) -> Option<u32>;
}

/// What the host agent, as a service, needs of a system that divides root's privileges, or has a service manager that
/// wants to be told. By default neither exists.
pub(crate) trait ServiceSystem {
    /// Gives up the privileges that a running agent does not need. Must be called before another thread exists, because
    /// each thread keeps its own.
    fn keep_needed_privileges() {}

    /// The current privileges, and what each is needed for.
    fn privileges() -> Vec<(String, &'static str)> {
        Vec::new()
    }

    /// Whether programs that this process runs can't gain privileges.
    fn no_new_privileges() -> bool {
        false
    }

    /// Reports a state to the service manager.
    fn notify(state: ServiceState<'_>) {
        let _ = state;
    }

    /// What writes to the host's journal, with each field; `None` if standard error does not lead there.
    fn journal() -> Option<BoxedLayer> {
        None
    }

    /// What this process uses; `None` where that can't be told.
    fn own_resources() -> Option<Resources> {
        None
    }

    /// How often the service manager expects [`ServiceState::Alive`]; `None` if it does not.
    fn alive_every() -> Option<Duration> {
        None
    }
}

/// Where the agent's history lies on disk. By default there is none.
pub(crate) trait HistorySystem {
    /// Opens the history for the one agent that writes it, and creates it if need be. All that happens from `begun` on will
    /// be written.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn write_history(path: &Path, begun: SystemTime) -> Result<Box<dyn HistoryWriter>, HistoryError> {
        let _ = (path, begun);
        Err(HistoryError::Unsupported)
    }

    /// Opens the history for reading, which disturbs nobody.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn read_history(path: &Path) -> Result<Box<dyn HistoryReader>, HistoryError> {
        let _ = path;
        Err(HistoryError::Unsupported)
    }
}

/// Why the history can't be written or read.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) enum HistoryError {
    /// This system has none.
    #[error("a history is kept on Linux only")]
    Unsupported,
    /// The disk, or the quota, is full.
    #[error("the disk is full")]
    Full,
    /// Another agent writes it.
    #[error("another agent writes it")]
    Taken,
    /// The file is not a history, or is damaged.
    #[error("the file is damaged, or is not a history: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What the history says of the agent that wrote it last.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct LastRun {
    /// When it was last known to run.
    pub(crate) alive: SystemTime,
    /// Whether it ended because it was told to.
    pub(crate) orderly: bool,
    /// Whether the host has not been started anew since.
    pub(crate) same_boot: bool,
    /// The number of the ring that it left its events in.
    pub(crate) ring: Option<u32>,
}

/// Records to be written together, and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The records, in order; for one that ends a socket, the number of the record of its beginning.
    pub(crate) records: Vec<(Record, Option<u64>)>,
    /// The numbers of the records that began a socket which is open now, and whether it listens.
    pub(crate) opened: Vec<(u64, bool)>,
    /// Those of sockets that are open no more.
    pub(crate) closed: Vec<u64>,
}

/// Writes the history.
pub(crate) trait HistoryWriter: Send {
    /// The agent that wrote before; `None` if there was none.
    fn last_run(&self) -> Option<LastRun>;

    /// The number of the next record.
    fn next_number(&self) -> u64;

    /// The sockets that were open when it was last written. Can be asked for once.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn open_sockets(&mut self) -> Result<Vec<OpenSocket>, HistoryError>;

    /// Writes all of the batch, or nothing.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn append(&mut self, batch: &Batch) -> Result<(), HistoryError>;

    /// Deletes some of what is older than `keep`, or too much for `max_size` bytes; whether more is left to delete.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn trim(&mut self, keep: Duration, max_size: u64) -> Result<bool, HistoryError>;

    /// Notes how far the records were exported.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn note_exported(&mut self, exported: Exported) -> Result<(), HistoryError>;

    /// Notes that the agent runs.
    fn note_alive(&mut self);

    /// Notes that the agent ends because it was told to.
    fn note_end(&mut self);

    /// Notes in which ring the agent leaves its events, for the next.
    fn note_ring(&mut self, ring: Option<u32>);
}

/// How far the records were exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Exported {
    /// All up to this number were sent, or were dropped.
    pub(crate) through: u64,
    /// Of the records up to this number, those that are missing were missing before the export was begun.
    pub(crate) origin: u64,
}

/// The numbers of the history's records.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct Numbers {
    /// The newest record's, whether or not that was deleted since; 0 if there was none.
    pub(crate) last: u64,
    /// Of the records up to this number, those of sockets that are open alone are there: the others were deleted.
    pub(crate) trimmed: u64,
    /// How far they were exported; `None` if the export was never begun.
    pub(crate) exported: Option<Exported>,
}

/// How far the history reaches.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct Reach {
    /// Of what came before, nothing or not all is kept.
    pub(crate) since: SystemTime,
    /// When an agent was last known to write it.
    pub(crate) alive: SystemTime,
    /// Whether that agent ended because it was told to.
    pub(crate) orderly: bool,
}

impl Reach {
    /// Why nothing is known of the time up to this moment; `None` if an agent may well be writing.
    pub(crate) fn silent(&self, until: SystemTime) -> Option<GapReason> {
        // Longer than it takes an agent to note that it runs.
        const SILENCE: Duration = Duration::from_secs(15);
        let silence = until.duration_since(self.alive).ok()?;
        if self.orderly {
            return Some(GapReason::Stopped);
        }
        (silence > SILENCE).then_some(GapReason::Killed)
    }
}

/// Reads the history.
pub(crate) trait HistoryReader: Send {
    /// How far it reaches.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn reach(&mut self) -> Result<Reach, HistoryError>;

    /// The records of the beginnings of the sockets that held a port when the span began.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn held(&mut self, span: &Span) -> Result<Vec<Record>, HistoryError>;

    /// The next records of the span after this number, at most so many.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn page(&mut self, span: &Span, after: u64, most: usize) -> Result<Vec<Record>, HistoryError>;

    /// The numbers of its records.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn numbers(&mut self) -> Result<Numbers, HistoryError>;

    /// The next records after this number, whatever they concern, at most so many.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn after(&mut self, number: u64, most: usize) -> Result<Vec<Record>, HistoryError>;
}

// ---------------------------------------------------------------------------------------------------------------
// The export

/// The way of the history's records to a server elsewhere.
pub(crate) trait ExportSystem {
    /// A connection to the server.
    type Exporter: Exporter;

    /// This host's name.
    fn host_name() -> String;

    /// Whether records can be exported so, as far as that can be told without a server.
    ///
    /// # Errors
    /// Why not, as a sentence.
    fn check_export(config: &NatsConfig) -> Result<(), String>;

    /// Connects to the server.
    ///
    /// # Errors
    /// Why that can't be done, as a sentence.
    fn connect_export(config: &NatsConfig) -> impl Future<Output = Result<Self::Exporter, String>>;
}

/// A record on its way.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux exports"))]
pub(crate) struct Outgoing {
    /// Its number.
    pub(crate) number: u64,
    /// What the server files it under.
    pub(crate) subject: String,
    /// By what the server knows a repeat.
    pub(crate) id: String,
    /// The record itself.
    pub(crate) payload: String,
}

/// What became of records that were to be exported.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// So many, from the first on, are done with.
    pub(crate) done: usize,
    /// So many of these the server had already.
    pub(crate) repeats: u64,
    /// So many of these the server refuses, and always will.
    pub(crate) refused: u64,
    /// Why the others are not done with, if there are any.
    pub(crate) failure: Option<String>,
}

/// A connection to the server that takes the records.
pub(crate) trait Exporter {
    /// Sends the records in order, and waits until the server has confirmed that it keeps them.
    fn deliver(&self, records: &[Outgoing]) -> impl Future<Output = Delivery>;

    /// Ready once the connection is lost, with why.
    fn lost(&self) -> impl Future<Output = String>;
}

/// A part of the log that may be one of several.
pub(crate) type BoxedLayer = Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>;

/// What a process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resources {
    /// Processor time.
    pub(crate) cpu: Duration,
    /// When it was started, in seconds since 1970.
    pub(crate) started: f64,
    /// Resident and virtual memory, in bytes.
    pub(crate) resident: f64,
    pub(crate) virtual_memory: f64,
    /// Open descriptors, and their limit.
    pub(crate) descriptors: f64,
    pub(crate) most_descriptors: f64,
}

/// Who a client of the agent was when it connected.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// Its process; 0 if that is not visible from here.
    pub(crate) pid: u32,
    /// Its user.
    pub(crate) uid: u32,
    /// Its groups, including the supplementary ones.
    pub(crate) groups: Vec<u32>,
}

/// A client of the agent.
pub(crate) trait Peer<H>: Send + Sync + 'static {
    /// Who it was when it connected.
    fn credentials(&self) -> &Credentials;

    /// Its process; 0 if that is not visible from here.
    fn pid(&self) -> u32 {
        self.credentials().pid
    }

    /// Its user.
    fn uid(&self) -> u32 {
        self.credentials().uid
    }

    /// Its groups, including the supplementary ones.
    fn groups(&self) -> &[u32] {
        &self.credentials().groups
    }

    /// Whether the process still runs, so that its pid still belongs to it.
    fn is_running(&self) -> bool;

    /// The system as the client sees it: in its network namespace.
    ///
    /// # Errors
    /// [`NetnsError`] if that can't be entered.
    fn host(&self) -> Result<H, NetnsError>;

    /// Whether it is in our pid namespace, so that pids mean the same to it as to us.
    fn shares_pids(&self) -> bool;
}

/// A state to report to the service manager.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no service manager exists to report to"))]
pub(crate) enum ServiceState<'a> {
    /// Requests are answered from now on; with a status line for people.
    Ready(&'a str),
    /// The configuration is being reloaded, until `Ready`.
    Reloading,
    /// The agent is alive.
    Alive,
    /// The agent is shutting down.
    Stopping,
}
