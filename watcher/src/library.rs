//! The jobs as a library: with the defaults of the command line, in the caller's own network namespace.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::clean::{self, Cleaned, Request};
use crate::model::{Port, WatchEvent};
use crate::platform::Host;
use crate::platform::contract::{
    BackendChoice, Interest, ObserveError, Observer, POLL_INTERVAL, Platform, choose,
};
use crate::steps::end::Timeouts;
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::watch::Watch;

/// How to clean.
#[derive(Debug, Clone, Default)]
pub struct CleanOptions {
    /// The longest waits; `None` for those of the rules.
    pub timeouts: Option<Timeouts>,
    /// Pids of processes that are never ended, nor are their ancestors. The calling process and its ancestors never are.
    pub protect: Vec<u32>,
    /// Report what would be ended, without signalling any process.
    pub dry_run: bool,
}

/// Ends the stale owners of a port, and returns once the port can be bound, or once it is certain that it can't.
///
/// # Errors
/// [`ObserveError`] when the port can't be observed. A port that could not be freed is not an error but an
/// [`Outcome`](crate::Outcome).
pub async fn clean(port: Port, rules: Rules, options: &CleanOptions) -> Result<Cleaned, ObserveError> {
    let host = host()?;
    let exclusions = Exclusions::new(&host, std::process::id(), &options.protect, false);
    let mut request = Request { dry_run: options.dry_run, ..Request::new(port, rules, exclusions) };
    if let Some(timeouts) = options.timeouts {
        request.ending.timeouts = timeouts;
    }
    let mut observer = observer(&host, &[port], Interest::ReleasesLater)?;
    clean::clean(&host, observer.as_mut(), &request).await
}

/// Follows what happens to the ports, beginning with who holds them.
///
/// # Errors
/// [`ObserveError`] when the ports can't be observed.
pub fn events(ports: &[Port]) -> Result<Events, ObserveError> {
    let host = host()?;
    let observer = observer(&host, ports, Interest::Everything)?;
    Ok(Events(Some(Watch::begin(Arc::new(host), observer, ports)?)))
}

/// A stream of what happens to ports. It ends after an error.
pub struct Events(Option<Watch>);

impl Stream for Events {
    type Item = Result<WatchEvent, ObserveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(watch) = &mut self.0 else { return Poll::Ready(None) };
        let next = watch.poll_next(cx);
        if let Poll::Ready(Err(_)) = next {
            self.0 = None;
        }
        next.map(Some)
    }
}

fn host() -> Result<Host, ObserveError> {
    Host::new(None).map_err(|error| ObserveError::Unavailable {
        what: "the network namespace".to_owned(),
        why: error.to_string(),
        mend: "mount /proc".to_owned(),
    })
}

fn observer(host: &Host, ports: &[Port], interest: Interest) -> Result<Box<dyn Observer>, ObserveError> {
    let by_events = || host.by_events(ports, interest);
    let by_polling = || -> Box<dyn Observer> { host.by_polling(ports, POLL_INTERVAL) };
    Ok(choose(BackendChoice::Auto, by_events, by_polling)?.observer)
}
