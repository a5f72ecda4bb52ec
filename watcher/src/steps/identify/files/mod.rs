//! Files as another process sees them, read so that whoever chose them can't gain by it.
//!
//! The files belong to somebody who may be hostile, and who may exchange them at any moment. So links are followed here,
//! one part of the path after the other, and never out of the process's own root; what is read is a regular file that
//! the process's user could read itself, and that this user or root owns; nothing here waits for a file, and every read
//! has a limit.

mod reader;

use std::io::{Error, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use reader::Reader;

use crate::model::Process;
use crate::platform::contract::{Place as _, ProcessRoot as _, Root};

/// More than any file has that is read here.
const LARGEST: u64 = 1 << 20;
/// As many links as the kernel follows in one path (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// A path with more parts than this is given up, so that a tangle of links can't cost much time.
const MOST_PARTS: u32 = 400;

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such file.
    Missing,
    /// It can't be read by us, or not by the process's user, or belongs to another user.
    Hidden,
    /// It is not what it must be: a link, not a regular file, empty, too large.
    Unfit,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Missing,
            _ => Self::Hidden,
        }
    }
}

/// The files that a process sees.
pub(super) struct Files {
    root: Root,
    reader: Reader,
}

impl Files {
    /// # Errors
    /// When the process's root can't be opened.
    pub(super) fn of(process: &Process) -> Result<Self, Fault> {
        Ok(Self { root: Root::of(process)?, reader: Reader::of(process) })
    }

    /// The real path of a file or folder within the process's root: every link on the way is followed as the process
    /// would follow it, so an absolute one stays inside.
    ///
    /// # Errors
    /// When there is no such file, or the process's user could not find it.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, Fault> {
        let mut resolved = PathBuf::new();
        let mut ahead: Vec<PathBuf> = parts(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = ahead.pop() {
            steps += 1;
            if steps > MOST_PARTS {
                return Err(Fault::Hidden);
            }
            match part.components().next() {
                Some(Component::ParentDir) => {
                    resolved.pop();
                    continue;
                }
                Some(Component::Normal(_)) => resolved.push(&part),
                // The root, which leaves a drive of Windows before it as it is, or that drive.
                Some(Component::RootDir | Component::Prefix(_)) => {
                    resolved.push(&part);
                    continue;
                }
                Some(Component::CurDir) | None => continue,
            }
            let place = self.root.find(&resolved)?;
            let metadata = place.metadata()?;
            if metadata.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Fault::Hidden);
                }
                let target = place.target()?;
                resolved.pop();
                ahead.extend(parts(&target));
            } else if metadata.is_dir() && !self.reader.may_enter(&metadata) {
                return Err(Fault::Hidden);
            } else if !metadata.is_dir() && !ahead.is_empty() {
                return Err(Fault::Missing);
            }
        }
        Ok(resolved)
    }

    /// The text of a file in a resolved folder.
    ///
    /// # Errors
    /// When it is not there, or is not one to be read.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, Fault> {
        let place = self.root.find(path)?;
        // What is judged is what was opened, not what bears the name by now.
        let metadata = place.metadata()?;
        // The kernel's own files (`/proc/kmsg`, `trace_pipe`) say that they are empty.
        if !metadata.is_file() || !(1..=LARGEST).contains(&metadata.len()) {
            return Err(Fault::Unfit);
        }
        if !self.reader.may_read(&metadata) {
            return Err(Fault::Hidden);
        }
        let mut text = Vec::new();
        place.open()?.take(LARGEST + 1).read_to_end(&mut text)?;
        // It may have grown since it was looked at.
        let fits = u64::try_from(text.len()).is_ok_and(|length| length <= LARGEST);
        if fits { Ok(text) } else { Err(Fault::Unfit) }
    }
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
