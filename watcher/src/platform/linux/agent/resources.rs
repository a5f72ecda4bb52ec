//! What this process uses, from `/proc/self` (proc(5)).

use std::time::Duration;

use procfs::process::{LimitValue, Process};
use procfs::{boot_time_secs, page_size, ticks_per_second};

use crate::platform::contract::Resources;

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating point, and these numbers are small enough"
)]
pub(super) fn own() -> Option<Resources> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
    let most_descriptors = match process.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => limit as f64,
        LimitValue::Unlimited => f64::INFINITY,
    };
    Some(Resources {
        cpu: Duration::from_secs_f64(seconds(stat.utime + stat.stime)),
        started: boot_time_secs().ok()? as f64 + seconds(stat.starttime),
        resident: (stat.rss * page_size()) as f64,
        virtual_memory: stat.vsize as f64,
        descriptors: process.fd_count().ok()? as f64,
        most_descriptors,
    })
}
