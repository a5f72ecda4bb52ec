//! The release of a UDP port. The hook at a socket's close runs a moment before the kernel gives the port back, and none runs
//! after it; so the kernel's own table is asked until the socket has left it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::diag;
use super::netns::Netns;
use crate::model::{Event, EventKind, Observation, Protocol};

/// How often the table is asked at once: the closing process needs some microseconds more.
const AT_ONCE: u32 = 8;
/// The pause between two questions after that: the closing process may have been put aside.
const PAUSE: Duration = Duration::from_millis(1);

/// A UDP socket that is being closed.
pub(super) struct Going {
    release: Event,
    next: Option<Pin<Box<Sleep>>>,
}

impl Going {
    /// Whether the event is such a one.
    pub(super) fn is_needed(event: &Event) -> bool {
        (event.protocol, event.kind) == (Protocol::Udp, EventKind::Release)
    }

    pub(super) fn new(release: Event) -> Self {
        Self { release, next: None }
    }

    /// Ready once the port is back.
    pub(super) fn poll_gone(&mut self, home: &Netns, cx: &mut Context<'_>) -> Poll<()> {
        let mut questions = if self.next.is_none() { AT_ONCE } else { 1 };
        loop {
            if let Some(next) = &mut self.next {
                ready!(next.as_mut().poll(cx));
                questions = 1;
            }
            for _ in 0..questions {
                if !self.is_there(home) {
                    return Poll::Ready(());
                }
                std::thread::yield_now();
            }
            self.next = Some(Box::pin(sleep(PAUSE)));
        }
    }

    fn is_there(&self, home: &Netns) -> bool {
        let Some(cookie) = self.release.cookie else { return false };
        diag::has(home, self.release.port(), cookie).unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel does not list UDP sockets (sock_diag)");
            false
        })
    }

    pub(super) fn into_observation(self) -> Observation {
        Observation::Event(self.release)
    }
}
