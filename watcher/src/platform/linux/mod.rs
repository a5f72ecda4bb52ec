//! Linux: kernel events through eBPF, processes through /proc and pidfds.

mod cgroup;
mod diag;
pub(crate) mod ebpf;
mod netns;
pub(crate) mod peer;
mod pidfd;
pub(crate) mod privileges;
mod proc;
pub(crate) mod service;
mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::time::ClockId;
use watcher_common::OWN_MARK;

use self::ebpf::Reach;
pub(crate) use self::netns::Netns;
use crate::observe::{Holder, Interest, ObserveError, Observer, Socket};
use crate::platform::poll::PollObserver;
use crate::platform::unix::{bind, clock_now};
pub(crate) use crate::platform::unix::{helper, keep_handles, signals, socket, titled, users};
use crate::platform::{Hook, NetnsError};
use crate::process::Process;
use crate::system::{Bind, BindAddress, BindAs, Handle, ProcessError, SignalError, System};

/// Where clients look for the agent when nothing else is said.
pub(crate) const AGENT_SOCKET: &str = "/run/gatewatch/agent.sock";

/// `CLOCK_MONOTONIC` in nanoseconds, which kernel events are stamped with and `Instant` counts by.
pub(crate) fn monotonic_now() -> u64 {
    clock_now(ClockId::CLOCK_MONOTONIC)
}

/// Whether the kernel tells of events.
pub(crate) const HAS_EVENTS: bool = true;

/// Linux, in one network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    netns: Netns,
}

impl Host {
    /// In the network namespace at a path, or in the caller's.
    pub(crate) fn new(netns: Option<&Path>) -> Result<Self, NetnsError> {
        let netns = match netns {
            Some(path) => Netns::at(path)?,
            None => Netns::current()
                .map_err(|error| NetnsError::Open { path: "/proc/self/ns/net".into(), error })?,
        };
        Ok(Self { netns })
    }

    /// Watches ports by kernel events, and says what is lost where a hook is missing.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] where privileges or kernel features are missing.
    pub(crate) fn by_events(
        &self,
        ports: &[u16],
        interest: Interest,
    ) -> Result<(Box<dyn Observer>, Vec<String>), ObserveError> {
        let observer = ebpf::EbpfObserver::new(ports, Reach::One(self.netns.clone()), interest)?;
        let losses = observer.hooks().iter().filter_map(Hook::loss).collect();
        Ok((Box::new(observer), losses))
    }

    /// As [`Self::by_events`], in all network namespaces of the system, and of everything that happens.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn by_events_everywhere(
        &self,
        ports: &[u16],
    ) -> Result<(Box<dyn Observer>, Vec<String>), ObserveError> {
        let reach = Reach::All(self.netns.clone());
        let observer = ebpf::EbpfObserver::new(ports, reach, Interest::Everything)?;
        let losses = observer.hooks().iter().filter_map(Hook::loss).collect();
        Ok((Box::new(observer), losses))
    }

    /// The network namespace that it looks into, by its inode number.
    pub(crate) fn netns(&self) -> u32 {
        self.netns.inode()
    }

    /// Watches ports by polling.
    pub(crate) fn by_polling(&self, ports: &[u16], pace: Duration) -> Box<dyn Observer> {
        Box::new(PollObserver::new(table::LinuxTable(self.netns.clone()), ports, pace))
    }

    /// Tries every hook of the eBPF backend.
    ///
    /// # Errors
    /// [`ObserveError::Unavailable`] where not even the foundation can be had.
    pub(crate) fn try_hooks(&self) -> Result<Vec<Hook>, ObserveError> {
        ebpf::EbpfObserver::new(&[], Reach::One(self.netns.clone()), Interest::Everything)
            .map(ebpf::EbpfObserver::into_hooks)
    }
}

impl System for Host {
    fn process(&self, pid: u32, tid: u32) -> Result<Process, ProcessError> {
        proc::read(pid, tid)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        proc::parent(pid)
    }

    fn open(&self, pid: u32) -> Result<Box<dyn Handle>, SignalError> {
        Ok(Box::new(pidfd::PidFd::open(pid)?))
    }

    fn holds(&self, holder: &Holder, socket: &Socket) -> io::Result<bool> {
        let inode = socket.inode.ok_or_else(|| io::Error::other("its inode is not known"))?;
        proc::holds(holder, inode)
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        bind::try_bind(|bind| self.netns.run(bind), address, how)
    }

    fn bind_meets_every_listener(&self) -> bool {
        true
    }
}

/// Makes a socket for a bind that proves.
pub(crate) fn prepare_bind(socket: &OwnedFd) {
    // The kernel program leaves marked sockets out. Without the privilege the mark stays away, and other people's
    // watchers see this bind for what it is.
    let _ = setsockopt(socket, sockopt::Mark, &OWN_MARK);
    // The address may have left its interface with the socket that held it; the question is only about the port.
    let _ = setsockopt(socket, sockopt::IpFreebind, &true);
}

/// The kernel's release, as uname(2) says it.
pub(crate) fn kernel() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}
