//! The command of a restart, its processes, and the processes that take the port: whose they are, and when they end.

use std::collections::{HashMap, HashSet};
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::args::Format;
use super::exit::CliError;
use super::unit;
use crate::model::{EndSignal, Port, Process, Protocol, Socket, Verdict, WatchEvent};
use crate::platform::Host;
use crate::platform::contract::{Platform, ProcessError, ProcessHandle, SignalError, System};
use crate::restart::{By, NewOwner, Whose};
use crate::steps::identify::Rules;
use crate::steps::keep::Keeper;

/// The longest chain of ancestors that is walked.
const GENERATIONS: usize = 128;

/// The processes that a restart follows.
pub(super) struct Started {
    host: Host,
    /// What a new owner of each port may match.
    rules: HashMap<Port, Rules>,
    /// The unit that is restarted, by its own name.
    unit: Option<String>,
    child: Option<Child>,
    /// The command's pid, also after its end.
    pid: Option<u32>,
    leads_group: bool,
    /// The command's processes that were seen: one whose parent has ended may have got another.
    seen: HashSet<u32>,
    /// The command's processes that were last seen to match the rules for a port.
    tried: HashMap<Port, HashSet<u32>>,
    /// The processes that are followed to their end.
    followed: Vec<(u32, Box<dyn ProcessHandle>)>,
}

impl Started {
    pub(super) fn new(host: Host, rules: HashMap<Port, Rules>, unit: Option<String>) -> Self {
        let (seen, followed) = (HashSet::new(), Vec::new());
        let tried = HashMap::new();
        Self { host, rules, unit, child: None, pid: None, leads_group: false, seen, tried, followed }
    }

    /// Starts the command. It gets a process group of its own only if that will be needed to end it: on a terminal, the
    /// leader of another group can't ask for a password.
    pub(super) fn start(
        &mut self,
        argv: &[String],
        format: Format,
        lead_group: bool,
        keeper: &Keeper,
    ) -> Result<(), CliError> {
        let (program, arguments) =
            argv.split_first().ok_or_else(|| CliError::Usage("the command is empty".to_owned()))?;
        let mut command = Command::new(program);
        command.args(arguments);
        if format == Format::Json {
            // Ours carries only the answer.
            command.stdout(Stdio::from(std::io::stderr()));
        }
        if lead_group {
            Host::lead_group(command.as_std_mut());
        }
        Host::keep_descendants();
        let failed = |error| CliError::Command { program: program.clone(), error };
        if !keeper.is_empty() {
            let (descriptors, names) = keeper.descriptors();
            Host::hand_on(command.as_std_mut(), &descriptors, &names).map_err(failed)?;
        }
        let child = command.spawn().map_err(failed)?;
        (self.pid, self.leads_group) = (child.id(), lead_group);
        self.child = Some(child);
        Ok(())
    }

    /// The command's pid; `None` if it was not started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The command's pid while it runs.
    pub(super) fn running(&self) -> Option<u32> {
        self.child.as_ref().and(self.pid)
    }

    /// The processes of the command: all that descend from this program.
    pub(super) fn processes(&self) -> Vec<u32> {
        let mut pids = self.host.children(std::process::id());
        add_descendants(&self.host, &mut pids, GENERATIONS);
        pids
    }

    /// A process of the command that has taken over a kept socket.
    pub(super) fn new_owner(&self, pid: u32, address: Option<SocketAddr>) -> NewOwner {
        let (comm, uid) = self.host.name(pid).map_or((None, None), |(comm, uid)| (Some(comm), uid));
        NewOwner { pid: Some(pid), uid, comm, address, by: None }
    }

    /// Whose process an event is about.
    pub(super) fn whose(&mut self, event: &WatchEvent) -> Whose {
        let Some(pid) = event.pid else { return Whose::Unseen };
        if self.is_commands(pid) {
            return Whose::AskedFor(By::Command);
        }
        match self.host.process(pid) {
            Err(ProcessError::Gone) => Whose::Unseen,
            Err(ProcessError::Unreadable(_)) => Whose::Stranger,
            Ok(process) => {
                let is_units = self.unit.as_ref().is_some_and(|unit| unit::has(unit, &process));
                let matches =
                    |rules: &Rules| !rules.is_any() && rules.judge(&process).verdict == Verdict::Match;
                if is_units {
                    Whose::AskedFor(By::Unit)
                } else if self.rules.get(&event.port).is_some_and(matches) {
                    Whose::Matching
                } else {
                    Whose::Stranger
                }
            }
        }
    }

