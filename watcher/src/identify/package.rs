//! The package that a script belongs to: the nearest package.json above it, as the process sees its files.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

/// More than any package.json has.
const LARGEST: u64 = 1 << 20;
/// As many links as the kernel follows in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The package of a script.
pub(super) enum Package {
    /// Its name; empty when it has none.
    Named(String),
    /// No folder above the script has a package.json.
    None,
    /// It is there and can't be read.
    Unreadable(String),
}

/// The script's real path within the process's root: every link on the way is followed as it would be there, so an
/// absolute one stays inside.
///
/// # Errors
/// Why it can't be resolved, as a clause: the script is gone, or may not be read.
pub(super) fn resolve(root: Option<&Path>, script: &Path) -> Result<PathBuf, String> {
    let mut resolved = PathBuf::new();
    let mut ahead: Vec<PathBuf> = parts(script);
    let mut links = 0;
    while let Some(part) = ahead.pop() {
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
        let place = inside(root, &resolved);
        let kind = fs::symlink_metadata(&place).map_err(|error| error.to_string())?;
        if kind.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err("too many symbolic links".to_owned());
            }
            let target = fs::read_link(&place).map_err(|error| error.to_string())?;
            resolved.pop();
            ahead.extend(parts(&target));
        }
    }
    Ok(resolved)
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

/// Where a path of the process's is seen from here.
fn inside(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// The nearest package.json above a resolved script.
pub(super) fn nearest(root: Option<&Path>, script: &Path) -> Package {
    for folder in script.ancestors().skip(1) {
        match read(&inside(root, &folder.join("package.json"))) {
            Ok(Some(name)) => return Package::Named(name),
            Ok(None) => {}
            Err(why) => return Package::Unreadable(why),
        }
    }
    Package::None
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    name: String,
}

/// The name in a package.json; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
        // A FIFO put in its place would keep us waiting for ever.
        Ok(metadata) if !metadata.is_file() => return Err("it is no file".to_owned()),
        Ok(_) => {}
    }
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(Some(manifest.name))
}
