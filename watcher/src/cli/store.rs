//! The sockets of a unit's old owner in systemd's store of that unit, from where its next main process gets them.
//!
//! systemd takes them from the main process alone, in whose name they are put there, and gives them to the next one by the
//! protocol of sd_listen_fds(3). The old owner is then systemd's to end.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::exit::CliError;
use super::unit::Unit;
use crate::model::Port;
use crate::platform::Host;
use crate::platform::contract::{KeepError, Platform, ProcessHandle, System};
use crate::steps::keep::Keeper;

/// Where the control groups are mounted that systemd makes: version 2 alone, beside version 1, and version 1.
const GROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// How long a main process is waited for, in whose name the sockets are taken out again.
const MAIN_COMES: Duration = Duration::from_secs(3);
/// And how often it is looked for.
const AGAIN: Duration = Duration::from_millis(100);

/// Why a unit's next main process can't be given any sockets of the port; `None` where it can.
pub(super) async fn why_closed(name: &str, port: Port) -> Result<Option<String>, CliError> {
    let unit = Unit::ask(name).await?;
    let (room, used) = unit.store();
    let socket = match unit.socket_unit() {
        Some(socket) if Unit::ask(socket).await?.listens_on(port) => Some(socket),
        _ => None,
    };
    Ok(if let Some(socket) = socket {
        Some(format!(
            "{socket} keeps the port over each restart of {name} by itself: leave --keep-listening out"
        ))
    } else if room <= used || !unit.is_listened_to() {
        let is_full =
            if room > 0 && room <= used { format!(", and {used} are there") } else { String::new() };
        let access = unit.is_listened_to();
        Some(format!(
            "--keep-listening hands {name}'s sockets over in systemd's store, which is closed (FileDescriptorStoreMax={room}\
             {is_full}, NotifyAccess {}): `systemctl edit {name}` with FileDescriptorStoreMax=8 and NotifyAccess=main below \
             [Service] opens it, and a socket unit keeps the port over each restart without that",
            if access { "is set" } else { "is none" },
        ))
    } else if unit.main_pid().is_none() {
        Some(format!(
            "{name} has no main process whose sockets could be handed over: leave --keep-listening out"
        ))
    } else {
        None
    })
}

/// Sockets in the store of a unit.
pub(super) struct UnitStore {
    host: Host,
    unit: String,
    /// The folders that may be its control group.
    groups: Vec<PathBuf>,
    /// Its main process when they were put there.
    main: Box<dyn ProcessHandle>,
    /// Its other processes at that time, which are no new owners.
    others: Vec<(u32, Box<dyn ProcessHandle>)>,
    main_pid: u32,
    names: BTreeSet<String>,
    /// How many descriptors the store had before.
    before: u32,
}

impl UnitStore {
    /// Puts the kept sockets there.
    ///
    /// # Errors
    /// If systemd does not take them; then those that it has taken are out again.
    pub(super) async fn put(host: &Host, name: &str, keeper: &Keeper) -> Result<Self, KeepError> {
        let failed = |error: io::Error| KeepError::Store { unit: name.to_owned(), error };
        let ask = async || Unit::ask(name).await.map_err(|error| failed(io::Error::other(error.to_string())));
        let unit = ask().await?;
        let gone = || failed(io::Error::other("its main process has ended"));
        let main_pid = unit.main_pid().ok_or_else(gone)?;
        let main = host.open(main_pid).map_err(|_| gone())?;
        let path = unit.control_group().trim_start_matches('/');
        let groups =
            GROUPS.iter().filter(|_| !path.is_empty()).map(|group| Path::new(group).join(path)).collect();
        let (_, before) = unit.store();
        let mut store = Self {
            host: host.clone(),
            unit: name.to_owned(),
            groups,
            main,
            others: Vec::new(),
            main_pid,
            names: BTreeSet::new(),
            before,
        };
        let members = store.members();
        if members.contains(&std::process::id()) {
            return Err(failed(io::Error::other("gatewatch runs in that unit, and would end with it")));
        }
        if !members.contains(&main_pid) {
            return Err(failed(io::Error::other(
                "its control group can't be read, so who takes them over can't be told",
            )));
        }
        store.note_old();
        let mut sent = 0;
        for (descriptor, name) in keeper.named() {
            // systemd 246 would take a socket out by itself that its owner shuts down when it ends: FDPOLL=0.
            let state = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
            store.names.insert(name);
            if let Err(error) = Host::notify_for(main_pid, &state, &[descriptor]) {
                store.clear().await;
                return Err(failed(error));
            }
            sent += 1;
        }
        let (_, now) = ask().await?.store();
        if now < before + sent {
            store.clear().await;
            let taken = now.saturating_sub(before);
            let why = format!("of {sent} sockets {taken} were taken; `journalctl -u {name}` may say why");
            return Err(failed(io::Error::other(why)));
        }
        Ok(store)
    }

