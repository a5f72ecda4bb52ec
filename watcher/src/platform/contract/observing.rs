//! Observing: sockets of ports, and what happens to them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::model::{Backend, Event, Observation, Port, Socket};

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

    /// Like [`Self::look`], at this network namespace alone: where there is more than can be kept account of, all that is kept
    /// is of this one. Others than the observer's own are seen by descriptors alone, and only by kernel events.
    ///
    /// # Errors
    /// As there.
    fn look_in(&mut self, ports: &[Port], netns: u32) -> Result<Vec<Socket>, ObserveError> {
        self.look(ports).map(|sockets| in_namespace(sockets, netns))
    }

    /// The network namespace that it observes from, if it sees others.
    fn home(&self) -> Option<u32> {
        None
    }

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

    /// How long connections in TIME_WAIT linger on the port; none where there are none, or the system does not say. Those of a
    /// server that did not set `SO_REUSEADDR` keep even binds with it out, with no process anywhere.
    ///
    /// # Errors
    /// As for [`Observer::snapshot`].
    fn time_wait(&mut self, port: Port) -> Result<TimeWaits, ObserveError> {
        let _ = port;
        Ok(TimeWaits::new())
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

    /// If a plain bind fails: could an invisible socket be the reason? The socket tables of some kernels leave
    /// out sockets that are bound and do not listen. Connections that linger explain such a failure as well; where
    /// there are none, another process has the port.
    ///
    /// # Errors
    /// As for [`Observer::snapshot`].
    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError>;

    /// Has the next [`Self::poll_next`] tell all that has happened until then, also where it waits for a time to look.
    fn look_at_once(&mut self) {}

    /// Whether no socket at all has the port, in our network namespace; false also where that can't be told at once.
    fn nobody_has(&mut self, port: Port) -> bool {
        let _ = port;
        false
    }
}

/// The local addresses of connections in TIME_WAIT, and how long the last one of each lingers.
pub(crate) type TimeWaits = BTreeMap<IpAddr, Duration>;

/// Those of the sockets that are, or may be, in this network namespace.
pub(crate) fn in_namespace(mut sockets: Vec<Socket>, netns: u32) -> Vec<Socket> {
    sockets.retain(|socket| socket.netns.is_none_or(|other| other == netns));
    sockets
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

    /// Whether events were lost since this was last asked, of which [`Observer::poll_next`] may not have told yet: it tells once
    /// it has caught up, and where others make events without end it never does.
    ///
    /// # Errors
    /// When that can't be read.
    fn has_lost(&mut self) -> Result<bool, ObserveError> {
        Ok(false)
    }

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
