//! The guards of ports: whom they let in, and how that becomes known.
//!
//! What the kernel compares at each bind is the user of a process and the file that it runs: neither can be given another name.
//! The configuration names them, or users are learned from those who have the port and match its rules, which only user space
//! can judge. All that is looked up is looked up off the loop, once a second; the loop itself tells the kernel that it lives.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tracing::{info, warn};

use super::makers::is_match;
use crate::model::{Port, Socket};
use crate::platform::Host;
use crate::platform::contract::{Admitted, Guard, ProcessHandle, System as _};
use crate::steps::identify::Rules;
use crate::wire::agent::{AdmittedJson, GuardJson};

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
    /// Another one has it as long as it looks things up.
    looking: Arc<()>,
}

struct Guarded {
    whom: Whom,
    /// Those whom the kernel lets in, each with the program's path. Everybody, if there is nobody.
    admitted: Vec<(Admitted, Option<PathBuf>)>,
    /// Why others are not let in who should be.
    wrong: Option<String>,
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
        let mut state = self.state();
        state.reloads += 1;
        if state.kernel.is_none() {
            if ports.is_empty() {
                return Ok(());
            }
            let mut kernel = begin()?;
            kernel.beat();
            state.kernel = Some(kernel);
        }
        let mut before = std::mem::take(&mut state.ports);
        for (port, whom) in ports {
            let known = before.remove(&port).filter(|known| known.whom == whom && whom != Whom::Matches);
            let open = || Guarded { whom, admitted: Vec::new(), wrong: None };
            state.ports.insert(port, known.unwrap_or_else(open));
        }
        let State { kernel, ports, .. } = &mut *state;
        let Some(kernel) = kernel else { return Ok(()) };
        let is_open = |port: &Port| ports.get(port).is_none_or(|guarded| guarded.admitted.is_empty());
        let closed: Vec<Port> = before.into_keys().chain(ports.keys().copied()).filter(is_open).collect();
        closed.into_iter().try_for_each(|port| kernel.set(port, &[])).map_err(|error| error.to_string())
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
            let state = self.state();
            let named = state.named();
            // A path can lead to where an answer never comes.
            if Arc::strong_count(&state.looking) > 1 || (held.is_empty() && named.is_empty()) {
                return;
            }
            (Arc::clone(&state.looking), state.reloads, named)
        };
        let (guards, host) = (self.clone(), host.clone());
        runtime.spawn_blocking(move || {
            let _looking = looking;
            for Held { port, sockets, rules } in held {
                let learned = users_of(&sockets, &host, &rules);
                guards.learned(port, reloads, learned);
            }
            for (port, users, paths) in named {
                let found = guards.find(&paths, &users, &host);
                guards.learned(port, reloads, found);
            }
        });
    }

    /// Those who run one of these programs, if any are named, as one of these users, if any are.
    fn find(&self, paths: &[PathBuf], users: &[u32], host: &Host) -> Learned {
        let mut learned = Learned::default();
        if paths.is_empty() {
            let user = |&user| (Admitted { user: Some(user), program: None }, None);
            learned.admitted.extend(users.iter().map(user));
        }
        for path in paths {
            let opened = host.program_at(path);
            let number = opened.and_then(|program| match &self.state().kernel {
                Some(kernel) => kernel.number(&program),
                None => Err(std::io::ErrorKind::NotFound.into()),
            });
            match number {
                Ok(number) => {
                    let by = |user| (Admitted { user, program: Some(number) }, Some(path.clone()));
                    let anybody = users.is_empty().then(|| by(None));
                    learned.admitted.extend(users.iter().map(|&user| by(Some(user))).chain(anybody));
                }
                Err(error) => learned.wrong = Some(format!("the program {}: {error}", path.display())),
            }
        }
        learned
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
        // A program that is missing may be about to be replaced.
        if admitted.is_empty() || admitted == guarded.admitted {
            return;
        }
        let whom: Vec<Admitted> = admitted.iter().map(|(admitted, _)| *admitted).collect();
        match kernel.set(port, &whom) {
            Ok(()) => {
                for it in admitted.iter().filter(|it| !guarded.admitted.contains(it)) {
                    info!("the guard of port {port} lets in {}", described(it));
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
        let all: Vec<String> = state.ports.iter().filter_map(wrong).collect();
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
        let admitted = |(who, path): &(Admitted, Option<PathBuf>)| AdmittedJson {
            program: path.as_ref().map(|path| path.display().to_string()),
            uid: who.user,
        };
        let guard = |(port, guarded): (&Port, &Guarded)| GuardJson {
            port: port.number,
            protocol: port.protocol,
            admitted: guarded.admitted.iter().map(admitted).collect(),
        };
        state.ports.iter().map(guard).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The ports whose users and programs are named.
    fn named(&self) -> Vec<(Port, Vec<u32>, Vec<PathBuf>)> {
        let named = self.ports.iter().filter_map(|(&port, it)| match &it.whom {
            Whom::Named { users, programs } => Some((port, users.clone(), programs.clone())),
            Whom::Matches => None,
        });
        named.collect()
    }
}

/// Whom to let in, as far as that is known now.
#[derive(Default)]
struct Learned {
    admitted: Vec<(Admitted, Option<PathBuf>)>,
    wrong: Option<String>,
}

/// The users of those who have the sockets, if all that hold one of them match: a socket that a supervisor has made for its
/// service is the supervisor's to bind. The socket's maker is let in as well, because who gives up its privileges after a bind
/// needs them for the next one.
fn users_of(sockets: &[Socket], host: &Host, rules: &Rules) -> Learned {
    let mut learned = Learned::default();
    let mut owner = None;
    for socket in sockets.iter().filter(|socket| !socket.descriptors.is_empty()) {
        let user = |pid| {
            let process = host.process(pid).ok().filter(|process| is_match(rules, process))?;
            process.uid
        };
        let users: Option<Vec<u32>> =
            socket.descriptors.iter().map(|descriptor| user(descriptor.pid)).collect();
        for uid in users.into_iter().flatten() {
            if owner.is_some_and(|owner| owner != uid) {
                let wrong = "several users have it, and match: name those who may under `guard`".to_owned();
                return Learned { admitted: Vec::new(), wrong: Some(wrong) };
            }
            owner = Some(uid);
            for user in [Some(uid), socket.uid].into_iter().flatten() {
                let it = (Admitted { user: Some(user), program: None }, None);
                if !learned.admitted.contains(&it) {
                    learned.admitted.push(it);
                }
            }
        }
    }
    learned
}

fn described((who, path): &(Admitted, Option<PathBuf>)) -> String {
    match (path, who.user) {
        (Some(path), Some(user)) => format!("{} by user {user}", path.display()),
        (Some(path), None) => path.display().to_string(),
        (None, user) => format!("user {}", user.unwrap_or_default()),
    }
}
