//! Files, as a process sees them.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::start::Platform;
use crate::model::Process;
use crate::platform::Host;

/// The root folder of a process, beneath which files are found.
pub(crate) trait ProcessRoot: Sized {
    /// What is found.
    type Place: Place;

    /// # Errors
    /// When it can't be opened.
    fn of(process: &Process) -> io::Result<Self>;

    /// Finds a path that has no links in it but perhaps the last part.
    ///
    /// # Errors
    /// When there is no such file, or a link on the way.
    fn find(&self, path: &Path) -> io::Result<Self::Place>;

    /// Who may read a file; `None` where files have no such owners.
    fn permissions(file: &Metadata) -> Option<Permissions>;
}

/// The root folder of a process of the system that this program was built for.
pub(crate) type Root = <Host as Platform>::Root;

/// A file, folder or link that was found, and not opened yet.
pub(crate) trait Place {
    /// # Errors
    /// When the system does not say.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Where a link leads to.
    ///
    /// # Errors
    /// When it is not a link.
    fn target(&self) -> io::Result<PathBuf>;

    /// Opens the very file that was found, and does not wait for it.
    ///
    /// # Errors
    /// When it can't be opened, or another has its name by now.
    fn open(&self) -> io::Result<File>;
}

/// The owner, the group and the permission bits of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permissions {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// The bits, as chmod(2) takes them.
    pub(crate) mode: u32,
}
