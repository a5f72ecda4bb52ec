//! Linux: kernel events through eBPF ([`seeing`]), processes through /proc and pidfds ([`processes`]), and what the host
//! agent needs ([`agent`]).

mod agent;
mod containers;
mod fd;
mod history;
mod host;
mod keep;
mod manager;
#[cfg(feature = "nats")]
mod nats;
mod owner_record;
mod processes;
mod program;
mod protocol;
mod seeing;

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing {
    //! What the fuzzers run here.

    pub(crate) use super::processes::fuzzing::proc_files;
    pub(crate) use super::seeing::fuzzing::{kernel_records, netlink};
}

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::ClockId;
use watcher_common::OWN_MARK;

pub(super) use self::agent::{OwnPeer, given_socket};
use self::processes::root::Root;
use self::processes::{foreign, kin, pidfd, proc, unseen};
use self::seeing::{EbpfObserver, LinuxTable, Netns, Scope, Wanted};
use super::contract::{
    AgentObserver, Ancestor, Bind, BindAddress, BindAs, ByEvents, FileId, Hook, Interest, KeepError,
    KeptSocket, NetnsError, NotObeyed, ObserveError, Observer, Platform, ProcessError, ProcessHandle, Runs,
    SignalError, System,
};
use super::poll::{PollObserver, SocketTable as _};
use super::unix;
use crate::model::{Descriptor, Port, Process, Protocol, RecordFault, RecordFile, Socket};

/// The bits of a file's mode that let somebody execute it.
const EXECUTABLE: u32 = 0o111;

/// Linux, in one network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Linux {
    netns: Netns,
}

impl System for Linux {
    fn process(&self, pid: u32) -> Result<Process, ProcessError> {
        proc::read(pid)
    }

    fn name_beside_thread(&self, pid: u32, comm: &str, ago: Duration) -> Option<String> {
        if foreign::why().is_some() { None } else { proc::name_beside_thread(pid, comm, ago) }
    }

    fn name_container(&self, process: &mut Process) {
        containers::name(process);
    }

    fn name(&self, pid: u32) -> Option<(String, Option<u32>)> {
        proc::name(pid)
    }

    fn incarnation(&self, pid: u32) -> Option<u64> {
        proc::incarnation(pid)
    }

    fn blindness(&self) -> Option<&'static str> {
        unseen::why()
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        match kin::ancestor(pid) {
            Ancestor::Parent(parent) => Some(parent),
            Ancestor::Top | Ancestor::Gone | Ancestor::Hidden => None,
        }
    }

    fn ancestor(&self, pid: u32) -> Ancestor {
        kin::ancestor(pid)
    }

    fn children(&self, pid: u32) -> Vec<u32> {
        kin::children(pid)
    }

    fn processes_named(&self, texts: &[&str], among: Option<Vec<u32>>) -> Vec<u32> {
        proc::named(texts, self.netns.inode(), among)
    }

    /// When PID 1 of a pid namespace ends, the kernel kills all others in it (pid_namespaces(7)); without the host's, the
    /// kernel panics. Seen from outside, a container's first process has another pid.
    fn own_init(&self) -> Option<u32> {
        Some(1)
    }

    fn open(&self, pid: u32) -> Result<Box<dyn ProcessHandle>, SignalError> {
        Ok(Box::new(pidfd::PidFd::open(pid)?))
    }

    fn holds(&self, descriptor: &Descriptor, socket: &Socket) -> io::Result<bool> {
        let inode = socket.inode.ok_or_else(|| io::Error::other("its inode is not known"))?;
        proc::holds(descriptor, inode)
    }

    /// Opened by `O_PATH` first: whatever is there, that does not wait for anybody.
    fn program_at(&self, path: &Path) -> io::Result<File> {
        let place = host::root().join(path.strip_prefix("/").unwrap_or(path));
        let file = File::options().read(true).custom_flags(nix::libc::O_PATH).open(place)?;
        let about = file.metadata()?;
        if !about.is_file() || about.mode() & EXECUTABLE == 0 {
            return Err(io::Error::other("it is no program"));
        }
        let mut begins = [0; 2];
        let read = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read(&mut begins)?;
        if &begins[..read] == b"#!" {
            return Err(io::Error::other("it is a script, and what runs is its interpreter: name that"));
        }
        Ok(file)
    }

    fn bound(&self, port: Port) -> Option<Vec<Socket>> {
        seeing::bound(&self.netns, port)
    }

    fn has_listeners(&self) -> bool {
        seeing::has_listeners(&self.netns)
    }

    fn reuses_address(&self, descriptor: &Descriptor, socket: &Socket) -> Option<bool> {
        seeing::reuses_address(descriptor, socket).ok()
    }

    fn take_over(&self, descriptor: &Descriptor, socket: &Socket) -> Result<Box<dyn KeptSocket>, KeepError> {
        Ok(Box::new(keep::Kept::of(descriptor, socket)?))
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        // On Linux, a listener on any address that includes the bound one makes the bind fail.
        unix::try_bind(|bind| self.netns.run(bind), prepare_bind, address, how, true)
    }
}