    /// All processes of the unit.
    fn members(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        self.groups.iter().for_each(|group| add_members(group, &mut pids));
        pids
    }

    /// Notes the unit's processes of now as old ones.
    fn note_old(&mut self) {
        for pid in self.processes() {
            if pid != self.main_pid
                && let Ok(handle) = self.host.open(pid)
            {
                self.others.push((pid, handle));
            }
        }
    }

    /// The unit's processes that are no old ones.
    pub(super) fn processes(&mut self) -> Vec<u32> {
        self.others.retain_mut(|(_, handle)| !has_ended(handle.as_mut()));
        let mut pids = self.members();
        pids.retain(|&pid| !self.others.iter().any(|&(other, _)| other == pid));
        pids
    }

    /// Whether the main process of before has ended. What the unit starts until then is of the old owner.
    pub(super) fn is_old_gone(&mut self) -> bool {
        let is_gone = has_ended(self.main.as_mut());
        if !is_gone {
            self.note_old();
        }
        is_gone
    }

    /// Takes what was put there out again: who has got the sockets keeps them, and nobody else holds them.
    pub(super) async fn clear(&self) {
        if let Some(left) = self.take_out().await {
            let (unit, left) = (&self.unit, if left == 0 { "some".to_owned() } else { left.to_string() });
            warn!(
                "systemd may keep {left} sockets for {unit}: `systemctl show -P NFileDescriptorStore {unit}` tells, and they \
                 are let go of when it is stopped"
            );
        }
    }

    /// Takes them out before the unit is started without them. Where there is no main process in whose name that can be done,
    /// systemd lets go of them when the unit is stopped.
    pub(super) async fn clear_for_restart(&self) {
        if self.take_out().await.is_some() {
            self.tell_systemd("stop").await;
        }
        // The starts in vain count: after five within ten seconds systemd would start it no more.
        self.tell_systemd("reset-failed").await;
    }

    async fn tell_systemd(&self, what: &str) {
        let mut command = Command::new("systemctl");
        command
            .args([what, "--", &self.unit])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.status().await {
            Ok(status) if status.success() => {}
            done => debug!(?done, unit = self.unit, what, "systemctl failed"),
        }
    }

    /// None once nothing is left there; else how many are, or 0 where systemd does not say. systemd listens to a main process
    /// alone, and there may be none for a while.
    async fn take_out(&self) -> Option<u32> {
        let until = Instant::now() + MAIN_COMES;
        loop {
            let unit = Unit::ask(&self.unit).await;
            if let Some(main) = unit.as_ref().ok().and_then(Unit::main_pid) {
                for name in &self.names {
                    if let Err(error) =
                        Host::notify_for(main, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
                    {
                        debug!(%error, unit = self.unit, "a socket can't be taken out of the store");
                    }
                }
            }
            let left = match Unit::ask(&self.unit).await {
                Ok(unit) => Some(unit.store().1.saturating_sub(self.before)).filter(|&left| left > 0),
                Err(_) => Some(0),
            };
            if left.is_none() || Instant::now() >= until {
                return left;
            }
            sleep(AGAIN).await;
        }
    }
}

fn has_ended(handle: &mut dyn ProcessHandle) -> bool {
    handle.poll_exit(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Adds the processes of a control group and of those below it.
fn add_members(group: &Path, pids: &mut Vec<u32>) {
    let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) else { return };
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for folder in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        add_members(&folder.path(), pids);
    }
}
