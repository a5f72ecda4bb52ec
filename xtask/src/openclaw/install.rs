//! What is installed for the tests, from the npm registry into the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::debian;
use crate::run::{run, target};

/// The newest release that was tried.
pub(super) const NEWEST: &str = "2026.9.6";
/// The release whose cleaning module gatewatch was written to replace.
const FIRST: &str = "2026.4.22";

/// The releases, and the size of what comes with each: 391 MB and 599 MB.
pub(super) fn releases(short: bool) -> Vec<&'static str> {
    if short { vec![NEWEST] } else { vec![FIRST, NEWEST] }
}

/// Installs what is missing.
///
/// # Errors
/// When npm fails, or isn't there and can't be installed.
pub(super) fn all(short: bool) -> Result<()> {
    debian::install(&[("npm", "npm"), ("unshare", "util-linux"), ("ip", "iproute2")])?;
    for release in releases(short) {
        npm(&format!("openclaw-{release}"), &[&format!("openclaw@{release}")], &["--omit=optional"])?;
    }
    npm("node", &[&format!("{}@24", Installed::node_package())], &[])?;
    if !short {
        // The package's own module looks for owners with it.
        debian::install(&[("lsof", "lsof")])?;
        npm("tools", &["pm2@7", "tsx@4", &format!("{}@1", Installed::bun_package())], &[])?;
    }
    Ok(())
}

fn npm(name: &str, packages: &[&str], options: &[&str]) -> Result<()> {
    let folder = folder().join(name);
    if folder.join("installed").exists() {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("package.json"), "{\"private\":true}\n")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    run(npm.args(options).args(packages).current_dir(&folder))?;
    fs::write(folder.join("installed"), "")?;
    Ok(())
}

fn folder() -> PathBuf {
    target().join("openclaw")
}

/// Where it is all found.
pub(super) struct Installed {
    folder: PathBuf,
}

impl Installed {
    pub(super) fn find() -> Self {
        Self { folder: folder() }
    }

    /// The folder that a release and the packages it needs were installed into.
    pub(super) fn release(&self, release: &str) -> PathBuf {
        self.folder.join(format!("openclaw-{release}"))
    }

    pub(super) fn node(&self) -> PathBuf {
        modules(&self.folder.join("node")).join(Self::node_package()).join("bin/node")
    }

    pub(super) fn bun(&self) -> PathBuf {
        self.tools().join(Self::bun_package()).join("bin/bun")
    }

    pub(super) fn tools(&self) -> PathBuf {
        modules(&self.folder.join("tools"))
    }

    fn node_package() -> String {
        format!("node-linux-{}", architecture())
    }

    fn bun_package() -> String {
        let architecture = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x64" };
        format!("@oven/bun-linux-{architecture}")
    }
}

fn modules(folder: &Path) -> PathBuf {
    folder.join("node_modules")
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }
}
