//! Is a script the gateway's? By where it leads to, and by the package that it belongs to.

use std::path::{Path, PathBuf};

use super::argument::{Argument, normal};
use super::files::{Fault, Files};
use super::package::{self, Package};
use super::{Judgement, product};
use crate::model::Process;

/// Judges the script that a runtime was given.
pub(super) fn judge(process: &Process, script: &Argument<'_>) -> Judgement {
    let Some(path) = absolute(process, script) else {
        return not_found(script, "its script is relative, and its working directory can't be read");
    };
    match find(process, &path) {
        Err(_) => not_found(script, "its script can't be read"),
        Ok((files, real)) if is_entry(&real) => by_package(&files, &real, script),
        Ok(_) => Judgement::other("its script is not a gateway's"),
    }
}

/// Whether a script is certainly the product's: it and its package.json were read.
pub(super) fn is_ours(process: &Process, script: &Argument<'_>) -> bool {
    let found = absolute(process, script).and_then(|path| find(process, &path).ok());
    found.is_some_and(|(files, real)| is_entry(&real) && package::nearest(&files, &real) == Package::Own)
}

/// The script's path as the process sees it.
fn absolute(process: &Process, script: &Argument<'_>) -> Option<PathBuf> {
    let path = Path::new(script.raw);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let cwd = process.cwd.as_deref()?;
    // For a process in a chroot the system tells the folder's path as we see it, not as the process does.
    let root = process.root.as_deref().and_then(|root| root.read_link().ok());
    let inside = root.and_then(|root| cwd.strip_prefix(root).ok()).map(|inside| Path::new("/").join(inside));
    Some(inside.unwrap_or_else(|| cwd.to_owned()).join(path))
}

/// The file that a path leads to. (`node .` and `node dist/index` find a script as well, but no gateway starts so.)
fn find(process: &Process, path: &Path) -> Result<(Files, PathBuf), Fault> {
    let files = Files::of(process)?;
    let real = files.resolve(path)?;
    Ok((files, real))
}

fn is_entry(real: &Path) -> bool {
    product::is_entry(&normal(&real.to_string_lossy()))
}

fn by_package(files: &Files, real: &Path, script: &Argument<'_>) -> Judgement {
    match package::nearest(files, real) {
        Package::Own => Judgement::matching("its script and its package are the gateway's"),
        Package::Other => Judgement::other("its script belongs to another package"),
        Package::None if product::is_entry_below_its_name(&script.normal) => {
            not_found(script, "its package.json is missing")
        }
        Package::None => Judgement::other("its script belongs to no package"),
        Package::Hidden => not_found(script, "its package.json can't be read"),
        Package::Unfit => Judgement::unclassified("its package.json is not the description of a package"),
    }
}

/// For a script that can't be found or whose package can't be read, as after an upgrade or a removal: an absolute path
/// may still say by itself that it is a gateway's.
fn not_found(script: &Argument<'_>, why: &str) -> Judgement {
    let is_absolute = Path::new(script.raw).is_absolute();
    if is_absolute && product::is_entry_below_its_name(&script.normal) {
        Judgement::matching(format!("the path of its script is a gateway's ({why})"))
    } else if product::may_be_entry(&script.normal) {
        Judgement::unclassified(why)
    } else {
        Judgement::other("its script is not a gateway's")
    }
}
