//! What Linux tells of a process in the folder that also shows its root: its environment, its groups, the root of its
//! user namespace. Elsewhere there is no such folder, and nothing is known.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::model::Process;
use crate::platform::Host;
use crate::platform::contract::Platform;

/// More than any of these files has that tells something.
const LARGEST: u64 = 256 << 10;

/// The environment that a process was started with.
pub(super) struct Environment(Vec<u8>);

impl Environment {
    /// `None` where it can't be read.
    pub(super) fn of(process: &Process) -> Option<Self> {
        read(process, "environ").map(Self)
    }

    /// The value of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let entries = self.0.split(|&byte| byte == 0);
        let value =
            entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// The groups that a process belongs to: the last, effective one of `Gid:` and those of `Groups:`.
pub(super) fn groups(process: &Process) -> Vec<u32> {
    let status = read(process, "status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let numbers = |name: &'static str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok())
    };
    numbers("Gid:").chain(numbers("Groups:")).collect()
}

/// The user, as we see it, that is root in the process's user namespace.
pub(super) fn namespace_root(process: &Process) -> Option<u32> {
    let map = read(process, "uid_map")?;
    String::from_utf8_lossy(&map).lines().find_map(|line| {
        let mut numbers = line.split_whitespace();
        (numbers.next() == Some("0")).then(|| numbers.next()?.parse().ok())?
    })
}

/// Whether a process runs this very file: the path alone does not say that, because in mounts of its own a process can have
/// any file there. The file of a program that was upgraded since is no longer there to be compared; then the path is enough,
/// unless the process is in a user namespace of its own, where everybody may mount.
pub(super) fn runs_file_at(process: &Process, path: &Path) -> bool {
    let Some(folder) = folder(process) else { return true };
    let exe = folder.join("exe");
    match (id(&exe), id(path)) {
        (Some(own), Some(wanted)) if own == wanted => true,
        (Some(_), Some(_)) => is_deleted(&exe) && shares_users(&folder),
        (_, None) => shares_users(&folder),
        (None, Some(_)) => false,
    }
}

/// Whether a process's program belongs to the system rather than to a user who gave it its name. Where nothing is known of
/// the file, it does.
pub(super) fn runs_systems_file(process: &Process) -> bool {
    // In mounts of its own, a user can give any name to a file of root's.
    let has_names_of_its_own =
        || process.uid != Some(0) && folder(process).is_some_and(|folder| !shares_users(&folder));
    process.exe_owner.is_none_or(|owner| owner == 0) && !has_names_of_its_own()
}

/// The folder that shows the process.
fn folder(process: &Process) -> Option<PathBuf> {
    process.root.as_ref()?.parent().map(Path::to_owned)
}

/// Whether it is in our own user namespace.
fn shares_users(folder: &Path) -> bool {
    let own = id(Path::new("/proc/self/ns/user"));
    own.is_some() && own == id(&folder.join("ns/user"))
}

/// Whether a file has no name left.
fn is_deleted(path: &Path) -> bool {
    Host::file(path).is_some_and(|file| file.links == 0)
}

/// What tells a file from all others: its device and its inode.
fn id(path: &Path) -> Option<(u64, u64)> {
    Host::file(path).map(|file| (file.device, file.inode))
}

fn read(process: &Process, name: &str) -> Option<Vec<u8>> {
    let path = process.root.as_ref()?.with_file_name(name);
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
