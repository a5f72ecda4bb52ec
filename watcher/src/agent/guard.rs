//! The guards of ports: whom they let in, and how that becomes known.
//!
//! Whoever matches the port's rules is judged here, where a process can be read whole. What the kernel compares at each bind is
//! the file that a process runs, and its user: it can't be given another name. Until a match was seen to have the port, nobody
//! is known who could be let in, and the port is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::makers::{LATER, is_match};
use crate::model::{Port, Socket, WatchEvent, WatchKind};
use crate::platform::Host;
use crate::platform::contract::{FileId, Guard, Platform as _, ProcessHandle, Program, System as _};
use crate::steps::identify::Rules;
use crate::wire::agent::{AdmittedJson, GuardJson};

/// So many processes are judged at once, of users who may be let in.
const AT_ONCE: usize = 8;
/// So many programs are let in to one port: each upgrade adds one.
const MOST_PROGRAMS: usize = 64;

/// What is guarded.
#[derive(Default)]
pub(super) struct Guards(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// `None` until a port is to be guarded.
    kernel: Option<Box<dyn Guard>>,
    ports: BTreeMap<Port, Vec<Admitted>>,
    under_way: usize,
    /// What was begun before the last reload is of no use any more.
    reloads: u64,
    is_following: bool,
}

/// A program that a user may run on a port.
struct Admitted {
    uid: u32,
    path: PathBuf,
    file: FileId,
    /// Whether the path leads to it from here too. In a container it need not.
    is_here: bool,
}

/// A process that matches: what it runs, and from where.
struct Judged {
    program: Program,
    path: PathBuf,
    is_here: bool,
}

impl Guards {
    /// Guards these ports from now on, and begins anew to learn whom to let in.
    ///
    /// # Errors
    /// Why they can't be guarded.
    pub(super) fn set(
        &self,
        ports: &[Port],
        begin: impl FnOnce() -> Result<Box<dyn Guard>, String>,
    ) -> Result<(), String> {
        let mut state = self.state();
        let before = std::mem::take(&mut state.ports);
        state.reloads += 1;
        if state.kernel.is_none() {
            if ports.is_empty() {
                return Ok(());
            }
            state.kernel = Some(begin()?);
        }
        state.ports = ports.iter().map(|&port| (port, Vec::new())).collect();
        let Some(kernel) = &mut state.kernel else { return Ok(()) };
        kernel.set_ports(&[]).map_err(|error| error.to_string())?;
        before.keys().for_each(|&port| kernel.forget(port));
        Ok(())
    }

    /// Takes note of an event in the agent's own network namespace. A process that matches is let in: the first one by whatever
    /// user, after that those of users who have been let in.
    pub(super) fn note(&self, event: &WatchEvent, host: &Host, rules: impl FnOnce() -> Option<Rules>) {
        if !matches!(event.kind, WatchKind::Bind | WatchKind::Listen | WatchKind::Refused)
            || event.netns.is_some_and(|netns| netns != host.netns())
        {
            return;
        }
        let (Some(pid), Some(uid), Ok(runtime)) = (event.pid, event.uid, Handle::try_current()) else {
            return;
        };
        let reloads = {
            let mut state = self.state();
            if !state.may_admit(event.port, uid) || state.under_way >= AT_ONCE {
                return;
            }
            state.under_way += 1;
            state.reloads
        };
        let (guards, host, rules) = (Self(Arc::clone(&self.0)), host.clone(), rules());
        let (port, latest) = (event.port, event.time + LATER);
        runtime.spawn_blocking(move || {
            let judged = rules.and_then(|rules| {
                let begun = host.process(pid).ok()?.start_time.wall;
                (begun <= latest).then(|| judge(&host, pid, &rules)).flatten()
            });
            let mut state = guards.state();
            state.under_way -= 1;
            if let Some(judged) = judged.filter(|_| state.reloads == reloads) {
                state.admit(port, judged, uid);
            }
        });
    }

