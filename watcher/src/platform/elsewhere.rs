//! What the systems without kernel events for us have in common: one network, netstat2's table, sysinfo.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, UpdateKind};

use super::host::{handle, holds, process, try_bind};
use super::poll::{self, PollObserver, SystemTable};
use super::{Hook, NetnsError};
use crate::observe::{Holder, Interest, ObserveError, Observer, Socket};
use crate::process::Process;
use crate::system::{Bind, BindAddress, BindAs, Handle, ProcessError, SignalError, System};

/// Whether the kernel tells of events.
pub(crate) const HAS_EVENTS: bool = false;

/// The system.
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
        holds(holder, socket)
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        try_bind(address, how)
    }

    fn bind_meets_every_listener(&self) -> bool {
        false
    }
}

/// The system's name and version.
pub(crate) fn kernel() -> String {
    sysinfo::System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned())
}

/// What sysinfo tells of a process.
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) parent: Option<u32>,
    pub(crate) argv: Option<Vec<String>>,
    pub(crate) exe: Option<PathBuf>,
    pub(crate) cwd: Option<PathBuf>,
}

/// Asks sysinfo about a process; `None` when there is none of this pid. Its command line and paths cost more than the
/// rest, and are left out unless they are wanted.
pub(crate) fn ask(pid: u32, whole: bool) -> Option<Told> {
    let when = if whole { UpdateKind::Always } else { UpdateKind::Never };
    let what = ProcessRefreshKind::nothing().with_cmd(when).with_exe(when).with_cwd(when);
    let mut system = sysinfo::System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[Pid::from_u32(pid)]), true, what);
    let process = system.process(Pid::from_u32(pid))?;
    let argv: Vec<String> = process.cmd().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Some(Told {
        name: process.name().to_string_lossy().into_owned(),
        parent: process.parent().map(Pid::as_u32),
        argv: (!argv.is_empty()).then_some(argv),
        exe: process.exe().map(ToOwned::to_owned),
        cwd: process.cwd().map(ToOwned::to_owned),
    })
}

/// Capabilities, which are Linux's.
pub(crate) mod privileges {
    /// Nothing to give up.
    pub(crate) fn keep_needed() {}

    /// None.
    pub(crate) fn held() -> Vec<(String, &'static str)> {
        Vec::new()
    }

    /// That is Linux's.
    pub(crate) fn no_new_privileges() -> bool {
        false
    }
}

/// A service manager to which the agent has nothing to say.
pub(crate) mod service {
    use std::time::Duration;

    /// Requests are answered from here on.
    pub(crate) fn ready(_status: &str) {}

    /// The configuration is being read again.
    pub(crate) fn reloading() {}

    /// It ends.
    pub(crate) fn stopping() {}

    /// It is alive.
    pub(crate) fn alive() {}

    /// Nobody asks for signs of life.
    pub(crate) fn alive_every() -> Option<Duration> {
        None
    }

    /// No manager holds a socket for the agent.
    ///
    /// # Errors
    /// None.
    #[cfg(unix)]
    pub(crate) fn given_socket() -> std::io::Result<Option<std::os::unix::net::UnixListener>> {
        Ok(None)
    }
}
