//! What the kernel program needs from the running kernel's BTF, remembered until the next boot.
//!
//! Finding it takes one to two milliseconds, a third of a whole command's start, and gives the same answer until the
//! next boot. So root's first command writes it to a file where only root can write, and later commands read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;
use tracing::debug;
use watcher_common::{Offsets, Record};

use super::btf::{Btf, BtfError, KernelBtf, Kind};
use super::hooks::{self, Place, btf_targets};
use super::offsets;

/// The file that remembers it. `/run` is empty after a boot (hier(7)).
const FOLDER: &str = "/run/gatewatch";
const FILE: &str = "/run/gatewatch/kernel";
/// More than that file has.
const LARGEST: u64 = 64 << 10;

/// Offsets of the kernel's fields that the kernel program reads, and the BTF ids that programs are attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelLayout {
    pub(super) offsets: Offsets,
    /// The BTF ids of [`btf_targets`], in its order; 0 means that this kernel lacks it.
    ids: Vec<u32>,
}

impl KernelLayout {
    /// Finds the running kernel's layout; `None` if it has no BTF.
    pub(super) fn find() -> Result<Option<Self>, BtfError> {
        let key = key().filter(|_| geteuid().is_root());
        if let Some(layout) = key.as_deref().and_then(recall) {
            return Ok(Some(layout));
        }
        let Ok(kernel) = KernelBtf::open() else { return Ok(None) };
        let structs = offsets::STRUCTS.iter().map(|&name| (Kind::Struct, name));
        let wanted: Vec<_> = structs.chain(btf_targets()).collect();
        let btf = Btf::parse(kernel.bytes(), &wanted)?;
        let layout = Self {
            offsets: offsets::find(&btf)?,
            ids: btf_targets().map(|(kind, name)| btf.id(kind, name).unwrap_or(0)).collect(),
        };
        if let Some(key) = key
            && let Err(error) = layout.remember(&key)
        {
            debug!(%error, "the kernel's layout can't be remembered in {FILE}");
        }
        Ok(Some(layout))
    }

    /// The BTF id that a program is attached to at a place; 0 if the place has none, or this kernel lacks it.
    pub(super) fn target_id(&self, place: Place) -> u32 {
        self.id(place.btf_target())
    }

    /// Whether a bind of a multipath socket binds the TCP socket in it by itself.
    pub(super) fn binds_subflows(&self) -> bool {
        self.id(Some((Kind::Func, hooks::SUBFLOW_BIND))) != 0
    }

    fn id(&self, target: Option<(Kind, &'static str)>) -> u32 {
        let index = btf_targets().position(|other| Some(other) == target);
        index.and_then(|index| self.ids.get(index)).copied().unwrap_or(0)
    }

    fn remember(&self, key: &str) -> io::Result<()> {
        if !fs::exists(FOLDER)? {
            DirBuilder::new().mode(0o755).create(FOLDER)?;
            // The umask took its part of the mode. The agent's socket will be here, for callers of all users.
            fs::set_permissions(FOLDER, fs::Permissions::from_mode(0o755))?;
        }
        if !is_roots_own(&fs::symlink_metadata(FOLDER)?) {
            return Err(io::Error::other("users other than root can write there"));
        }
        // Written under another name first, so that no process ever reads half of it.
        let new = format!("{FILE}.{}", std::process::id());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = file.write_all(&self.encode(key)).and_then(|()| fs::rename(&new, FILE));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn encode(&self, key: &str) -> Vec<u8> {
        let mut bytes = key.as_bytes().to_vec();
        bytes.extend(self.ids.iter().flat_map(|id| id.to_ne_bytes()));
        bytes.extend(self.offsets.bytes());
        bytes.extend(sum(&bytes).to_ne_bytes());
        bytes
    }

    /// `None` for what another build of the program, or an earlier boot, wrote; and for what has changed since.
    fn decode(bytes: &[u8], key: &str) -> Option<Self> {
        let (bytes, written) = bytes.split_last_chunk()?;
        if sum(bytes) != u64::from_ne_bytes(*written) {
            return None;
        }
        let layout = bytes.strip_prefix(key.as_bytes())?;
        let (ids, offsets) = layout.split_at_checked(btf_targets().count() * size_of::<u32>())?;
        let id = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
        let whole = offsets.len() == size_of::<Offsets>();
        Some(Self {
            offsets: Offsets::read(offsets).filter(|_| whole)?,
            ids: ids.chunks_exact(size_of::<u32>()).map(id).collect::<Option<_>>()?,
        })
    }
}

/// FNV-1a, of which each step can be undone: two texts that differ in one byte never have the same sum.
pub(super) const fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        sum = (sum ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    sum
}

fn recall(key: &str) -> Option<KernelLayout> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(FILE).ok()?;
    let trusted = |file: &File| file.metadata().is_ok_and(|metadata| is_roots_own(&metadata));
    if !trusted(&file) || !fs::symlink_metadata(FOLDER).is_ok_and(|folder| is_roots_own(&folder)) {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    KernelLayout::decode(&bytes, key)
}

/// Whether root owns it and only root can write to it.
pub(super) fn is_roots_own(metadata: &fs::Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    metadata.uid() == 0 && metadata.mode() & OTHERS_WRITE == 0
}

/// Identifies this boot of this kernel, and this build of the program.
fn key() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}\n", boot.trim(), build()?))
}

/// Identifies this build of the program.
pub(super) fn build() -> Option<String> {
    let program = fs::metadata(Path::new("/proc/self/exe")).ok()?;
    Some(format!("{} {}.{}", program.ino(), program.mtime(), program.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_recalled_only_whole_and_under_its_own_key() {
        let ids = (1..).take(btf_targets().count()).collect();
        let layout = KernelLayout { offsets: Offsets::default(), ids };
        let bytes = layout.encode("boot a\n");
        assert_eq!(KernelLayout::decode(&bytes, "boot a\n"), Some(layout));
        assert_eq!(KernelLayout::decode(&bytes, "boot b\n"), None);
        assert_eq!(KernelLayout::decode(&bytes[..bytes.len() - 1], "boot a\n"), None);
        assert_eq!(KernelLayout::decode(&[bytes.clone(), vec![0]].concat(), "boot a\n"), None);
        for length in 0..bytes.len() {
            assert_eq!(KernelLayout::decode(&bytes[..length], "boot a\n"), None);
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(KernelLayout::decode(&flipped, "boot a\n"), None);
        }
    }
}
