//! Debian's packages: compilers are unpacked into the target folder, programs that the tests run are installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, ensure};

use crate::run::{output, run, succeeds};

const NO_APT: &str = "this takes a compiler from Debian's packages, and there is no apt-get here; install rustup's \
                      nightly with rust-src, and bpf-linker, instead";

/// Downloads the packages that are missing and unpacks them below `root`.
///
/// # Errors
/// When apt-get or dpkg is missing, or a package is unavailable.
pub(crate) fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    ensure!(has_apt(), NO_APT);
    let debs = debs(root);
    fs::create_dir_all(&debs)?;
    for &package in packages.iter().filter(|package| !unpacked(root, package).exists()) {
        download(package, &debs, root)?;
        fs::write(unpacked(root, package), "")?;
    }
    Ok(())
}

/// Downloads a package into `folder` and unpacks it below `root`.
///
/// # Errors
/// When it is unavailable, or can't be unpacked.
pub(crate) fn download(package: &str, folder: &Path, root: &Path) -> Result<()> {
    update_lists();
    println!("fetching {package}");
    fs::create_dir_all(root)?;
    let mut download = Command::new("apt-get");
    // As root, apt drops its privileges for downloads, and then can't write into this folder.
    run(download.current_dir(folder).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]))?;
    let archive = find_archive(folder, package)?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// Updates apt's lists of packages, once, before anything is looked up in them: an old list could name a compiler that
/// other packages no longer fit.
pub(crate) fn update_lists() {
    static UPDATED: Once = Once::new();
    UPDATED.call_once(|| {
        if !succeeds(Command::new("apt-get").args(["-q", "update"])) {
            eprintln!("apt-get can't update its lists; using the existing ones");
        }
    });
}

fn has_apt() -> bool {
    succeeds(Command::new("apt-get").arg("--version"))
}

/// Where archives go, and the marks of those that are unpacked.
fn debs(root: &Path) -> PathBuf {
    root.with_file_name("debs")
}

/// The mark of a package that is unpacked.
fn unpacked(root: &Path, package: &str) -> PathBuf {
    debs(root).join(format!("{package}.unpacked"))
}

fn find_archive(folder: &Path, package: &str) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
        })
        .with_context(|| format!("apt-get downloaded no archive of {package}"))
}

/// The package of Debian's newest Rust compiler.
const RUSTC: &str = "rustc-web";

/// Unpacks Debian's Rust compiler, its own libraries and LLVM below `root`.
///
/// # Errors
/// When apt-get or dpkg is missing, or a package is unavailable.
pub(crate) fn unpack_compiler(root: &Path) -> Result<()> {
    if unpacked(root, RUSTC).exists() {
        return Ok(());
    }
    ensure!(has_apt(), NO_APT);
    update_lists();
    // The libraries' names contain the compiler's version and LLVM's.
    let depends = output(Command::new("apt-cache").args(["depends", "--recurse", "--important", RUSTC]))?;
    let mut packages: Vec<&str> = depends
        .lines()
        .filter(|line| line.starts_with("libstd-rust-web-") || line.starts_with(LLVM_LIBRARY))
        .collect();
    // Last: once it is unpacked, so is all that it needs.
    packages.push(RUSTC);
    unpack(&packages, root)
}

/// Before the version in the name of LLVM's library.
const LLVM_LIBRARY: &str = "libllvm";

/// The package with the tools of the LLVM that the unpacked compiler uses; so is its folder below `usr/lib` named.
///
/// # Errors
/// When no compiler is unpacked.
pub(crate) fn llvm(root: &Path) -> Result<String> {
    fs::read_dir(debs(root))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|mark| {
            Some(format!("llvm-{}", mark.strip_prefix(LLVM_LIBRARY)?.strip_suffix(".unpacked")?))
        })
        .context("the unpacked compiler has no LLVM")
}

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

/// Installs the packages of the programs that are missing.
///
/// # Errors
/// When apt-get fails.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> =
        programs.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    ensure!(
        nix::unistd::geteuid().is_root() && has_apt(),
        "these are missing, and only root on Debian can install them: {}",
        packages.join(", ")
    );
    println!("installing {}", packages.join(", "));
    update_lists();
    let mut install = Command::new("apt-get");
    install.args(["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"]);
    run(install.args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
