//! The host's files, seen from a container that shares the host's pid namespace, as an agent in a pod does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

/// The root of the host's files: our own; or that of the first process, if we have other mounts than it. Where that is not
/// the host's, but a container's that others share, the files of the host are in neither.
pub(super) fn root() -> &'static Path {
    static ROOT: OnceLock<&'static Path> = OnceLock::new();
    ROOT.get_or_init(|| {
        let mounts = |process: &str| Some(fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?.ino());
        let is_elsewhere = mounts("1").is_some_and(|of_init| mounts("self") != Some(of_init));
        Path::new(if is_elsewhere { "/proc/1/root" } else { "/" })
    })
}