impl Platform for Linux {
    const HAS_EVENTS: bool = true;
    const CONFIG: &'static str = "/etc/gatewatch/config.toml";
    const AGENT_SOCKET: &'static str = "/run/gatewatch/agent.sock";
    const SHELL: [&'static str; 2] = unix::SHELL;

    type Signals = unix::Signals;
    type Root = Root;

    fn new(netns: Option<&Path>) -> Result<Self, NetnsError> {
        let netns = match netns {
            Some(path) => Netns::at(path)?,
            None => Netns::current()
                .map_err(|error| NetnsError::Open { path: "/proc/self/ns/net".into(), error })?,
        };
        Ok(Self { netns })
    }

    fn netns(&self) -> u32 {
        self.netns.inode()
    }

    fn by_events(&self, ports: &[Port], interest: Interest) -> ByEvents<dyn Observer> {
        let wanted = Wanted::of_ports(ports, interest);
        let (observer, losses) = observe(ports, Scope::One(self.netns.clone()), wanted)?;
        Ok((observer, losses))
    }

    fn by_events_everywhere(&self, ports: &[Port], protocols: &[Protocol]) -> ByEvents<dyn AgentObserver> {
        let wanted = Wanted::of(protocols, Interest::Everything);
        let (observer, losses) = observe(ports, Scope::All(self.netns.clone()), wanted)?;
        Ok((observer, losses))
    }

    fn by_polling(&self, ports: &[Port], pace: Duration) -> Box<dyn AgentObserver> {
        Box::new(PollObserver::new(LinuxTable(self.netns.clone()), ports, pace))
    }

    fn try_hooks(&self) -> Result<Vec<Hook>, ObserveError> {
        EbpfObserver::try_hooks(Scope::All(self.netns.clone()))
    }

    /// `CLOCK_MONOTONIC`.
    fn monotonic_now() -> u64 {
        unix::clock_now(ClockId::CLOCK_MONOTONIC)
    }

    /// The kernel's release, as uname(2) returns it.
    fn version() -> String {
        nix::sys::utsname::uname()
            .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
    }

    fn before_main() -> Option<u8> {
        unix::close_inherited();
        None
    }

    async fn reader_gone() {
        unix::reader_gone().await;
    }

    fn caller() -> Option<u32> {
        Some(unix::own_user())
    }

    fn with_all_rights(words: Vec<String>) -> Option<Vec<String>> {
        unix::with_all_rights(words)
    }

    fn home(user: u32) -> Option<PathBuf> {
        owner_record::home(user)
    }

    fn owner_record(file: &RecordFile) -> Result<Option<String>, RecordFault> {
        owner_record::row(file)
    }

    fn open_to_obey(path: &Path) -> Result<File, NotObeyed> {
        unix::open_to_obey(path)
    }

    fn file(path: &Path) -> Option<FileId> {
        unix::file(path)
    }

    fn is_executable(path: &Path) -> bool {
        unix::is_executable(path)
    }

    fn runs(path: &Path) -> Runs {
        program::runs(path)
    }

    /// The orphans among our descendants get us as their parent (PR_SET_CHILD_SUBREAPER).
    fn keep_descendants() {
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }

    fn has_descendants() -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn lead_group(command: &mut Command) {
        unix::lead_group(command);
    }

    fn end_group(leader: u32, force: bool) {
        unix::end_group(leader, force);
    }

    fn is_in_group(pid: u32, leader: u32) -> bool {
        unix::is_in_group(pid, leader)
    }

    fn hand_on(command: &mut Command, descriptors: &[i32], names: &str) -> io::Result<()> {
        keep::hand_on(command, descriptors, names)
    }

    fn notify_for(pid: u32, state: &str, descriptors: &[i32]) -> io::Result<()> {
        manager::notify_for(pid, state, descriptors)
    }

    fn become_command(command: &mut Command) -> io::Result<u8> {
        unix::become_command(command)
    }

    fn all_listeners(&self, protocol: Protocol) -> Result<Vec<Socket>, String> {
        let ports: Vec<Port> = Port::all(protocol).collect();
        let sockets = LinuxTable(self.netns.clone()).with_holders(&ports);
        let mut sockets = sockets.map_err(|error| error.to_string())?;
        sockets.retain(Socket::serves);
        Ok(sockets)
    }

    fn titled(program: &Path, title: &str) -> io::Result<Command> {
        Ok(unix::titled(program, title))
    }
}

/// An observer by kernel events, and what is lost because hooks are missing.
fn observe(
    ports: &[Port],
    scope: Scope,
    wanted: Wanted,
) -> Result<(Box<EbpfObserver>, Vec<String>), ObserveError> {
    let observer = EbpfObserver::new(ports, scope, wanted)?;
    let losses = observer.hooks().iter().filter_map(loss).collect();
    Ok((Box::new(observer), losses))
}

/// What is lost without the hook, as a sentence; `None` when it is attached.
fn loss(hook: &Hook) -> Option<String> {
    let Hook { name, gives, failure } = hook;
    failure.as_ref().map(|why| format!("no {gives}: {name} can't be attached ({why})"))
}

/// Whether the environment's `GATEWATCH_WITHOUT`, a comma-separated list, names a part that is to be done without: to work
/// around a kernel on which it misbehaves, and to test the rest without it.
fn is_switched_off(part: &str) -> bool {
    std::env::var("GATEWATCH_WITHOUT").is_ok_and(|list| list.split(',').any(|name| name.trim() == part))
}

/// Prepares a socket for a proof bind.
fn prepare_bind(socket: &OwnedFd) {
    // The kernel program ignores marked sockets. Without the privilege the socket is not marked, and other watchers
    // report this bind.
    let _ = setsockopt(socket, sockopt::Mark, &OWN_MARK);
    // The address may have been removed from its interface by now; the question is only about the port.
    let _ = setsockopt(socket, sockopt::IpFreebind, &true);
}
