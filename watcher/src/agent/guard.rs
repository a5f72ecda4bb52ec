//! The guards of ports: whom they let in, and how that becomes known.
//!
//! What the kernel compares at each bind is the user of a process and the file that it runs, never a name.
//! The configuration names them, or users are learned from those who have the port and match its rules, which only user space
//! can judge. All that is looked up is looked up off the loop, once a second; the loop itself tells the kernel that it lives.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tracing::{info, warn};

use super::makers::is_match;
use crate::model::{Port, Socket};
use crate::platform::Host;
use crate::platform::contract::{Admitted, Guard, ProcessHandle, ProgramNumber, System as _};
use crate::steps::identify::Rules;
use crate::wire::agent::{AdmittedJson, GuardJson};

/// A look that takes longer is told.
const LATE: Duration = Duration::from_secs(5);

/// Who may bind a port that is guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whom {
    /// The users who run what has the port and matches. Until there is one, everybody.
    Matches,
    /// These users, if any are named, by these programs, if any are.
    Named { users: Vec<u32>, programs: Vec<PathBuf> },
}

/// What is guarded.
#[derive(Clone, Default)]
pub(super) struct Guards(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// `None` until a port is to be guarded.
    kernel: Option<Box<dyn Guard>>,
    ports: BTreeMap<Port, Guarded>,
    /// What was begun before the last reload is of no use any more.
    reloads: u64,
    /// When it was begun to look things up: there as long as that goes on.
    looking: Weak<Instant>,
}

struct Guarded {
    whom: Whom,
    /// Those whom the kernel lets in. Everybody, if there is nobody.
    admitted: Vec<Entry>,
    /// The named programs that were found.
    programs: Vec<Program>,
    /// Why others are not let in who should be.
    wrong: Option<String>,
}

/// Somebody who is let in, and the path of the program, if one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    who: Admitted,
    path: Option<PathBuf>,
}

/// A program that was found at a path. Its file is kept open, because the number of one that is gone is given to another.
#[derive(Debug, Clone)]
struct Program {
    path: PathBuf,
    file: Arc<File>,
    number: ProgramNumber,
    /// What was there before, which may still run, and bind again.
    before: Option<(Arc<File>, ProgramNumber)>,
}

/// Who has a port at this moment, and what may have it.
pub(super) struct Held {
    pub(super) port: Port,
    pub(super) sockets: Vec<Socket>,
    pub(super) rules: Rules,
}

impl Guards {
    /// Guards these ports from now on. What is known of a port stays known if the same is to be let in as before, unless that is
    /// to be learned.
    ///
    /// # Errors
    /// Why they can't be guarded.
    pub(super) fn set(
        &self,
        ports: BTreeMap<Port, Whom>,
        begin: impl FnOnce() -> Result<Box<dyn Guard>, String>,
    ) -> Result<(), String> {
        // To begin takes what another thread may have for long, and the loop asks for the state each second.
        let begun = if ports.is_empty() || self.are_there() { None } else { Some(begin()?) };
        let mut state = self.state();
        state.reloads += 1;
        // One that hangs at a path of before is waited for no longer.
        state.looking = Weak::new();
        if let Some(mut kernel) = begun {
            kernel.beat();
            state.kernel = Some(kernel);
        }
        if state.kernel.is_none() {
            return Ok(());
        }
        let mut before = std::mem::take(&mut state.ports);
        for (port, whom) in ports {
            let known = before.remove(&port).filter(|known| known.whom == whom && whom != Whom::Matches);
            let begin = || Guarded { admitted: named(&whom, &[]), whom, programs: Vec::new(), wrong: None };
            state.ports.insert(port, known.unwrap_or_else(begin));
        }
        let State { kernel, ports, .. } = &mut *state;
        let Some(kernel) = kernel else { return Ok(()) };
        let mut failed = None;
        for port in before.into_keys().filter(|port| !ports.contains_key(port)) {
            failed = failed.or(kernel.set(port, &[]).err());
        }
        for (&port, guarded) in ports {
            failed = failed.or(kernel.set(port, &whom(&guarded.admitted)).err());
        }
        failed.map_or(Ok(()), |error| Err(format!("the kernel refuses: {error}")))
    }

    /// Whether there are any, in the kernel.
    pub(super) fn are_there(&self) -> bool {
        self.state().kernel.is_some()
    }

    /// The ports whose users are to be learned, and are not known yet.
    pub(super) fn unknown(&self) -> Vec<Port> {
        let state = self.state();
        let unknown = |(_, it): &(&Port, &Guarded)| it.whom == Whom::Matches && it.admitted.is_empty();
        state.ports.iter().filter(unknown).map(|(&port, _)| port).collect()
    }

