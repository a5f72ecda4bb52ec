//! Observe: who holds a port, and what happens to it.
//!
//! An [`Observer`] answers both, by kernel events or by polling; no code above the platform knows which. The [`table`]
//! joins its snapshots with its events.

pub(crate) mod limited;
pub(crate) mod table;

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

use crate::model::Observation;
use crate::platform::contract::{ObserveError, Observer};

/// The next event of an observer.
///
/// # Errors
/// As for [`Observer::poll_next`].
pub(crate) async fn next(observer: &mut dyn Observer) -> Result<Observation, ObserveError> {
    std::future::poll_fn(|cx| observer.poll_next(cx)).await
}

/// Waits for the next event, so long at most, and leaves out what has come with it: a look is to follow.
///
/// # Errors
/// As for [`Observer::poll_next`].
pub(crate) async fn change(observer: &mut dyn Observer, within: Duration) -> Result<(), ObserveError> {
    if let Ok(event) = timeout(within, next(observer)).await {
        event?;
    }
    drain(observer).map(drop)
}

/// More observations than a source keeps ready: reading so many gives all that were there when the reading began. Events
/// can come faster than they are read, because any process can bind and close as often as it likes, so no reader may go
/// on until there are none.
pub(crate) const MOST_READY: usize = 4096;

/// The events that have arrived by now, without waiting; up to the first that were lost, after which only a look helps.
///
/// # Errors
/// As for [`Observer::poll_next`].
pub(crate) fn drain(observer: &mut dyn Observer) -> Result<Vec<Observation>, ObserveError> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut events = Vec::new();
    while events.len() < MOST_READY
        && let Poll::Ready(event) = observer.poll_next(&mut cx)
    {
        events.push(event?);
        if let Some(Observation::Lost(..)) = events.last() {
            break;
        }
    }
    Ok(events)
}
