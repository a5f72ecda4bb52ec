//! All tests: installs what they need beside Rust, then runs them.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::run::{cargo, run, succeeds};

/// Programs that scenarios run, and the Debian package of each.
const NEEDED: &[(&str, &str)] =
    &[("unshare", "util-linux"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("node", "nodejs")];

/// Runs every test of the workspace.
///
/// # Errors
/// When one fails, or what it needs can't be installed.
pub(crate) fn run_all() -> Result<()> {
    install_missing()?;
    if !nix::unistd::geteuid().is_root() {
        println!("not root: what takes kernel events or other users is skipped, and says so");
    }
    run(cargo().args(["test", "--workspace", "--locked"]))
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
        nix::unistd::geteuid().is_root() && succeeds(Command::new("apt-get").arg("--version")),
        "these are missing, and only root on a Debian can have them installed: {}",
        packages.join(", ")
    );
    println!("installing {}", packages.join(", "));
    run(Command::new("apt-get").args(["-q", "update"]))?;
    let mut install = Command::new("apt-get");
    install.args(["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"]);
    run(install.args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn install_missing() -> Result<()> {
    match install(NEEDED) {
        // Where it counts, a skipped test is a failure; elsewhere the rest can still be run.
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("{error}; the tests that need them are skipped");
            Ok(())
        }
        done => done,
    }
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
