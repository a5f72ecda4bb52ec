//! The choice between kernel events and polling.

use super::Host;
use super::contract::{ByEvents, ObserveError, Observer, Platform};

/// How to observe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendChoice {
    /// By kernel events, or else by polling.
    Auto,
    /// By kernel events only.
    Ebpf,
    /// By polling.
    Poll,
}

/// An observer, and what it can't observe.
pub(crate) struct Chosen<O: ?Sized> {
    pub(crate) observer: Box<O>,
    /// What is lost because hooks are missing, or by polling, as sentences.
    pub(crate) losses: Vec<String>,
    /// Why ports are polled although kernel events were wanted.
    pub(crate) fallback: Option<ObserveError>,
}

/// Chooses how to observe: by kernel events, or by polling if they are unavailable. This is the only place that falls
/// back.
///
/// # Errors
/// If the chosen backend can't observe. With [`BackendChoice::Auto`], a backend that is merely unavailable is not an error.
pub(crate) fn choose<O: Observer + ?Sized>(
    choice: BackendChoice,
    by_events: impl FnOnce() -> ByEvents<O>,
    by_polling: impl FnOnce() -> Box<O>,
) -> Result<Chosen<O>, ObserveError> {
    // On systems without kernel events, polling is the only way, so no fallback is reported.
    let events = match choice {
        BackendChoice::Ebpf => true,
        BackendChoice::Auto => Host::HAS_EVENTS,
        BackendChoice::Poll => false,
    };
    let mut fallback = None;
    if events {
        match by_events() {
            Ok((observer, losses)) => return Ok(Chosen { observer, losses, fallback }),
            Err(error @ ObserveError::Unavailable { .. }) if choice == BackendChoice::Auto => {
                fallback = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Chosen { observer: by_polling(), losses: Vec::new(), fallback })
}
