//! What the host agent needs: a socket and its clients' credentials, a service manager.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::start::{NetnsError, Platform};

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

    /// The user who made the other end of a TCP connection, if that is on this host and still open: `there` is its address,
    /// `here` that of our end.
    fn user_at(here: SocketAddr, there: SocketAddr) -> Option<u32> {
        let _ = (here, there);
        None
    }

    /// How often the service manager expects [`ServiceState::Alive`]; `None` if it does not.
    fn alive_every() -> Option<Duration> {
        None
    }
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

    /// Whether the process is known to have ended. One whose pid can't be seen from here can be neither this nor
    /// [`running`](Self::is_running).
    fn has_ended(&self) -> bool;

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
