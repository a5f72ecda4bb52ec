//! When a process began, from the ticks since the system's start that the kernel gives.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::model::StartTime;
use crate::platform::clock;

/// How long ago a process began at least, if it began in this tick.
pub(super) fn age(ticks: u64) -> Option<Duration> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).ok()?;
    now.checked_sub(since_boot(ticks.saturating_add(1)))
}

/// The time from the system's start to this tick.
fn since_boot(ticks: u64) -> Duration {
    static PER_SECOND: OnceLock<u64> = OnceLock::new();
    let per_second = *PER_SECOND.get_or_init(|| {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        ticks.filter(|&ticks| ticks > 0).unwrap_or(100)
    });
    Duration::from_millis(ticks.saturating_mul(1000) / per_second)
}

/// When a process began that began in this tick.
pub(super) fn start(ticks: u64) -> StartTime {
    static BOOT: OnceLock<SystemTime> = OnceLock::new();
    let boot = *BOOT.get_or_init(|| {
        // If the two were read separately, each run of this program would compute another start for the same process.
        let (_, (now, since_boot)) =
            clock::at_once(|| (SystemTime::now(), clock_gettime(ClockId::CLOCK_BOOTTIME)));
        let since_boot = since_boot.map(Duration::from).unwrap_or_default();
        now.checked_sub(since_boot).unwrap_or(SystemTime::UNIX_EPOCH)
    });
    StartTime { raw: ticks, wall: boot + since_boot(ticks) }
}
