//! The signals that long-running commands obey.

use std::future::pending;
use std::io;
use std::mem::MaybeUninit;

use nix::libc;
use tokio::signal::unix::{self, SignalKind, signal};

use crate::platform::contract::{self, Signal};

/// SIGHUP requests a reload, SIGTERM and SIGINT the end.
pub(crate) struct Signals {
    reload: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    interrupt: Option<unix::Signal>,
}

impl contract::Signals for Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reload: Some(signal(SignalKind::hangup())?),
            terminate: Some(signal(SignalKind::terminate())?),
            interrupt: Some(signal(SignalKind::interrupt())?),
        })
    }

    fn unless_ignored() -> io::Result<Self> {
        let heeded = |kind: SignalKind| is_heeded(kind.as_raw_value()).then(|| signal(kind)).transpose();
        Ok(Self {
            reload: heeded(SignalKind::hangup())?,
            terminate: heeded(SignalKind::terminate())?,
            interrupt: heeded(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            () = next(&mut self.reload) => Signal::Reload,
            () = next(&mut self.terminate) => Signal::End,
            () = next(&mut self.interrupt) => Signal::End,
        }
    }
}

async fn next(signal: &mut Option<unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

/// Whether whoever started this program has not had it ignore the signal, as nohup(1) does, and a shell of a script whose job is
/// in the background.
fn is_heeded(number: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and there is room for what is now (sigaction(2)).
    let result = unsafe { libc::sigaction(number, std::ptr::null(), now.as_mut_ptr()) };
    if result != 0 {
        return true;
    }
    // SAFETY: that has succeeded, so it is written.
    let now = unsafe { now.assume_init() };
    now.sa_sigaction != libc::SIG_IGN
}
