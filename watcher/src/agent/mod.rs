//! The host agent: one privileged process that knows at every moment who owns the watched ports, and acts for callers
//! that are not privileged themselves.
//!
//! [`state`] is what it knows: the watch, the recent past, the configuration. [`api`] answers requests about it,
//! [`serve`] accepts the connections, [`access`] and [`limits`] decide who may do what, and how often. [`client`] is
//! the other end: how a command asks an agent.

mod access;
mod api;
mod body;
mod cleans;
pub(crate) mod client;
mod described;
mod events;
mod export;
mod exposition;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) mod fuzzing;
mod guard;
mod history;
mod limits;
mod makers;
mod metrics;
mod off_loop;
mod past;
mod query;
mod refusals;
mod reserve;
mod scrape;
mod serve;
mod settings;
mod sockets;
mod state;
mod store;
mod told;
mod troubles;
mod view;
mod waits;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use self::settings::Settings;
use self::state::{Agent, Paths};
use crate::config::{Config, ConfigError};
use crate::platform::Host;
use crate::platform::contract::ServiceSystem as _;
use crate::platform::contract::{AgentSystem, ObserveError, Platform, ServiceState, Signal, Signals as _};
use crate::watch::LOOKS_SHARE;

/// The environment variable that names the agent's socket.
pub(crate) const SOCKET_VARIABLE: &str = "GATEWATCH_SOCKET";

/// How often the remembered sockets are compared with the kernel, because no event reports a descriptor that was
/// inherited or passed to another process. More seldom where that takes long.
const RESYNC: Duration = Duration::from_secs(30);
/// No look takes as long as this.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Why the agent ended, or could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
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

/// Agent socket: flag, then environment, then configuration, then default.
#[must_use]
pub(crate) fn socket_path(given: Option<&Path>, config: &Config) -> PathBuf {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    given
        .map(Path::to_owned)
        .or_else(variable)
        .or_else(|| config.agent.socket.clone())
        .unwrap_or_else(|| Host::AGENT_SOCKET.into())
}

/// Checks that the agent could run with this configuration: its users and groups exist on this host.
///
/// # Errors
/// [`ConfigError`].
pub(crate) fn check(config: Config) -> Result<(), ConfigError> {
    Settings::new(config).map(drop)
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`].
pub(crate) async fn run(
    config_path: Option<&Path>,
    socket: Option<&Path>,
    pace: Duration,
) -> Result<(), AgentError> {
    Host::raise_limits();
    let config = Config::load(config_path)?;
    let path = socket_path(socket, &config);
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let paths = Paths { socket: path.clone(), config: config_path.map(Path::to_owned) };
    let agent = Arc::new(Agent::new(Settings::new(config)?, paths, pace)?);
    let failed = |error| AgentError::Socket { path: path.clone(), error };
    let listener = Host::listen(&path).map_err(failed)?;
    Host::keep_needed_privileges();
    let signals = <Host as Platform>::Signals::new().map_err(AgentError::Signals)?;
    info!(socket = %path.display(), "listening");
    agent.begin_guards();
    agent.begin_store();
    agent.begin_export();
    let ended = serve(&agent, listener, signals).await;
    if let Some(export) = agent.export() {
        if let Some(store) = agent.store() {
            store.catch_up().await;
        }
        export.end();
    }
    if let Some(store) = agent.store() {
        store.end();
    }
    ended
}

async fn serve(
    agent: &Arc<Agent>,
    listener: <Host as AgentSystem>::Listener,
    mut signals: <Host as Platform>::Signals,
) -> Result<(), AgentError> {
    Host::notify(ServiceState::Ready(&agent.status_line()));
    info!("{}", agent.status_line());

    let mut resync = interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking = Looking::new();
    let mut reload = false;
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = Host::alive_every().map(interval);
    let mut connections = serve::Connections::new(Arc::clone(agent), listener);
    let mut scrapes = scrape::Scrapes::new(Arc::clone(agent));
    loop {
        let (is_free, may_look) = (looking.task.is_empty(), looking.is_rested());
        tokio::select! {
            error = std::future::poll_fn(|cx| agent.poll_events(cx)) => return Err(error.into()),
            () = connections.next() => {}
            () = scrapes.next() => {}
            () = sleep_until(looking.rests_until.into()), if is_free && !may_look => {}
            _ = resync.tick(), if may_look => looking.begin(agent, Agent::resync),
            () = agent.look_is_due(), if may_look => looking.begin(agent, Agent::look_again),
            // It looks at the ports that are new, so it takes its turn among the looks; but somebody waits for it.
            () = std::future::ready(()), if reload && is_free => {
                reload = false;
                looking.begin(agent, Agent::reload);
            }
            Some(_) = looking.task.join_next() => {
                looking.ended();
                scrapes.follow_configuration();
            }
            _ = seconds.tick() => {
                agent.each_second();
                scrapes.follow_configuration();
            }
            () = tick(alive.as_mut()) => {
                // An agent whose look never returns tells nothing: the service manager starts another one.
                if looking.task.is_empty() || looking.since.elapsed() < LONGEST_LOOK {
                    Host::notify(ServiceState::Alive);
                }
            }
            signal = signals.next() => match signal {
                Signal::Reload => {
                    Host::notify(ServiceState::Reloading);
                    reload = true;
                }
                Signal::End => break,
            },
        }
    }
    Host::notify(ServiceState::Stopping);
    info!("ending");
    agent.end();
    let events = std::future::poll_fn(|cx| agent.poll_events(cx));
    tokio::select! {
        () = connections.finish() => {}
        error = events => return Err(error.into()),
    }
    agent.drain_events();
    Ok(())
}

/// The look that is under way on another thread, if there is one: where others have opened a great many descriptors it takes
/// long.
struct Looking {
    task: JoinSet<()>,
    since: Instant,
    /// Until then no look is begun by itself. Both the clock and lost events ask for looks, and where events are lost during the
    /// clock's it is two looks in one: if each kept its own pace alone, together they would take several times the share of one.
    rests_until: Instant,
}

impl Looking {
    fn new() -> Self {
        let now = Instant::now();
        Self { task: JoinSet::new(), since: now, rests_until: now }
    }

    fn is_rested(&self) -> bool {
        self.task.is_empty() && self.rests_until <= Instant::now()
    }

    fn begin(&mut self, agent: &Arc<Agent>, look: impl FnOnce(&Agent) + Send + 'static) {
        let agent = Arc::clone(agent);
        self.since = Instant::now();
        self.task.spawn_blocking(move || look(&agent));
    }

    fn ended(&mut self) {
        self.rests_until = Instant::now() + self.since.elapsed() * LOOKS_SHARE;
    }
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_any_look_none_begins_by_itself_for_eight_times_as_long() {
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_secs(1)).unwrap();
        let mut looking = Looking { since, ..Looking::new() };
        assert!(looking.is_rested());
        looking.ended();
        assert!(!looking.is_rested());
        assert!(looking.rests_until >= now + Duration::from_secs(8));
        looking.rests_until = Instant::now();
        assert!(looking.is_rested());
    }
}
