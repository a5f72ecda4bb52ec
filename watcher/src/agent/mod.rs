//! The host agent: one privileged process that knows at every moment who owns the watched ports, and acts for callers
//! that are not privileged themselves.
//!
//! [`Agent`] is what it knows: the watch, the recent past, the configuration. [`api`] answers requests about it,
//! [`serve`] takes the connections, [`access`] and [`limits`] say who may do what and how much of it.

mod access;
mod api;
pub mod client;
mod events;
mod history;
mod limits;
mod metrics;
mod openapi;
mod problem;
mod query;
mod serve;
mod view;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use self::access::Access;
use self::history::History;
use self::limits::{Buckets, CLEANS, READS, Room};
use self::metrics::Metrics;
use crate::config::{Config, ConfigError};
use crate::exclude::Exclusions;
use crate::observe::{Backend, ObserveError, Observer, Socket};
use crate::platform::host::{self, Host, privileges, service};
use crate::port;
use crate::system::System;
use crate::watch::Watch;

pub use openapi::document as openapi_document;
pub use problem::Problem;
pub use query::CleanRequest;

/// How often what is remembered is compared with the kernel, for what no event tells: a descriptor that was inherited
/// or passed on.
const RESYNC: Duration = Duration::from_secs(30);

/// Why the agent ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Ports can't be observed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// Its socket can't be made.
    #[error("the agent's socket {path}: {error}", path = path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Signals can't be received.
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
}

/// What the configuration says, looked up.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) access: Access,
}

impl Settings {
    fn new(mut config: Config) -> Result<Self, ConfigError> {
        if config.watch.is_empty() {
            config.watch.push(crate::config::WatchedPort::by_default(port::DEFAULT));
        }
        let access = Access::new(&config)?;
        Ok(Self { config, access })
    }

    fn ports(&self) -> Vec<u16> {
        self.config.watch.iter().map(|watched| watched.port).collect()
    }
}

/// Whose turn it is to clean.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The agent.
pub(crate) struct Agent {
    host: Host,
    settings: Mutex<Arc<Settings>>,
    watch: Mutex<Watch<Host>>,
    history: History,
    /// The task that waits for events.
    waiting: Mutex<Waker>,
    /// The agent and its ancestors. Those can only become fewer.
    exclusions: Exclusions,
    /// Why the backend is less than it could be.
    losses: Vec<String>,
    backend: Backend,
    metrics: Metrics,
    reads: Buckets,
    cleans: Buckets,
    room: Room,
    /// One clean at a time on each port of each namespace: the second then finds what the first has left.
    cleaning: Mutex<HashMap<(u32, u16), Turn>>,
    ending: Notify,
    is_ending: AtomicBool,
    started: Instant,
}

