//! What interrupts a command that has signalled somebody: it is answered, with what was done by then. Before that, a signal ends
//! this program as it ends any other.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::exit::CliError;
use crate::platform::Host;
use crate::platform::contract::{Platform, Signals as _};
use crate::steps::interrupt::Interrupt;

/// What is said where a command was to be run after that.
pub(super) const NOT_RUN: &str = "interrupted; the command was not run";

type Signals = <Host as Platform>::Signals;

/// The signals, once they are received. They stay received: what comes between two waits is found by the next one.
#[derive(Default)]
pub(super) struct Interrupts {
    signals: Cell<Option<Signals>>,
    /// Whether one came.
    came: Cell<bool>,
}

impl Interrupts {
    /// Runs a job that is interrupted by a signal, from the moment on at which it signals somebody.
    ///
    /// # Errors
    /// If signals can't be received.
    pub(super) async fn heeded<T>(
        &self,
        interrupt: &Interrupt,
        job: impl Future<Output = T>,
    ) -> Result<T, CliError> {
        let (mut job, mut signals) = (pin!(job), self.signals.take());
        loop {
            if self.came.get() {
                interrupt.set();
            }
            let is_new = signals.is_none();
            let signal = next(signals.as_mut().filter(|_| !self.came.get()));
            tokio::select! {
                biased;
                () = signal => self.came.set(true),
                () = interrupt.begun(), if is_new => signals = Some(receive()?),
                done = &mut job => {
                    self.signals.set(signals);
                    return Ok(done);
                }
            }
        }
    }

    /// The signals, for who waits for them by himself.
    ///
    /// # Errors
    /// If signals can't be received.
    pub(super) fn take(&self) -> Result<Signals, CliError> {
        self.signals.take().map_or_else(receive, Ok)
    }

    /// Whether a signal came until now.
    pub(super) async fn have_come(&self) -> bool {
        let mut signals = self.signals.take();
        if let Some(signals) = &mut signals {
            let mut signal = pin!(signals.next());
            let came = poll_fn(|cx| Poll::Ready(signal.as_mut().poll(cx).is_ready())).await;
            self.came.set(self.came.get() || came);
        }
        self.signals.set(signals);
        self.came.get()
    }
}

async fn next(signals: Option<&mut Signals>) {
    match signals {
        Some(signals) => {
            signals.next().await;
        }
        None => pending().await,
    }
}

fn receive() -> Result<Signals, CliError> {
    Signals::unless_ignored().map_err(|error| CliError::Io { what: "signals can't be received", error })
}