    /// Whether the socket of an event is on all IPv6 addresses and leaves IPv4's alone: the system's tables tell it.
    pub(super) fn is_ipv6_alone(&self, event: &WatchEvent) -> bool {
        let Some(address) = event.address.filter(|it| it.is_ipv6() && it.ip().is_unspecified()) else {
            return false;
        };
        let is_it = |socket: &Socket| {
            let is_same = event.cookie.is_none() || socket.cookie == event.cookie;
            socket.address == address && is_same && socket.v6_only == Some(true)
        };
        self.host.all_listeners(event.port.protocol).unwrap_or_default().iter().any(is_it)
            || self.host.bound(event.port).unwrap_or_default().iter().any(is_it)
    }

    /// Whether a process of the command matches the rules for a port and runs on.
    pub(super) fn is_match(&mut self, port: Port) -> bool {
        !self.matches(port).is_empty()
    }

    /// Whether the command starts one match for a port after another: what it starts ends without the port. Where no events
    /// tell of binds that fail, that is how one that tries again and again is known.
    pub(super) fn tries_again(&mut self, port: Port) -> bool {
        let now = self.matches(port);
        if now.is_empty() {
            return false;
        }
        let before = self.tried.insert(port, now.clone());
        before.is_some_and(|before| now.is_disjoint(&before))
    }

    /// The processes of the command that match the rules for a port.
    fn matches(&self, port: Port) -> HashSet<u32> {
        let Some(rules) = self.rules.get(&port).filter(|rules| !rules.is_any()) else {
            return HashSet::new();
        };
        let mut pids: Vec<u32> = self.running().into_iter().collect();
        add_descendants(&self.host, &mut pids, GENERATIONS);
        let matches = |process: &Process| rules.judge(process).verdict == Verdict::Match;
        pids.retain(|&pid| self.host.process(pid).is_ok_and(|process| matches(&process)));
        pids.into_iter().collect()
    }

    /// Whether it is a process of the command: the command itself, or a descendant of it or, where orphans become ours, of
    /// this program.
    fn is_commands(&mut self, pid: u32) -> bool {
        let Some(command) = self.pid else { return false };
        let own = std::process::id();
        let ancestry = ancestry(&self.host, pid);
        let found = ancestry.iter().position(|&pid| {
            pid == command || (pid == own && pid != ancestry[0]) || self.seen.contains(&pid)
        });
        if let Some(found) = found {
            self.seen.extend(ancestry[..found].iter().copied());
        }
        found.is_some() || (self.leads_group && Host::is_in_group(pid, command))
    }

    /// Follows the process to its end.
    pub(super) fn follow(&mut self, pid: u32) {
        let known = self.pid == Some(pid) || self.followed.iter().any(|(known, _)| *known == pid);
        if known {
            return;
        }
        match self.host.open(pid) {
            Ok(handle) => self.followed.push((pid, handle)),
            Err(SignalError::Gone) => self.followed.push((pid, Box::new(Gone))),
            // One that can't be followed is known by its sockets only.
            Err(_) => {}
        }
    }

    /// The next end of the command or of a followed process; pending if there is none.
    pub(super) async fn next_end(&mut self) -> End {
        let Self { child, followed, .. } = self;
        tokio::select! {
            status = exit_of(child) => {
                self.child = None;
                End::Command(status)
            }
            pid = first_end(followed) => End::Process(pid),
        }
    }

    /// The command's end, if that comes within this time. It is reaped, so that it does not count as running.
    pub(super) async fn end_within(&mut self, time: Duration) -> Option<ExitStatus> {
        self.child.as_ref()?;
        let status = timeout(time, exit_of(&mut self.child)).await.ok()?;
        self.child = None;
        Some(status)
    }

    /// Whether the command's processes go on after its own end.
    pub(super) fn leaves_others(&self) -> bool {
        self.child.is_none() && Host::has_descendants()
    }

