//! The old owner's sockets in the hands of a restart's command: who uses them, and what follows where nobody does.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::exit::CliError;
use super::following::Following;
use super::store::UnitStore;
use crate::model::Outcome;
use crate::restart::{By, Restart};
use crate::steps::end::Timeouts;
use crate::steps::keep::{Keeper, TakenOver};

/// How often it is looked who uses the sockets.
pub(super) const LOOK_WHO_TAKES: Duration = Duration::from_millis(5);
/// How long a command may have tried for a socket of its own before it counts as one that does not use those that it got.
const WANTS_OWN: Duration = Duration::from_secs(1);
/// The longest wait for processes that were ended to let go of the sockets.
const LET_GO: Duration = Duration::from_secs(1);

const LEFT: &str = "it ended, and left no process that has them";

impl Following<'_, '_> {
    /// Looks who of the command's processes uses the kept sockets.
    pub(super) fn look_who_took_over(&mut self) {
        if self.keeper.is_empty() {
            return;
        }
        if let Some(store) = &mut self.store {
            // The old owner goes on until systemd has ended it.
            if !store.is_old_gone() {
                return;
            }
            self.keeper.widen();
        }
        let by = if self.store.is_some() { By::Unit } else { By::Command };
        let pids = self.heirs();
        if self.store.is_some() && !pids.is_empty() {
            // What the old owner's other processes have accepted until now shows nothing.
            self.keeper.open();
        }
        for (port, restart) in self.restarts.iter_mut() {
            match self.keeper.look(*port, &pids) {
                Some(TakenOver::By(pid)) => {
                    let address = self.keeper.told(*port).sockets.first().map(|(address, ..)| *address);
                    restart.used_by(self.started.new_owner(pid, address), by);
                }
                Some(TakenOver::NotYet) => restart.is_used_by_none(None),
                Some(TakenOver::Hidden(why)) => restart.is_used_by_none(Some(why)),
                None => {}
            }
        }
    }

    /// Why it is certain, or time to conclude, that the command does not use the sockets; `None` while it may, and where it
    /// has no such.
    pub(super) fn why_not_taken_over(
        &mut self,
        wants_own: &mut Option<Instant>,
        is_over: bool,
    ) -> Option<String> {
        if self.keeper.is_empty() || self.all(|restart| !restart.hands_on() || restart.is_listening()) {
            return None;
        }
        // As long as the old owner serves, nothing is to be mended.
        if self.store.as_mut().is_some_and(|store| !store.is_old_gone()) {
            return None;
        }
        let now = Instant::now();
        let is_decided =
            self.any(|restart| restart.outcome().is_some_and(|outcome| outcome != Outcome::Restarted));
        // A unit is started again and again, and after a few times no more.
        if is_decided || (self.store.is_some() && self.any(Restart::has_failed)) {
            let why = self.restarts.iter().find_map(|(_, restart)| restart.why());
            return Some(why.unwrap_or("its first start failed").to_owned());
        }
        let pids = self.heirs();
        let is_left = self.started.running().is_none() && !self.keeper.is_held_by(&pids);
        if is_left && self.store.is_none() {
            return Some(LEFT.to_owned());
        }
        // `systemctl` may have ended before the unit's process is in its control group.
        if is_left || self.any(Restart::wants_its_own) {
            let since = *wants_own.get_or_insert(now);
            let why = if is_left { LEFT } else { "it tried to open the port by itself" };
            return (now >= since + WANTS_OWN).then(|| why.to_owned());
        }
        *wants_own = None;
        let may_be_taken = self.any(|restart| restart.may_be_taken().is_some());
        (is_over && !may_be_taken).then(|| "it did not wait for connections on them in time".to_owned())
    }

    /// The processes that may use the sockets.
    fn heirs(&mut self) -> Vec<u32> {
        self.store.as_mut().map_or_else(|| self.started.processes(), UnitStore::processes)
    }

    /// Ends the command, which does not use the sockets, closes them, and starts it again: an ordinary restart.
    pub(super) async fn start_without_sockets(&mut self, argv: &[String], why: &str) -> Result<(), CliError> {
        if self.started.has_group() {
            self.started.end(self.args.clean.term_timeout.unwrap_or(Timeouts::DEFAULT.term)).await;
        }
        let store = self.store.take();
        if let Some(store) = &store {
            store.clear_for_restart().await;
        } else if !self.let_go().await {
            tracing::warn!("a process of the command's first start may still hold the old owner's sockets");
        }
        let in_vain = self.keeper.close(why);
        if in_vain > 0 {
            tracing::warn!("{in_vain} connections that waited for the new owner were reset");
        }
        self.read_what_is_there(Duration::ZERO).await?;
        self.started.forget();
        self.each(Restart::fell_back);
        // A unit is systemd's to start, whoever has the port.
        if store.is_none() && self.any(Restart::is_taken) {
            self.each(Restart::is_not_started_again);
            return Ok(());
        }
        self.start(argv, &Keeper::default())
    }

    /// Waits until the command's processes have let go of the sockets. Those that have left its process group would hold them
    /// for ever, and keep the port from every server.
    async fn let_go(&self) -> bool {
        for force in [false, true] {
            let is_holder = |pid| !self.keeper.holders(&[pid]).is_empty();
            self.started.end_each(&self.keeper.holders(&self.started.processes()), force, is_holder);
            let until = Instant::now() + LET_GO;
            while self.keeper.is_held_by(&self.started.processes()) {
                if Instant::now() >= until {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        !self.keeper.is_held_by(&self.started.processes())
    }
}
