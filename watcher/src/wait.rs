//! Wait: until a port can be bound, or until somebody listens on it.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::observe::{self, EventKind, Observation, ObserveError, Observer, Socket, SocketState};
use crate::outcome::Outcome;
use crate::prove::{self, Verdict};
use crate::system::System;

/// What to wait for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest wait; `None` for ever.
    pub timeout: Option<Duration>,
    /// The longest pause between two looks where no event tells.
    pub pace: Duration,
}

impl Limits {
    /// What is left of the time, at most `pause`; `None` when it is over.
    fn next_pause(&self, begun: Instant, pause: Duration) -> Option<Duration> {
        match self.timeout {
            None => Some(pause),
            Some(limit) => {
                limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()).map(|left| left.min(pause))
            }
        }
    }
}

/// Waits until the port can be bound: [`Outcome::Free`], or [`Outcome::TimedOut`].
///
/// # Errors
/// When the port can't be observed.
pub async fn free(
    system: &dyn System,
    observer: &mut dyn Observer,
    port: u16,
    limits: Limits,
) -> Result<Outcome, ObserveError> {
    let begun = Instant::now();
    let mut held: Vec<Socket> = observer.snapshot(port)?;
    let addresses = prove::addresses(&held, port);
    held.retain(Socket::owns_port);
    let mut pause = Duration::from_millis(1);
    loop {
        if held.is_empty() {
            match prove::look(system, observer, port, &addresses)? {
                Verdict::Free { .. } => return Ok(Outcome::Free),
                Verdict::Held(sockets) => held = sockets,
                Verdict::Hidden => {}
            }
        }
        // Without an owner to wait for, looks are all there is: a client's connection, say, ends without an event.
        let owned = held.iter().any(Socket::owns_port);
        let longest = if owned { Duration::from_secs(1).max(limits.pace) } else { pause };
        let Some(wait) = limits.next_pause(begun, longest) else { return Ok(Outcome::TimedOut) };
        if let Ok(event) = timeout(wait, observe::next(observer)).await {
            event?;
        }
        observe::drain(observer)?;
        pause = (pause * 2).min(limits.pace);
        held = observer.snapshot(port)?;
        held.retain(Socket::owns_port);
    }
}

/// Waits until somebody listens on the port: [`Outcome::Listening`], or [`Outcome::TimedOut`].
///
/// # Errors
/// When the port can't be observed.
pub async fn listening(
    observer: &mut dyn Observer,
    port: u16,
    limits: Limits,
) -> Result<Outcome, ObserveError> {
    let begun = Instant::now();
    let listens = |sockets: Vec<Socket>| sockets.iter().any(|socket| socket.state == SocketState::Listen);
    if listens(observer.snapshot(port)?) {
        return Ok(Outcome::Listening);
    }
    loop {
        let Some(wait) = limits.next_pause(begun, Duration::from_secs(3600)) else {
            return Ok(Outcome::TimedOut);
        };
        let Ok(observation) = timeout(wait, observe::next(observer)).await else { continue };
        match observation? {
            Observation::Event(event) if event.kind == EventKind::Listen && event.address.port() == port => {
                return Ok(Outcome::Listening);
            }
            Observation::Lost(_) if listens(observer.snapshot(port)?) => return Ok(Outcome::Listening),
            _ => {}
        }
    }
}
