//! Who has started an ended owner and lives on: a shell or a runner that may start another one.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::timeout;

use super::started::ancestry;
use crate::clean::Cleaned;
use crate::model::{Action, ProcessState};
use crate::platform::Host;
use crate::platform::contract::System as _;
use crate::steps::end::OwnerOutcome;

/// Most runners end at once when what they have started does.
pub(super) const MOMENT: Duration = Duration::from_millis(200);

/// What brings services up, and lives on by its nature. A title of theirs may go on after the name.
const MANAGERS: [&str; 16] = [
    "systemd",
    "init",
    "launchd",
    "openrc",
    "supervise-daemon",
    "runsv",
    "s6-",
    "supervisord",
    "dinit",
    "PM2",
    "dockerd",
    "containerd",
    "conmon",
    "tini",
    "dumb-init",
    "services.exe",
];

/// Names at each ended owner who has started it and lives on, once those have had this time to end as well. This program's own
/// ancestors are not meant, nor is what manages services.
pub(super) async fn name(host: &Host, cleaned: &mut Cleaned, patience: Duration) {
    let own = ancestry(host, std::process::id());
    for dealt in cleaned.owners.iter_mut().filter(|dealt| dealt.action == Action::Killed) {
        dealt.starter = match starter(host, dealt).filter(|starter| !own.contains(&starter.pid)) {
            Some(starter) if !ends(host, starter.pid, patience).await => {
                Some(format!("{} (pid {})", starter.name, starter.pid))
            }
            _ => None,
        };
    }
}

struct Starter {
    pid: u32,
    /// Its name when the owner still ran.
    name: String,
}

/// The owner's parent, if it runs. A process that began later has got the pid of one that ended.
fn starter(host: &Host, dealt: &OwnerOutcome) -> Option<Starter> {
    let owner = dealt.owner.process.as_ref()?;
    let parent = owner.parent.as_ref()?;
    let pid = parent.pid;
    let starter = host.process(pid).ok()?;
    let is_managers = MANAGERS.iter().any(|name| starter.comm.starts_with(name));
    let is_older = starter.start_time.wall <= owner.start_time.wall + Duration::from_millis(20);
    (pid > 1 && is_older && !is_managers && starter.state != ProcessState::Leaving)
        .then(|| Starter { pid, name: parent.comm.clone().unwrap_or(starter.comm) })
}

/// Whether the process ends within this time; one that can't be followed is looked at.
async fn ends(host: &Host, pid: u32, patience: Duration) -> bool {
    match host.open(pid) {
        Ok(mut process) => timeout(patience, poll_fn(|cx| process.poll_exit(cx))).await.is_ok(),
        Err(_) => host.process(pid).is_err(),
    }
}
