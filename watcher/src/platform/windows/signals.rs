//! What long-running commands obey: the console's keys, and its closing.

use std::io;

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

use crate::platform::contract::{self, Signal};

/// The keys of the console, and its closing: all request the end.
pub(crate) struct Signals {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
}

impl contract::Signals for Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { c: ctrl_c()?, pause: ctrl_break()?, close: ctrl_close()? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.c.recv() => {}
            _ = self.pause.recv() => {}
            _ = self.close.recv() => {}
        }
        Signal::End
    }
}
