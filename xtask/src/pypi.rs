//! PyPI's packages as a source of what Debian doesn't have: unpacked into the target folder, nothing installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run::{run, target};

/// Downloads a package with pip's `options`, unpacks the files that begin with one of `wanted`, and gives their folder.
///
/// # Errors
/// When it is unavailable.
pub(crate) fn unpack(package: &str, options: &[&str], wanted: &[&str]) -> Result<PathBuf> {
    const UNPACK: &str = "
import glob, os, sys, zipfile
for wheel in glob.glob(sys.argv[1] + '/*.whl'):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sys.argv[1], [name for name in archive.namelist() if name.startswith(tuple(sys.argv[2:]))])
    os.remove(wheel)
";
    let name = package.split('=').next().unwrap_or(package);
    let place = target().join("cross").join(name);
    // Names what was unpacked, because another version of this task may want more of it.
    let (complete, what) = (place.join("complete"), format!("{package} {}\n", wanted.join(" ")));
    if fs::read_to_string(&complete).ok().as_ref() != Some(&what) {
        println!("fetching {name}");
        fs::create_dir_all(&place)?;
        let mut download = Command::new("python3");
        download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        run(download.args(options).arg(package).arg("--dest").arg(&place))?;
        run(Command::new("python3").args(["-c", UNPACK]).arg(&place).args(wanted))?;
        fs::write(complete, what)?;
    }
    Ok(place)
}