    /// Tells the kernel that the agent lives. After ten seconds without that, guarded ports are open.
    pub(super) fn beat(&self) {
        if let Some(kernel) = &mut self.state().kernel {
            kernel.beat();
        }
    }

    /// Learns from those who have a port, and looks where programs are now: after an upgrade, another file is in their place.
    pub(super) fn look(&self, held: Vec<Held>, host: &Host) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (looking, reloads, named) = {
            let mut state = self.state();
            let named = state.named();
            // A path can lead to where an answer never comes.
            if state.looking.strong_count() > 0 || (held.is_empty() && named.is_empty()) {
                return;
            }
            let looking = Arc::new(Instant::now());
            state.looking = Arc::downgrade(&looking);
            (looking, state.reloads, named)
        };
        let (guards, host) = (self.clone(), host.clone());
        runtime.spawn_blocking(move || {
            let _looking = looking;
            for (port, known, paths) in named {
                let (programs, wrong) = guards.find(&known, &paths, &host);
                guards.found(port, reloads, &programs, wrong);
            }
            for Held { port, sockets, rules } in held {
                let learned = users_of(&sockets, &host, &rules);
                guards.learned(port, reloads, learned);
            }
        });
    }

    /// The programs at these paths; of what can't be had, what was known before, and why.
    fn find(&self, known: &[Program], paths: &[PathBuf], host: &Host) -> (Vec<Program>, Option<String>) {
        let (mut found, mut wrong) = (Vec::new(), None);
        for path in paths {
            let known = known.iter().find(|known| known.path == *path);
            let opened = host.program_at(path);
            let numbered = opened.and_then(|file| match &self.state().kernel {
                Some(kernel) => Ok((kernel.number(&file)?, Arc::new(file))),
                None => Err(std::io::ErrorKind::NotFound.into()),
            });
            match numbered {
                Ok((number, file)) if known.is_none_or(|known| known.number != number) => {
                    let before = known.map(|known| (Arc::clone(&known.file), known.number));
                    found.push(Program { path: path.clone(), file, number, before });
                }
                Ok(_) => found.extend(known.cloned()),
                Err(error) => {
                    // One that is missing may be about to be replaced.
                    found.extend(known.cloned());
                    wrong = Some(format!("the program {}: {error}", path.display()));
                }
            }
        }
        (found, wrong)
    }

    /// Lets in by these programs, once all that are named are known.
    fn found(&self, port: Port, reloads: u64, programs: &[Program], wrong: Option<String>) {
        let admitted = {
            let mut state = self.state();
            let is_stale = state.reloads != reloads;
            let Some(guarded) = state.ports.get_mut(&port).filter(|_| !is_stale) else { return };
            programs.clone_into(&mut guarded.programs);
            named(&guarded.whom, programs)
        };
        self.learned(port, reloads, Learned { admitted, wrong });
    }

    fn learned(&self, port: Port, reloads: u64, learned: Learned) {
        let mut state = self.state();
        let State { kernel, ports, reloads: now, .. } = &mut *state;
        let Some((kernel, guarded)) = kernel.as_mut().zip(ports.get_mut(&port)) else { return };
        if *now != reloads {
            return;
        }
        let Learned { admitted, wrong } = learned;
        guarded.wrong = wrong;
        if admitted.is_empty() || admitted == guarded.admitted {
            return;
        }
        match kernel.set(port, &whom(&admitted)) {
            Ok(()) => {
                for it in admitted.iter().filter(|it| !guarded.admitted.contains(it)) {
                    info!("the guard of port {port} lets in {}", AdmittedJson::from(it));
                }
                guarded.admitted = admitted;
            }
            Err(error) => guarded.wrong = Some(format!("the kernel refuses: {error}")),
        }
    }

    /// What is wrong with the guards, as a sentence.
    pub(super) fn wrong(&self) -> Option<String> {
        let state = self.state();
        let wrong = |(port, it): (&Port, &Guarded)| Some(format!("port {port}: {}", it.wrong.as_ref()?));
        let is_late = state.looking.upgrade().is_some_and(|since| since.elapsed() > LATE);
        let late = is_late.then(|| "a look for programs or users takes long: does a path hang?".to_owned());
        let all: Vec<String> = state.ports.iter().filter_map(wrong).chain(late).collect();
        (!all.is_empty())
            .then(|| format!("not everybody is let in to guarded ports who should be: {}", all.join("; ")))
    }

    /// Lets a process in to all ports, with those that it starts, until it ends.
    ///
    /// # Errors
    /// Why that can't be done: nothing is guarded, or the kernel refuses.
    pub(super) fn override_for(&self, pid: u32, mut process: Box<dyn ProcessHandle>) -> Result<(), String> {
        {
            let mut state = self.state();
            let Some(kernel) = &mut state.kernel else { return Err("no port is guarded".to_owned()) };
            kernel.override_for(pid, true).map_err(|error| format!("the kernel refuses: {error}"))?;
        }
        let guards = self.clone();
        tokio::spawn(async move {
            let _ = std::future::poll_fn(|cx| process.poll_exit(cx)).await;
            if let Some(kernel) = &mut guards.state().kernel
                && let Err(error) = kernel.override_for(pid, false)
            {
                warn!(pid, %error, "a process that has ended can't be taken off the list of those who override guards");
            }
        });
        Ok(())
    }

    /// What is guarded, and whom it lets in.
    pub(super) fn described(&self) -> Vec<GuardJson> {
        let state = self.state();
        let guard = |(port, guarded): (&Port, &Guarded)| GuardJson {
            port: port.number,
            protocol: port.protocol,
            admitted: guarded.admitted.iter().map(AdmittedJson::from).collect(),
        };
        state.ports.iter().map(guard).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The ports of which programs are named: those that are known, and their paths.
    fn named(&self) -> Vec<(Port, Vec<Program>, Vec<PathBuf>)> {
        let named = self.ports.iter().filter_map(|(&port, it)| match &it.whom {
            Whom::Named { programs, .. } if !programs.is_empty() => {
                Some((port, it.programs.clone(), programs.clone()))
            }
            Whom::Named { .. } | Whom::Matches => None,
        });
        named.collect()
    }
}

