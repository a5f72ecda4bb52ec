//! A process, held by a handle, which always means that process, even when its pid is reused.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, HANDLE, WAIT_OBJECT_0};
use windows_sys::Win32::System::Threading::{
    INFINITE, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE,
    TerminateProcess, WaitForSingleObject,
};

use super::close;
use crate::model::EndSignal;
use crate::platform::contract::{Asked, ProcessHandle, SignalError};

/// The exit status of a process that is ended by force, the same as taskkill's.
const FORCED: u32 = 1;

/// A process that can be ended.
pub(in crate::platform) struct WindowsProcess {
    pid: u32,
    handle: Arc<OwnedHandle>,
    exit: Option<oneshot::Receiver<io::Result<()>>>,
}

impl WindowsProcess {
    pub(in crate::platform) fn open(pid: u32) -> Result<Self, SignalError> {
        let rights = PROCESS_TERMINATE | PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION;
        // SAFETY: the call takes numbers and returns a new handle, or null.
        let handle = unsafe { OpenProcess(rights, 0, pid) };
        if handle.is_null() {
            return Err(refused(io::Error::last_os_error()));
        }
        // SAFETY: the system has just created this handle for this process.
        let handle = Arc::new(unsafe { OwnedHandle::from_raw_handle(handle) });
        Ok(Self { pid, handle, exit: None })
    }
}

fn refused(error: io::Error) -> SignalError {
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_INVALID_PARAMETER) => SignalError::Gone,
        Some(ERROR_ACCESS_DENIED) => SignalError::NotPermitted,
        _ => SignalError::Other(error),
    }
}

impl ProcessHandle for WindowsProcess {
    /// Asks its windows to close, or sends Ctrl-C to its console if no other process uses that console.
    fn terminate(&self, _signal: EndSignal) -> Result<Asked, SignalError> {
        Ok(if close::ask(self.pid)? { Asked::By("close") } else { Asked::Unreachable })
    }

    fn force(&self) -> Result<&'static str, SignalError> {
        // SAFETY: the handle is open, with the right to terminate.
        let done = unsafe { TerminateProcess(self.handle.as_raw_handle() as HANDLE, FORCED) };
        if done == 0 { Err(refused(io::Error::last_os_error())) } else { Ok("terminate") }
    }

    /// A handle is signalled when its process has ended. A separate thread waits for that.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let handle = &self.handle;
        let exit = self.exit.get_or_insert_with(|| {
            let (tell, exit) = oneshot::channel();
            let handle = Arc::clone(handle);
            std::thread::spawn(move || {
                // SAFETY: the handle is open as long as this thread holds it.
                let ended = unsafe { WaitForSingleObject(handle.as_raw_handle() as HANDLE, INFINITE) };
                let said = if ended == WAIT_OBJECT_0 { Ok(()) } else { Err(io::Error::last_os_error()) };
                let _ = tell.send(said);
            });
            exit
        });
        std::pin::Pin::new(exit)
            .poll(cx)
            .map(|said| said.unwrap_or_else(|_| Err(io::Error::other("the waiting thread ended"))))
    }
}