    /// Lets in those who hold the port already, if all that hold it match: a socket that a supervisor has made for its service is
    /// the supervisor's to bind.
    pub(super) fn learn(&self, port: Port, sockets: Vec<Socket>, host: &Host, rules: Rules) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (guards, host, reloads) = (Self(Arc::clone(&self.0)), host.clone(), self.state().reloads);
        runtime.spawn_blocking(move || {
            for socket in sockets {
                let mut pids: Vec<u32> = socket.descriptors.iter().map(|descriptor| descriptor.pid).collect();
                pids.dedup();
                let judged: Option<Vec<_>> = pids.into_iter().map(|pid| judge(&host, pid, &rules)).collect();
                let mut state = guards.state();
                for judged in judged.into_iter().flatten() {
                    if let Some(uid) = socket.uid.filter(|_| state.reloads == reloads) {
                        state.admit(port, judged, uid);
                    }
                }
            }
        });
    }

    /// Looks whether another file has come to where a program was: an upgrade, most likely, which would be refused else.
    pub(super) fn follow_programs(&self, host: &Host) {
        let Ok(runtime) = Handle::try_current() else { return };
        {
            let mut state = self.state();
            if state.is_following || state.ports.values().all(Vec::is_empty) {
                return;
            }
            state.is_following = true;
        }
        let (guards, host) = (Self(Arc::clone(&self.0)), host.clone());
        runtime.spawn_blocking(move || {
            let known: Vec<(Port, u32, PathBuf, FileId)> = {
                let state = guards.state();
                let all =
                    state.ports.iter().flat_map(|(port, admitted)| admitted.iter().map(move |it| (port, it)));
                all.filter(|(_, it)| it.is_here)
                    .map(|(&port, it)| (port, it.uid, it.path.clone(), it.file))
                    .collect()
            };
            for (port, uid, path, before) in known {
                // A path can lead to where an answer takes long, so the lock is not held meanwhile.
                if let Ok(now) = host.program_at(&path)
                    && !now.id.is_same(&before)
                {
                    guards.state().replace(port, uid, &path, &now);
                }
            }
            guards.state().is_following = false;
        });
    }

    /// Lets a process in to all ports, with those that it starts, until it ends.
    ///
    /// # Errors
    /// Why that can't be done: nothing is guarded, or the kernel refuses.
    pub(super) fn override_for(&self, pid: u32, mut process: Box<dyn ProcessHandle>) -> Result<(), String> {
        let said = |error: std::io::Error| format!("the kernel refuses: {error}");
        {
            let mut state = self.state();
            let Some(kernel) = &mut state.kernel else { return Err("no port is guarded".to_owned()) };
            kernel.override_for(pid, true).map_err(said)?;
        }
        let guards = Self(Arc::clone(&self.0));
        tokio::spawn(async move {
            let _ = std::future::poll_fn(|cx| process.poll_exit(cx)).await;
            if let Some(kernel) = &mut guards.state().kernel {
                let _ = kernel.override_for(pid, false);
            }
        });
        Ok(())
    }

    /// What is guarded, and whom it lets in.
    pub(super) fn described(&self) -> Vec<GuardJson> {
        let admitted = |it: &Admitted| AdmittedJson { program: it.path.display().to_string(), uid: it.uid };
        let state = self.state();
        let guard = |(port, programs): (&Port, &Vec<Admitted>)| GuardJson {
            port: port.number,
            protocol: port.protocol,
            admitted: programs.iter().map(admitted).collect(),
        };
        state.ports.iter().map(guard).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a match that this user runs would be let in.
    fn may_admit(&self, port: Port, uid: u32) -> bool {
        self.ports.get(&port).is_some_and(|admitted| {
            admitted.len() < MOST_PROGRAMS
                && (admitted.is_empty() || admitted.iter().any(|admitted| admitted.uid == uid))
        })
    }

    fn admit(&mut self, port: Port, judged: Judged, uid: u32) {
        let Judged { program, path, is_here } = judged;
        if !self.may_admit(port, uid) {
            return;
        }
        let Some((kernel, admitted)) = self.kernel.as_mut().zip(self.ports.get_mut(&port)) else { return };
        let is_known = |it: &Admitted| it.uid == uid && it.file.is_same(&program.id);
        if admitted.iter().any(is_known) {
            return;
        }
        if let Err(error) = kernel.admit(port, &program.file, uid) {
            warn!(%port, program = %path.display(), %error, "the guard can't let a program in");
            return;
        }
        info!(%port, program = %path.display(), uid, "the guard lets in");
        admitted.push(Admitted { uid, path, file: program.id, is_here });
        self.close();
    }

    /// Lets in the file that has come to where another was.
    fn replace(&mut self, port: Port, uid: u32, path: &Path, program: &Program) {
        let Some((kernel, admitted)) = self.kernel.as_mut().zip(self.ports.get_mut(&port)) else { return };
        let Some(it) = admitted.iter_mut().find(|it| it.uid == uid && it.path == path) else { return };
        match kernel.admit(port, &program.file, uid) {
            Ok(()) => {
                info!(%port, program = %path.display(), uid, "the guard lets in the new file");
                it.file = program.id;
            }
            Err(error) => debug!(%error, "the guard can't let the new file in"),
        }
    }

    /// Closes each port of which it is known whom to let in.
    fn close(&mut self) {
        let known = self.ports.iter().filter(|(_, admitted)| !admitted.is_empty());
        let ports: Vec<Port> = known.map(|(&port, _)| port).collect();
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.set_ports(&ports)
        {
            warn!(%error, "ports can't be guarded");
        }
    }
}

/// What a process that matches runs; `None` if it does not, or has become another meanwhile.
fn judge(host: &Host, pid: u32, rules: &Rules) -> Option<Judged> {
    let before = host.incarnation(pid)?;
    let process = host.process(pid).ok().filter(|process| is_match(rules, process))?;
    let (program, path) = (host.program_of(pid).ok()?, process.exe?);
    let is_here = host.program_at(&path).is_ok_and(|here| here.id.is_same(&program.id));
    (host.incarnation(pid) == Some(before)).then_some(Judged { program, path, is_here })
}
