//! macOS: libproc through netstat2, signals, kqueue.

mod handle;
pub(crate) mod peer;
pub(crate) mod privileges;
mod process;
pub(crate) mod service;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::observe::{Holder, Interest, ObserveError, Observer, Socket};
use crate::platform::poll::{self, PollObserver, SystemTable};
use crate::platform::unix::bind;
pub(crate) use crate::platform::unix::{helper, monotonic_now, signals, socket, titled, users};
use crate::platform::{Hook, NetnsError};
use crate::process::Process;
use crate::system::{Bind, BindAddress, BindAs, Handle, ProcessError, SignalError, System};

/// Where clients look for the agent when nothing else is said.
pub(crate) const AGENT_SOCKET: &str = "/var/run/gatewatch/agent.sock";

/// Whether the kernel tells of events.
pub(crate) const HAS_EVENTS: bool = false;

/// macOS.
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
        bind::try_bind(|bind| Ok(bind()), address, how)
    }
}

/// The system's version.
pub(crate) fn kernel() -> String {
    sysinfo::System::long_os_version().unwrap_or_else(|| "macOS".to_owned())
}

/// Makes a socket for a bind that proves: nothing is special about it here.
pub(crate) fn prepare_bind(_socket: &OwnedFd) {}