impl Agent {
    fn new(settings: Settings, pace: Duration) -> Result<Self, AgentError> {
        let host = Host::new(None).map_err(|error| ObserveError::Unavailable {
            what: "the network namespace".to_owned(),
            why: error.to_string(),
            mend: "mount /proc".to_owned(),
        })?;
        let ports = settings.ports();
        let (observer, losses) = observer(&host, &ports, pace);
        for loss in &losses {
            warn!("{loss}");
        }
        let backend = observer.backend();
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            watch: Mutex::new(Watch::begin(host.clone(), observer, &ports)?.without_beginning()),
            settings: Mutex::new(Arc::new(settings)),
            history: History::new(u64::try_from(run.as_micros()).unwrap_or(0)),
            waiting: Mutex::new(Waker::noop().clone()),
            exclusions: Exclusions::new(&host, std::process::id(), &[], false),
            losses,
            backend,
            metrics: Metrics::default(),
            reads: Buckets::new(READS),
            cleans: Buckets::new(CLEANS),
            room: Room::new(),
            cleaning: Mutex::default(),
            ending: Notify::new(),
            is_ending: AtomicBool::new(false),
            started: Instant::now(),
            host,
        })
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn watch(&self) -> MutexGuard<'_, Watch<Host>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the events that have arrived; pending until there are more, or an error that ends all.
    fn poll_events(&self, cx: &mut Context<'_>) -> Poll<ObserveError> {
        cx.waker().clone_into(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.poll_lines(cx)
    }

    fn poll_lines(&self, cx: &mut Context<'_>) -> Poll<ObserveError> {
        let mut watch = self.watch();
        loop {
            match watch.poll_next(cx) {
                Poll::Ready(Ok(line)) => {
                    self.metrics.count(&line);
                    self.history.push(line);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes in the events that have arrived, without waiting for more. The task that does wait stays the one that is
    /// woken: a descriptor remembers only the last one that asked.
    fn take_in_events(&self) {
        let _ = self.poll_lines(&mut Context::from_waker(&self.waiting()));
    }

    fn waiting(&self) -> Waker {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the kernel for what no event tells, and takes in what has happened by then.
    fn refresh(&self) -> Result<(), ObserveError> {
        self.metrics.refreshed();
        let waiting = self.waiting();
        let refreshed = self.watch().refresh(&mut Context::from_waker(&waiting));
        self.take_in_events();
        refreshed
    }

    /// The sockets that own a port, from memory. Where what is remembered turns out to be out of date, since a holder
    /// has gone or no longer holds, the kernel is asked.
    fn sockets(&self, port: u16) -> Result<Vec<Socket>, ObserveError> {
        self.take_in_events();
        let sound = self.watch().sockets(port).all(|socket| {
            !socket.holders.is_empty()
                && socket.holders.iter().all(|holder| self.host.holds(holder, socket).unwrap_or(false))
        });
        if !sound {
            self.refresh()?;
        }
        Ok(self.watch().sockets(port).cloned().collect())
    }

    /// The lock of a port that is being cleaned.
    fn turn(&self, netns: u32, port: u16) -> Turn {
        let mut cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        cleaning.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(cleaning.entry((netns, port)).or_default())
    }

    /// Event streams end, and connections once their requests are answered.
    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.history.wake();
        self.ending.notify_waiters();
    }

    fn resync(&self) {
        if let Err(error) = self.refresh() {
            warn!(%error, "the sockets can't be read again");
        }
    }

    fn reload(&self, path: Option<&Path>) {
        service::reloading();
        let loaded = Config::load(path).and_then(Settings::new);
        match loaded {
            Ok(settings) => {
                let ports = settings.ports();
                let waiting = self.waiting();
                if let Err(error) = self.watch().set_ports(&ports, &mut Context::from_waker(&waiting)) {
                    warn!(%error, "the new configuration's ports can't be watched");
                }
                *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
                info!(?ports, "the configuration was read again");
            }
            Err(error) => warn!(%error, "the configuration was not read again: the old one goes on"),
        }
        service::ready(&self.status_line());
    }

    fn status_line(&self) -> String {
        let ports: Vec<String> = self.settings().ports().iter().map(ToString::to_string).collect();
        format!("watching {} by {}", ports.join(", "), self.backend.name())
    }
}

/// By kernel events in all network namespaces, else by polling in this one; and what is lost that way.
fn observer(host: &Host, ports: &[u16], pace: Duration) -> (Box<dyn Observer>, Vec<String>) {
    match host.by_events_everywhere(ports) {
        Ok(seen) => seen,
        Err(error) => {
            (host.by_polling(ports, pace), vec![format!("{error}; ports are polled every {pace:?}")])
        }
    }
}

/// Where the agent's socket is: what was said, the environment's, the configuration's, the default.
#[must_use]
pub fn socket_path(given: Option<&Path>, config: &Config) -> PathBuf {
    let variable = || std::env::var_os("GATEWATCH_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
    given
        .map(Path::to_owned)
        .or_else(variable)
        .or_else(|| config.agent.socket.clone())
        .unwrap_or_else(|| host::AGENT_SOCKET.into())
}

/// Whether the agent could run with this configuration: its users and groups are known here.
///
/// # Errors
/// [`ConfigError`].
pub fn check(config: Config) -> Result<(), ConfigError> {
    Settings::new(config).map(drop)
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`].
pub async fn run(
    config_path: Option<&Path>,
    socket: Option<&Path>,
    pace: Duration,
) -> Result<(), AgentError> {
    let config = Config::load(config_path)?;
    let path = socket_path(socket, &config);
    let agent = Arc::new(Agent::new(Settings::new(config)?, pace)?);
    let failed = |error| AgentError::Socket { path: path.clone(), error };
    let listener = host::socket::listen(&path).map_err(failed)?;
    // Before there is another thread: each would keep its own.
    privileges::keep_needed();
    let mut signals = host::signals::Signals::new().map_err(AgentError::Signals)?;
    service::ready(&agent.status_line());
    info!(socket = %path.display(), "{}", agent.status_line());

    let mut resync = interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = service::alive_every().map(interval);
    let mut connections = serve::Connections::new(Arc::clone(&agent), listener);
    loop {
        tokio::select! {
            error = std::future::poll_fn(|cx| agent.poll_events(cx)) => return Err(error.into()),
            () = connections.next() => {}
            _ = resync.tick() => agent.resync(),
            () = tick(alive.as_mut()) => service::alive(),
            signal = signals.next() => match signal {
                host::signals::Signal::Reload => agent.reload(config_path),
                host::signals::Signal::End => break,
            },
        }
    }
    service::stopping();
    info!("ending");
    agent.end();
    let events = std::future::poll_fn(|cx| agent.poll_events(cx));
    tokio::select! {
        () = connections.finish() => {}
        error = events => return Err(error.into()),
    }
    Ok(())
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