    /// Where the command's processes serve by this protocol, on any port: each with its pid.
    pub(super) fn listeners(&mut self, protocol: Protocol) -> Vec<(u32, SocketAddr)> {
        let sockets = self.host.all_listeners(protocol).unwrap_or_default();
        let held = sockets
            .iter()
            .flat_map(|socket| socket.descriptors.iter().map(|descriptor| (descriptor.pid, socket.address)));
        let mut listeners: Vec<_> = held.filter(|&(pid, _)| self.is_commands(pid)).collect();
        listeners.sort_unstable();
        listeners.dedup();
        listeners
    }

    /// A process by its name.
    pub(super) fn name(&self, pid: u32) -> String {
        self.host.process(pid).map_or_else(|_| format!("pid {pid}"), |it| format!("{} (pid {pid})", it.comm))
    }

    /// Forgets the command that was ended, so that it can be started again.
    pub(super) fn forget(&mut self) {
        (self.child, self.pid) = (None, None);
        self.seen.clear();
        self.tried.clear();
        self.followed.clear();
    }

    /// Whether the number of the command's process group is still the group's own: until the command's end was seen, and
    /// afterwards while one of its processes is in the group. Later another group can have it.
    pub(super) fn has_group(&self) -> bool {
        let Some(leader) = self.pid.filter(|_| self.leads_group) else { return false };
        self.child.is_some() || self.processes().into_iter().any(|pid| Host::is_in_group(pid, leader))
    }

    /// Ends processes of the command that `is_meant` is still true of once they can't be mistaken for others.
    pub(super) fn end_each(&self, pids: &[u32], force: bool, is_meant: impl Fn(u32) -> bool) {
        for &pid in pids {
            let Ok(handle) = self.host.open(pid) else { continue };
            if !is_meant(pid) {
                continue;
            }
            let asked =
                if force { handle.force().map(drop) } else { handle.terminate(EndSignal::Term).map(drop) };
            if let Err(error) = asked {
                tracing::debug!(pid, %error, "a process of the command can't be ended");
            }
        }
    }

    /// Ends the command and its process group.
    pub(super) async fn end(&mut self, patience: Duration) {
        let Some(leader) = self.pid.filter(|_| self.leads_group) else { return };
        Host::end_group(leader, false);
        let _ = timeout(patience, exit_of(&mut self.child)).await;
        Host::end_group(leader, true);
        // Ended by force, it is gone at once; the exit need not be seen.
        let _ = timeout(Duration::from_millis(100), exit_of(&mut self.child)).await;
    }
}

/// Adds the descendants of these processes, up to so many in all.
pub(super) fn add_descendants(host: &Host, pids: &mut Vec<u32>, most: usize) {
    let mut at = 0;
    while let Some(&pid) = pids.get(at) {
        let children = host.children(pid).into_iter().filter(|child| !pids.contains(child));
        let children: Vec<u32> = children.take(most.saturating_sub(pids.len())).collect();
        pids.extend(children);
        at += 1;
    }
}

/// The process and its ancestors, the nearest first.
pub(super) fn ancestry(host: &Host, pid: u32) -> Vec<u32> {
    std::iter::successors(Some(pid), |&pid| host.parent(pid)).take(GENERATIONS).collect()
}

/// What has ended.
pub(super) enum End {
    Command(ExitStatus),
    /// A followed process.
    Process(u32),
}

/// Waits for the child's exit; forever if there is no child.
async fn exit_of(child: &mut Option<Child>) -> ExitStatus {
    match child {
        Some(child) => match child.wait().await {
            Ok(status) => status,
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

async fn first_end(followed: &mut Vec<(u32, Box<dyn ProcessHandle>)>) -> u32 {
    poll_fn(|cx| {
        let ended = followed.iter_mut().position(|(_, handle)| handle.poll_exit(cx).is_ready());
        ended.map_or(Poll::Pending, |at| Poll::Ready(followed.swap_remove(at).0))
    })
    .await
}

/// A process that had ended before it could be followed.
struct Gone;

impl ProcessHandle for Gone {
    fn terminate(&self, _signal: EndSignal) -> Result<crate::platform::contract::Asked, SignalError> {
        Err(SignalError::Gone)
    }

    fn force(&self) -> Result<&'static str, SignalError> {
        Err(SignalError::Gone)
    }

    fn poll_exit(&mut self, _cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
