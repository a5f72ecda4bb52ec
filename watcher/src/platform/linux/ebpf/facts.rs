//! What the running kernel's BTF says that the kernel program needs, remembered for as long as the system is up.
//!
//! Finding it takes one to two milliseconds, a third of a whole command's start, and gives the same answer until the
//! next boot. So root's first command writes it down where only root can, and the next ones read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;
use tracing::debug;
use watcher_common::{Offsets, Record};

use super::btf::{Btf, BtfError, KernelBtf, Kind};
use super::offsets;

/// Where it is written down. `/run` is empty after a boot (hier(7)).
const FOLDER: &str = "/run/gatewatch";
const FILE: &str = "/run/gatewatch/kernel";

/// Offsets, and the BTF ids of what is attached to; an id of 0 is of something that this kernel has not got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) offsets: Offsets,
    pub(super) set_state: u32,
    pub(super) destroy: u32,
    pub(super) task_file: u32,
}

impl Facts {
    /// Of the running kernel; `None` when it has no BTF.
    pub(super) fn find() -> Result<Option<Self>, BtfError> {
        let key = key().filter(|_| geteuid().is_root());
        if let Some(facts) = key.as_deref().and_then(recall) {
            return Ok(Some(facts));
        }
        let Ok(kernel) = KernelBtf::open() else { return Ok(None) };
        let btf = Btf::parse(kernel.bytes(), offsets::WANTED)?;
        let id = |kind, name| btf.id(kind, name).unwrap_or(0);
        let facts = Self {
            offsets: offsets::find(&btf)?,
            set_state: id(Kind::Typedef, "btf_trace_inet_sock_set_state"),
            destroy: id(Kind::Typedef, "btf_trace_tcp_destroy_sock"),
            task_file: id(Kind::Func, "bpf_iter_task_file"),
        };
        if let Some(key) = key
            && let Err(error) = facts.remember(&key)
        {
            debug!(%error, "the kernel's layout can't be remembered in {FILE}");
        }
        Ok(Some(facts))
    }

    fn remember(&self, key: &str) -> io::Result<()> {
        if !fs::exists(FOLDER)? {
            DirBuilder::new().mode(0o755).create(FOLDER)?;
        }
        if !is_roots_own(&fs::symlink_metadata(FOLDER)?) {
            return Err(io::Error::other("others than root can write there"));
        }
        // Under a name of its own first, so that nobody ever reads half of it.
        let new = format!("{FILE}.{}", std::process::id());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = file.write_all(&self.encode(key)).and_then(|()| fs::rename(&new, FILE));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn encode(&self, key: &str) -> Vec<u8> {
        let ids = [self.set_state, self.destroy, self.task_file];
        let mut bytes = key.as_bytes().to_vec();
        bytes.extend(ids.iter().flat_map(|id| id.to_ne_bytes()));
        bytes.extend(self.offsets.bytes());
        bytes
    }

    /// `None` for what another program, or the same one on another boot, wrote.
    fn decode(bytes: &[u8], key: &str) -> Option<Self> {
        let facts = bytes.strip_prefix(key.as_bytes())?;
        let (ids, offsets) = facts.split_at_checked(3 * size_of::<u32>())?;
        let mut ids =
            ids.chunks_exact(size_of::<u32>()).filter_map(|id| id.try_into().ok().map(u32::from_ne_bytes));
        let whole = offsets.len() == size_of::<Offsets>();
        let offsets = Offsets::read(offsets).filter(|_| whole)?;
        Some(Self { set_state: ids.next()?, destroy: ids.next()?, task_file: ids.next()?, offsets })
    }
}

fn recall(key: &str) -> Option<Facts> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(FILE).ok()?;
    let trusted = |file: &File| file.metadata().is_ok_and(|metadata| is_roots_own(&metadata));
    if !trusted(&file) || !fs::symlink_metadata(FOLDER).is_ok_and(|folder| is_roots_own(&folder)) {
        return None;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Facts::decode(&bytes, key)
}

/// Owned by root, and written by nobody else.
fn is_roots_own(metadata: &fs::Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    metadata.uid() == 0 && metadata.mode() & OTHERS_WRITE == 0
}

/// This boot of this kernel, and this very program.
fn key() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let program = fs::metadata(Path::new("/proc/self/exe")).ok()?;
    Some(format!("{} {} {}.{}\n", boot.trim(), program.ino(), program.mtime(), program.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_recalled_only_whole_and_under_its_own_key() {
        let facts = Facts { offsets: Offsets::default(), set_state: 1, destroy: 2, task_file: 3 };
        let bytes = facts.encode("boot a\n");
        assert_eq!(Facts::decode(&bytes, "boot a\n"), Some(facts));
        assert_eq!(Facts::decode(&bytes, "boot b\n"), None);
        assert_eq!(Facts::decode(&bytes[..bytes.len() - 1], "boot a\n"), None);
        assert_eq!(Facts::decode(&[bytes.clone(), vec![0]].concat(), "boot a\n"), None);
    }
}
