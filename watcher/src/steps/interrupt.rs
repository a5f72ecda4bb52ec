//! Interrupt: whoever runs a clean may end it while owners are waited for, and is told then what was done by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether a clean is interrupted. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    has_begun: AtomicBool,
    begun: Notify,
    is_set: AtomicBool,
    set: Notify,
}

impl Interrupt {
    /// Says that processes are signalled from now on, so that an interrupt must be answered. Until then nothing was done that
    /// anybody would have to be told.
    pub(crate) async fn begin(&self) {
        if !self.0.has_begun.swap(true, Ordering::Relaxed) {
            self.0.begun.notify_one();
            // Whoever waits for it gets ready.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until [`Self::begin`] is called; once.
    pub(crate) async fn begun(&self) {
        self.0.begun.notified().await;
    }

    /// Interrupts it.
    pub(crate) fn set(&self) {
        self.0.is_set.store(true, Ordering::Relaxed);
        self.0.set.notify_one();
    }

    /// Whether it is interrupted.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Relaxed)
    }

    /// Waits until it is interrupted.
    pub(crate) async fn wait(&self) {
        while !self.is_set() {
            self.0.set.notified().await;
        }
    }
}