/// Those who are named, by the programs that are known; nobody, if one is named that is not.
fn named(whom: &Whom, known: &[Program]) -> Vec<Entry> {
    let Whom::Named { users, programs } = whom else { return Vec::new() };
    if programs.is_empty() {
        return users.iter().map(|&user| Entry::of_user(user)).collect();
    }
    if !programs.iter().all(|path| known.iter().any(|known| known.path == *path)) {
        return Vec::new();
    }
    let users: Vec<Option<u32>> =
        if users.is_empty() { vec![None] } else { users.iter().copied().map(Some).collect() };
    let mut entries = Vec::new();
    for known in known {
        let before = known.before.as_ref().map(|(_, number)| *number);
        for number in [Some(known.number), before].into_iter().flatten() {
            let by = |&user| Entry {
                who: Admitted { user, program: Some(number) },
                path: Some(known.path.clone()),
            };
            entries.extend(users.iter().map(by));
        }
    }
    entries
}

/// What the kernel is told of them.
fn whom(entries: &[Entry]) -> Vec<Admitted> {
    entries.iter().map(|entry| entry.who).collect()
}

impl Entry {
    fn of_user(user: u32) -> Self {
        Self { who: Admitted { user: Some(user), program: None }, path: None }
    }
}

impl From<&Entry> for AdmittedJson {
    fn from(entry: &Entry) -> Self {
        let program = entry.path.as_ref().map(|path| path.display().to_string());
        Self { program, uid: entry.who.user }
    }
}

/// Whom to let in, as far as that is known now.
#[derive(Default)]
struct Learned {
    admitted: Vec<Entry>,
    wrong: Option<String>,
}

/// The users of those who have the sockets, if all that hold one of them match: a socket that a supervisor has made for its
/// service is the supervisor's to bind. The socket's maker is let in as well, because who gives up its privileges after a bind
/// needs them for the next one.
fn users_of(sockets: &[Socket], host: &Host, rules: &Rules) -> Learned {
    let mut learned = Learned::default();
    let (mut owner, mut others) = (None, false);
    for socket in sockets.iter().filter(|socket| socket.owns_port()) {
        let user = |pid| {
            let process = host.process(pid).ok().filter(|process| is_match(rules, process))?;
            process.uid
        };
        let users: Option<Vec<u32>> =
            socket.descriptors.iter().map(|descriptor| user(descriptor.pid)).collect();
        let Some(users) = users.filter(|users| !users.is_empty()) else {
            others = true;
            continue;
        };
        for uid in users {
            if owner.is_some_and(|owner| owner != uid) {
                let wrong = "several users have it, and match: name those who may under `guard`".to_owned();
                return Learned { admitted: Vec::new(), wrong: Some(wrong) };
            }
            owner = Some(uid);
            for user in [Some(uid), socket.uid].into_iter().flatten() {
                let it = Entry::of_user(user);
                if !learned.admitted.contains(&it) {
                    learned.admitted.push(it);
                }
            }
        }
    }
    if others && !learned.admitted.is_empty() {
        let wrong = "what does not match holds it as well: name those who may under `guard`".to_owned();
        return Learned { admitted: Vec::new(), wrong: Some(wrong) };
    }
    learned
}
