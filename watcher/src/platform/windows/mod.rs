//! Windows: the IP helper API through netstat2, process handles, polite ends through the console or a window.

mod bind;
mod close;
mod handle;
pub(crate) mod peer;
pub(crate) mod privileges;
mod process;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod users;

use std::io;
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

pub(crate) use self::close::helper;
use crate::observe::{Holder, Interest, ObserveError, Observer, Socket};
use crate::platform::poll::{self, PollObserver, SystemTable};
use crate::platform::{Hook, NetnsError};
use crate::process::Process;
use crate::system::{Bind, BindAddress, BindAs, Handle, ProcessError, SignalError, System};

/// Where clients look for the agent when nothing else is said.
pub(crate) const AGENT_SOCKET: &str = "gatewatch-agent.sock";

/// Whether the kernel tells of events.
pub(crate) const HAS_EVENTS: bool = false;

/// Windows.
#[derive(Debug, Clone)]
pub(crate) struct Host;

impl Host {
    /// There is but one network.
    ///
    /// # Errors
    /// [`NetnsError::Unsupported`] where another one is asked for.
    pub(crate) fn new(netns: Option<&Path>) -> Result<Self, NetnsError> {
        if netns.is_some() { Err(NetnsError::Unsupported) } else { Ok(Self) }
    }

    /// # Errors
    /// Always: kernel events are Linux's.
    pub(crate) fn by_events(
        &self,
        _ports: &[u16],
        _interest: Interest,
    ) -> Result<(Box<dyn Observer>, Vec<String>), ObserveError> {
        Err(poll::no_events())
    }

    /// # Errors
    /// As for [`Self::by_events`].
    pub(crate) fn by_events_everywhere(
        &self,
        _ports: &[u16],
    ) -> Result<(Box<dyn Observer>, Vec<String>), ObserveError> {
        Err(poll::no_events())
    }

    /// Watches ports by polling.
    pub(crate) fn by_polling(&self, ports: &[u16], pace: Duration) -> Box<dyn Observer> {
        Box::new(PollObserver::new(SystemTable { name_of: process::name }, ports, pace))
    }

    /// # Errors
    /// As for [`Self::by_events`].
    pub(crate) fn try_hooks(&self) -> Result<Vec<Hook>, ObserveError> {
        Err(poll::no_events())
    }

    /// Namespaces are Linux's.
    pub(crate) fn netns(&self) -> u32 {
        0
    }
}

impl System for Host {
    fn process(&self, pid: u32, _tid: u32) -> Result<Process, ProcessError> {
        process::read(pid)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        process::parent(pid)
    }

    fn open(&self, pid: u32) -> Result<Box<dyn Handle>, SignalError> {
        Ok(Box::new(handle::ProcessHandle::open(pid)?))
    }

    fn holds(&self, holder: &Holder, socket: &Socket) -> io::Result<bool> {
        poll::holds(holder, socket)
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        bind::try_bind(address, how)
    }
}

/// Nanoseconds since the program's first look at the clock: nothing else here is measured by it.
pub(crate) fn monotonic_now() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The system's version.
pub(crate) fn kernel() -> String {
    sysinfo::System::long_os_version().unwrap_or_else(|| "Windows".to_owned())
}

/// A program that is to be known by another title: here that is its file's name, so it is run from a copy.
///
/// # Errors
/// When the copy can't be made.
pub(crate) fn titled(program: &Path, title: &str) -> io::Result<std::process::Command> {
    let copy = std::env::temp_dir().join(format!("{title}.exe"));
    std::fs::copy(program, &copy)?;
    let mut command = std::process::Command::new(copy);
    // A console of its own: a Ctrl-C in ours would end us as well.
    command.creation_flags(CREATE_NO_WINDOW);
    Ok(command)
}
