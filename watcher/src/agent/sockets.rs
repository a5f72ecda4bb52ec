//! All that holds a port: what `gatewatch list` prints, for callers who see no more than their own processes.

use crate::config::ConfigError;
use crate::model::{Backend, Port, Protocol};
use crate::platform::Host;
use crate::platform::contract::{
    BackendChoice, Interest, ObserveError, Observer, POLL_INTERVAL, Platform as _, choose,
};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::steps::owner::Owners;
use crate::wire::answers::OwnersAnswer;
use crate::wire::line;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketsError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the list can't be written: {0}")]
    Line(#[from] serde_json::Error),
}

/// One line a port that is held, by one look at all of them.
///
/// # Errors
/// [`SocketsError`].
pub(super) fn lines(
    host: &Host,
    exclusions: &Exclusions,
    rules_of: impl Fn(Port) -> Result<Rules, ConfigError>,
) -> Result<String, SocketsError> {
    let ports: Vec<Port> = Port::every().collect();
    let by_events = || host.by_events(&ports, Interest::Snapshots);
    let by_polling = || -> Box<dyn Observer> { host.by_polling(&ports, POLL_INTERVAL) };
    let mut observer = choose(BackendChoice::Auto, by_events, by_polling)?.observer;
    let rules_of = |port| rules_of(port).map_err(SocketsError::from);
    let held = Owners::of_all(host, observer.as_mut(), &Protocol::ALL, rules_of, exclusions)?.into_iter();
    let told = held.map(|owners| Owners { backend: Backend::Agent, ..owners });
    Ok(told.map(|owners| line(&OwnersAnswer::from(&owners))).collect::<Result<_, _>>()?)
}
