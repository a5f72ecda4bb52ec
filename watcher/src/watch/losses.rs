//! Events that were lost, and when to look at the sockets because of them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use crate::model::LostIn;

/// The least time between two looks because of lost events: where they are lost all the time, looks are all there would be.
const LOOKS_APART: Duration = Duration::from_millis(50);
/// And so many times as long as the last one took: where others have opened a great many descriptors, each takes long.
pub(crate) const LOOKS_SHARE: u32 = 8;
/// So long after a look that failed the next one is due.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// Events that were lost.
pub(super) struct Losses {
    /// How many, by where.
    counts: Vec<(LostIn, Option<u64>)>,
    /// When to look because of them.
    due: Pin<Box<Sleep>>,
    /// Whether that is now, and somebody else takes the look.
    pub(super) is_due: bool,
}

impl Losses {
    /// None so far, after a look that ended then, and took so long.
    pub(super) fn since(last_look: Instant, took: Duration) -> Self {
        Self { counts: Vec::new(), due: next_look(last_look, took), is_due: false }
    }

    /// There was another look meanwhile, which may not have seen what these stand for.
    pub(super) fn put_off(&mut self, last_look: Instant, took: Duration) {
        (self.due, self.is_due) = (next_look(last_look, took), false);
    }

    /// How many were lost, by where.
    pub(super) fn counts(&self) -> &[(LostIn, Option<u64>)] {
        &self.counts
    }

    /// After a look that failed, the next one is not at once.
    pub(super) fn postpone(&mut self) {
        self.due = Box::pin(sleep_until((Instant::now() + AFTER_A_FAILURE).into()));
        self.is_due = false;
    }

    /// Whether the look is due.
    pub(super) fn is_time(&self) -> bool {
        self.due.deadline() <= Instant::now().into()
    }

    /// Ready once the look is due.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.due.as_mut().poll(cx)
    }

    pub(super) fn add(&mut self, more: Option<u64>, lost_in: LostIn) {
        if let Some((_, count)) = self.counts.iter_mut().find(|(known, _)| *known == lost_in) {
            *count = count.zip(more).map(|(count, more)| count.saturating_add(more));
        } else {
            self.counts.push((lost_in, more));
        }
    }
}

fn next_look(last_look: Instant, took: Duration) -> Pin<Box<Sleep>> {
    let due = last_look + LOOKS_APART.max(took * LOOKS_SHARE);
    Box::pin(sleep_until(due.into()))
}
