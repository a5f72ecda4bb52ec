//! What systems without kernel events have in common: one network, netstat2's table, sysinfo.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, UpdateKind};

use super::contract::{
    AgentObserver, Bind, BindAddress, BindAs, ByEvents, FileId, HistorySystem, Hook, Interest, NetnsError,
    NotObeyed, ObserveError, Observer, Platform, ProcessError, ProcessHandle, Runs, SignalError, System,
};
use super::netstat::SystemTable;
use super::own;
use super::poll::{self, PollObserver};
use super::root_by_name::Root;
use crate::model::{Descriptor, Port, Process, ProcessState, Protocol, Socket, StartTime};

/// The system.
#[derive(Debug, Clone)]
pub(crate) struct Host;

impl System for Host {
    fn process(&self, pid: u32) -> Result<Process, ProcessError> {
        own::process::read(pid)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        own::process::parent(pid)
    }

    fn processes_named(&self, texts: &[&str], _among: Option<Vec<u32>>) -> Vec<u32> {
        let mut system = sysinfo::System::new();
        let what = ProcessRefreshKind::nothing();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let is_named = |process: &sysinfo::Process| {
            let name = process.name().to_string_lossy().to_lowercase();
            texts.iter().any(|text| name.contains(text))
        };
        let all = system.processes().iter();
        all.filter(|entry| is_named(entry.1)).map(|(pid, _)| pid.as_u32()).collect()
    }

    fn open(&self, pid: u32) -> Result<Box<dyn ProcessHandle>, SignalError> {
        Ok(Box::new(own::OwnProcess::open(pid)?))
    }

    fn holds(&self, descriptor: &Descriptor, socket: &Socket) -> io::Result<bool> {
        own::holds(descriptor, socket)
    }

    fn try_bind(&self, address: &BindAddress, how: BindAs) -> Bind {
        own::try_bind(address, how)
    }
}

impl HistorySystem for Host {}

impl Platform for Host {
    const HAS_EVENTS: bool = false;
    const CONFIG: &'static str = own::CONFIG;
    const AGENT_SOCKET: &'static str = own::AGENT_SOCKET;
    const SHELL: [&'static str; 2] = own::SHELL;

    type Signals = own::Signals;
    type Root = Root;

    /// There is only one network.
    fn new(netns: Option<&Path>) -> Result<Self, NetnsError> {
        if netns.is_some() { Err(NetnsError::Unsupported) } else { Ok(Self) }
    }

    fn netns(&self) -> u32 {
        0
    }

    fn by_events(&self, _ports: &[Port], _interest: Interest) -> ByEvents<dyn Observer> {
        Err(poll::no_events())
    }

    fn by_events_everywhere(&self, _ports: &[Port], _protocols: &[Protocol]) -> ByEvents<dyn AgentObserver> {
        Err(poll::no_events())
    }

    fn by_polling(&self, ports: &[Port], pace: Duration) -> Box<dyn AgentObserver> {
        Box::new(PollObserver::new(SystemTable::new(own::process::name), ports, pace))
    }

    fn try_hooks(&self) -> Result<Vec<Hook>, ObserveError> {
        Err(poll::no_events())
    }

    fn monotonic_now() -> u64 {
        own::monotonic_now()
    }

    fn version() -> String {
        sysinfo::System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned())
    }

    fn before_main() -> Option<u8> {
        own::before_main()
    }

    async fn reader_gone() {
        own::reader_gone().await;
    }

    fn caller() -> Option<u32> {
        own::caller()
    }

    fn with_all_rights(words: Vec<String>) -> Option<Vec<String>> {
        own::with_all_rights(words)
    }

    fn open_to_obey(path: &Path) -> Result<File, NotObeyed> {
        own::open_to_obey(path)
    }

    fn file(path: &Path) -> Option<FileId> {
        own::file(path)
    }

    fn is_executable(path: &Path) -> bool {
        own::is_executable(path)
    }

    fn runs(path: &Path) -> Runs {
        own::runs(path)
    }

    /// Orphans get the system's first process as their parent.
    fn keep_descendants() {}

    fn has_descendants() -> bool {
        false
    }

    fn lead_group(command: &mut Command) {
        own::lead_group(command);
    }

    fn end_group(leader: u32, force: bool) {
        own::end_group(leader, force);
    }

    fn is_in_group(pid: u32, leader: u32) -> bool {
        own::is_in_group(pid, leader)
    }

    fn become_command(command: &mut Command) -> io::Result<u8> {
        own::become_command(command)
    }

    fn all_listeners(&self, protocol: Protocol) -> Result<Vec<Socket>, String> {
        super::netstat::servers(protocol)
    }

    fn titled(program: &Path, title: &str) -> io::Result<Command> {
        own::titled(program, title)
    }
}

/// What sysinfo knows about a process.
pub(super) struct ProcessInfo {
    pub(super) name: String,
    pub(super) parent: Option<u32>,
    pub(super) argv: Option<Vec<String>>,
    pub(super) exe: Option<PathBuf>,
    pub(super) cwd: Option<PathBuf>,
}

impl ProcessInfo {
    /// The process, with what these systems do not say left out.
    pub(super) fn into_process(self, pid: u32, start_time: StartTime) -> Process {
        Process {
            pid,
            start_time,
            parent: None,
            session: None,
            uid: None,
            effective_uid: None,
            user: None,
            state: ProcessState::Running,
            comm: self.name,
            argv: self.argv,
            exe: self.exe,
            exe_owner: None,
            argv_cut: false,
            cwd: self.cwd,
            root: None,
            unit: None,
            container: None,
            pod: None,
            naming: None,
        }
    }
}

/// Queries sysinfo about a process; `None` if no process has this pid. Its command line and paths cost more than the
/// rest, so they are read only on request.
pub(super) fn query(pid: u32, whole: bool) -> Option<ProcessInfo> {
    let when = if whole { UpdateKind::Always } else { UpdateKind::Never };
    let what = ProcessRefreshKind::nothing().with_cmd(when).with_exe(when).with_cwd(when);
    let mut system = sysinfo::System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[Pid::from_u32(pid)]), true, what);
    let process = system.process(Pid::from_u32(pid))?;
    let argv: Vec<String> = process.cmd().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Some(ProcessInfo {
        name: process.name().to_string_lossy().into_owned(),
        parent: process.parent().map(Pid::as_u32),
        argv: (!argv.is_empty()).then_some(argv),
        exe: process.exe().map(ToOwned::to_owned),
        cwd: process.cwd().map(ToOwned::to_owned),
    })
}
