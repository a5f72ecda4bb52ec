//! Tells what is waited for, where a person may begin to wonder.
//!
//! It is told as a span of [`TARGET`]; who shows it is the command line's business.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{Instrument as _, debug_span};

/// The target of the spans, by which they are told from what is logged.
pub(crate) const TARGET: &str = "waiting";
/// Most waits are over by then.
const UNTOLD: Duration = Duration::from_millis(400);

/// Waits for the future. If that takes a while, `what` is being waited for, at most for `limit`.
pub(crate) async fn told<F: Future>(
    what: impl FnOnce() -> String,
    limit: Option<Duration>,
    future: F,
) -> F::Output {
    let mut future = std::pin::pin!(future);
    if let Ok(output) = timeout(UNTOLD, future.as_mut()).await {
        return output;
    }
    let left = limit.map(|limit| u64::try_from(limit.saturating_sub(UNTOLD).as_millis()).unwrap_or(u64::MAX));
    let span = debug_span!(target: TARGET, "wait", what = what(), left_ms = left);
    future.instrument(span).await
}
