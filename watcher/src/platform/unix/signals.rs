//! The signals that long-running commands obey.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

use crate::platform::contract::{self, Signal};

/// SIGHUP requests a reload, SIGTERM and SIGINT the end.
pub(crate) struct Signals {
    reload: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl contract::Signals for Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.reload.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
        }
    }
}
