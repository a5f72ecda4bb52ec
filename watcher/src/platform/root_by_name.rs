//! Finding a file beneath a process's root where a place can't be had without opening it: by name, and what was opened
//! is compared with what was found.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::contract::{Permissions, Place, ProcessRoot};
use super::own;
use crate::model::Process;

/// The root folder of a process.
pub(crate) struct Root(Option<PathBuf>);

/// A file, folder or link that was found, and not opened yet.
pub(crate) struct Found {
    path: PathBuf,
    metadata: Metadata,
}

impl ProcessRoot for Root {
    type Place = Found;

    fn of(process: &Process) -> io::Result<Self> {
        Ok(Self(process.root.clone()))
    }

    fn find(&self, path: &Path) -> io::Result<Found> {
        let path = match &self.0 {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        };
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Found { path, metadata })
    }

    fn permissions(file: &Metadata) -> Option<Permissions> {
        own::files::permissions(file)
    }
}

impl Place for Found {
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.metadata.clone())
    }

    fn target(&self) -> io::Result<PathBuf> {
        fs::read_link(&self.path)
    }

    fn open(&self) -> io::Result<File> {
        let file = own::files::reading().open(&self.path)?;
        if !own::files::is_same(&self.metadata, &file.metadata()?) {
            return Err(io::Error::other("another file has its name by now"));
        }
        Ok(file)
    }
}
