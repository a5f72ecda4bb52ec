//! The machine that a report was made on.

use std::fs;

use anyhow::{Context, Result};

/// How busy the machine was.
pub(super) struct Moment {
    /// The load averages of the last one, five and fifteen minutes.
    pub(super) load: String,
}

impl Moment {
    /// Now.
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/loadavg")?;
        Ok(Self { load: text.split_whitespace().take(3).collect::<Vec<_>>().join(", ") })
    }
}

/// Processors, their model, memory and the kernel's version, in words.
///
/// # Errors
/// When `/proc` does not tell.
pub(super) fn description() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = field(&processors, "model name").context("no model of the processor")?;
    let count = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes =
        field(&memory, "MemTotal").and_then(|text| text.split(' ').next()).context("no memory")?;
    let gibibytes = kilobytes.parse::<u64>()?.div_ceil(1 << 20);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim().split('-').next().unwrap_or_default();
    Ok(format!("{count} processors ({model}), {gibibytes} GiB of memory, Linux {release}"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim())
}
