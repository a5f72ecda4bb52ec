//! What the user of another process may read: we may be allowed more, and must not tell it to that user.

use std::fs::Metadata;

use super::super::proc_files;
use crate::model::Process;
use crate::platform::contract::{Permissions, ProcessRoot as _, Root};

/// `R_OK` and `X_OK` for others; shifted left by three for the group, by six for the owner.
const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// The user that a process runs as.
pub(super) struct Reader {
    /// `None` where processes have no such owners.
    uid: Option<u32>,
    /// Whose files count as the system's: root, and root of the process's user namespace.
    roots: Vec<u32>,
    groups: Vec<u32>,
}

impl Reader {
    pub(super) fn of(process: &Process) -> Self {
        let namespace_root = proc_files::namespace_root(process);
        let roots = std::iter::once(0).chain(namespace_root).collect();
        Self { uid: process.uid, roots, groups: proc_files::groups(process) }
    }

    /// Whether the user could read a file, and it belongs to the user or to root. One that another user owns proves
    /// nothing: that user decides what is in it.
    pub(super) fn may_read(&self, file: &Metadata) -> bool {
        Root::permissions(file).is_none_or(|file| {
            self.uid.is_none_or(|uid| uid == file.uid || self.roots.contains(&file.uid))
                && self.may(&file, READ)
        })
    }

    /// Whether the user could look up names in a folder.
    pub(super) fn may_enter(&self, folder: &Metadata) -> bool {
        Root::permissions(folder).is_none_or(|folder| self.may(&folder, SEARCH))
    }

    fn may(&self, file: &Permissions, bit: u32) -> bool {
        let Some(uid) = self.uid else { return true };
        if self.roots.contains(&uid) {
            return true;
        }
        let shift = if file.uid == uid {
            6
        } else if self.groups.contains(&file.gid) {
            3
        } else {
            0
        };
        file.mode & (bit << shift) != 0
    }
}
