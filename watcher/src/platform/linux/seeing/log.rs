//! The kernel program's own diagnostics, forwarded to tracing by aya-log. They are read at `-vv` only; otherwise the
//! program is loaded with its log level at zero, and the ring for them is one page.

use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use super::sys;

/// The diagnostics' target in tracing.
const TARGET: &str = "gatewatch::kernel";

/// Whether the diagnostics would be shown.
pub(super) fn is_wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Reads the diagnostics of loaded programs.
pub(super) struct KernelLog(AsyncFd<EbpfLogger<IntoTracing>>);

impl KernelLog {
    /// Finds the ring through one of the programs that write to it; `None` if it can't be read, which is not an error.
    pub(super) fn new(program: BorrowedFd<'_>) -> Option<Self> {
        let id = sys::program_id(program).ok()?;
        match EbpfLogger::init_from_id_with_logger(id, IntoTracing) {
            // SAFETY: the logger owns its descriptor, and always returns the same one.
            Ok(logger) => unsafe { AsyncFd::register(logger) }.ok().map(Self),
            Err(error) => {
                tracing::debug!(%error, "the kernel program's diagnostics can't be read");
                None
            }
        }
    }

    /// Forwards what has arrived, and wakes the task when more arrives.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            self.0.get_mut().flush();
            match self.0.poll_read_ready(cx) {
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }
}

impl Drop for KernelLog {
    /// Forwards the rest: what was written after the last look at the ring belongs to the events that were shown.
    fn drop(&mut self) {
        self.0.get_mut().flush();
    }
}

/// Converts a level: aya-log writes to the `log` crate, this program to tracing.
struct IntoTracing;

impl log::Log for IntoTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error | log::Level::Warn => tracing::warn!(target: TARGET, "{}", record.args()),
            log::Level::Info | log::Level::Debug | log::Level::Trace => {
                tracing::debug!(target: TARGET, "{}", record.args());
            }
        }
    }

    fn flush(&self) {}
}
