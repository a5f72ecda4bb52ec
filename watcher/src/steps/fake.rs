//! A fake system for pure rules: a table of parents, and processes that need not exist.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::model::{Descriptor, Parent, Process, ProcessState, Socket, StartTime};
use crate::platform::contract::{
    Ancestor, Bind, BindAddress, BindAs, ProcessError, ProcessHandle, SignalError, System,
};

/// A process with these arguments.
pub(crate) fn process(argv: &[&str]) -> Process {
    Process {
        pid: 100,
        start_time: StartTime { raw: 1, wall: SystemTime::UNIX_EPOCH },
        parent: Some(Parent { pid: 1, comm: None }),
        session: None,
        uid: Some(0),
        effective_uid: Some(0),
        user: None,
        state: ProcessState::Running,
        comm: argv.first().copied().unwrap_or_default().chars().take(15).collect(),
        argv: Some(argv.iter().map(ToString::to_string).collect()),
        exe: Some("/usr/bin/thing".into()),
        exe_owner: Some(0),
        cwd: None,
        root: None,
        unit: None,
        container: None,
        pod: None,
        naming: None,
        argv_cut: false,
    }
}

#[derive(Default)]
pub(crate) struct FakeSystem {
    parents: HashMap<u32, u32>,
    /// What is known of a parent where it is not simply in the table: one answer after another, the last one for good.
    answers: Mutex<HashMap<u32, VecDeque<Ancestor>>>,
    processes: Vec<Process>,
    own_init: Option<u32>,
    binds_succeed: bool,
    /// Whether those without `SO_REUSEADDR` fail nevertheless.
    plain_binds_fail: bool,
    /// The binds that were tried.
    pub(crate) binds: Mutex<Vec<BindAs>>,
}

impl FakeSystem {
    pub(crate) fn with_parents(parents: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self { parents: parents.into_iter().collect(), ..Self::default() }
    }

    /// Answers with these for the parent of a process, one after another.
    pub(crate) fn answering(self, pid: u32, answers: impl IntoIterator<Item = Ancestor>) -> Self {
        self.answers.lock().unwrap().insert(pid, answers.into_iter().collect());
        self
    }

    /// With a process that can be read.
    pub(crate) fn with_process(mut self, process: Process) -> Self {
        self.processes.push(process);
        self
    }

    /// Where the program ends with this process.
    pub(crate) fn under_init(mut self, pid: u32) -> Self {
        self.own_init = Some(pid);
        self
    }

    /// A system on which every bind succeeds, even beside a listener.
    pub(crate) fn with_binds_that_succeed() -> Self {
        Self { binds_succeed: true, ..Self::default() }
    }

    /// One on which those succeed that share the port with a socket that has `SO_REUSEADDR` as well.
    pub(crate) fn with_binds_that_share() -> Self {
        Self { plain_binds_fail: true, ..Self::with_binds_that_succeed() }
    }
}

impl System for FakeSystem {
    fn process(&self, pid: u32) -> Result<Process, ProcessError> {
        self.processes.iter().find(|process| process.pid == pid).cloned().ok_or(ProcessError::Gone)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        self.parents.get(&pid).copied()
    }

    fn ancestor(&self, pid: u32) -> Ancestor {
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(&pid) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers[0],
            None => self.parent(pid).map_or(Ancestor::Top, Ancestor::Parent),
        }
    }

    fn own_init(&self) -> Option<u32> {
        self.own_init
    }

    fn open(&self, _pid: u32) -> Result<Box<dyn ProcessHandle>, SignalError> {
        Err(SignalError::Gone)
    }

    fn holds(&self, _descriptor: &Descriptor, _socket: &Socket) -> io::Result<bool> {
        Ok(false)
    }

    fn try_bind(&self, _address: &BindAddress, how: BindAs) -> Bind {
        self.binds.lock().unwrap().push(how);
        let fails = !self.binds_succeed || (how == BindAs::Plain && self.plain_binds_fail);
        if fails { Bind::Taken } else { Bind::Free { conclusive: false } }
    }
}
