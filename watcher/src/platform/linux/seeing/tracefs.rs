//! tracefs, where the kernel numbers and describes its tracepoints.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::sys;

pub(super) struct Tracefs {
    events: PathBuf,
    /// If tracefs is not mounted: a private mount without a path, unmounted when this is dropped.
    _mount: Option<OwnedFd>,
}

impl Tracefs {
    pub(super) fn open() -> io::Result<Self> {
        // Its own mount point, and the older one under debugfs.
        for path in ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"] {
            if Path::new(path).join("sock").is_dir() {
                return Ok(Self { events: path.into(), _mount: None });
            }
        }
        let mount = sys::mount_tracefs().map_err(|error| {
            io::Error::other(format!(
                "tracefs: {error}; mount it: mount -t tracefs tracefs /sys/kernel/tracing"
            ))
        })?;
        Ok(Self { events: format!("/proc/self/fd/{}/events", mount.as_raw_fd()).into(), _mount: Some(mount) })
    }

    /// The number of an event.
    pub(super) fn id(&self, event: &str) -> io::Result<u64> {
        let id = fs::read_to_string(self.events.join(event).join("id"))?;
        id.trim().parse().map_err(io::Error::other)
    }

    /// The description of an event's fields.
    pub(super) fn format(&self, event: &str) -> io::Result<String> {
        fs::read_to_string(self.events.join(event).join("format"))
    }
}
