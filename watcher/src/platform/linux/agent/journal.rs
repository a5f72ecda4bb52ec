//! The journal of systemd (systemd.journal-fields(7)): each line with its priority and its fields.

use std::io::stderr;
use std::os::fd::AsFd as _;

use nix::sys::stat::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer as _;

use crate::platform::contract::BoxedLayer;

/// Writes there, if standard error leads there; by it alone, a line has neither priority nor fields.
pub(super) fn layer() -> Option<BoxedLayer> {
    if !leads_there(&std::env::var("JOURNAL_STREAM").ok()?) {
        return None;
    }
    let layer = tracing_journald::layer().ok()?;
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let layer = layer.with_field_prefix(None).with_priority_mappings(priorities);
    Some(layer.with_syslog_identifier("gatewatch".to_owned()).boxed())
}

/// Whether standard error is the stream that the manager connected to the journal (systemd.exec(5)), by device and inode: a
/// variable alone is inherited by whoever writes elsewhere.
fn leads_there(stream: &str) -> bool {
    let named =
        stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    fstat(stderr().as_fd()).is_ok_and(|stat| named == Some((stat.st_dev, stat.st_ino)))
}
