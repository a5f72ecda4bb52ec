//! Debian's packages as a source of compilers: fetched and unpacked into the target folder, nothing installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{run, succeeds};

/// Downloads the packages that aren't there yet and unpacks them below `root`.
///
/// # Errors
/// Where apt-get or dpkg isn't there, or a package isn't to be had.
pub(crate) fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    ensure!(
        succeeds(Command::new("apt-get").arg("--version")),
        "this takes a compiler from Debian's packages, and there is no apt-get here; install rustup's nightly \
         with rust-src, and bpf-linker, instead"
    );
    let debs = root.with_file_name("debs");
    fs::create_dir_all(&debs)?;
    fs::create_dir_all(root)?;
    let done = |package: &str| debs.join(format!("{package}.unpacked"));
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !done(package).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Before the first of them: from an old list could come a compiler that the other packages no longer fit.
    if !succeeds(Command::new("apt-get").args(["-q", "update"])) {
        eprintln!("apt-get can't update its lists: going by those that are there");
    }
    for package in missing {
        println!("fetching {package}");
        let mut download = Command::new("apt-get");
        // As root, apt drops its privileges for downloads, and then can't write into this folder.
        run(download.current_dir(&debs).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]))?;
        let archive = find_archive(&debs, package)?;
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
        fs::remove_file(&archive)?;
        fs::write(done(package), "")?;
    }
    Ok(())
}

fn find_archive(debs: &Path, package: &str) -> Result<PathBuf> {
    fs::read_dir(debs)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
        })
        .with_context(|| format!("apt-get downloaded no archive of {package}"))
}

/// Debian's packages that make up a Rust compiler with its library for BPF.
pub(crate) const RUSTC: &[&str] = &["rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "libllvm22"];

/// Writes a `rustc` that runs the unpacked compiler with the libraries unpacked beside it.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn rustc_wrapper(root: &Path) -> Result<PathBuf> {
    let wrapper = root.with_file_name("rustc");
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={lib} exec {rustc} \"$@\"\n",
        lib = libraries(root).display(),
        rustc = root.join("usr/bin/rustc").display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(wrapper)
}

/// Where the unpacked shared libraries are.
pub(crate) fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}
