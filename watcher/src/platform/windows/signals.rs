//! What long-running commands heed: the console's keys, and its closing.

use std::io;

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "no signal here asks for a reload")]
pub(crate) enum Signal {
    /// Read the configuration again.
    Reload,
    /// End in order.
    End,
}

/// The signals, received from here on.
pub(crate) struct Signals {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
}

impl Signals {
    /// # Errors
    /// When they can't be received.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { c: ctrl_c()?, pause: ctrl_break()?, close: ctrl_close()? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.c.recv() => {}
            _ = self.pause.recv() => {}
            _ = self.close.recv() => {}
        }
        Signal::End
    }
}
