//! The tools that people use instead, and their versions: Debian's are installed, those of crates.io and npm go below the
//! target folder.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::contest::quiet;
use crate::bench::gatewatch;
use crate::debian;
use crate::run::{cargo, run, target};

const DEBIAN: &[(&str, &str)] = &[
    ("fuser", "psmisc"),
    ("lsof", "lsof"),
    ("ss", "iproute2"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("bpftrace", "bpftrace"),
];
const CRATE: &str = "killport@^2";
const NPM: [&str; 2] = ["kill-port@2", "fkill-cli@9"];

/// Installs what is missing.
///
/// # Errors
/// When something is unavailable.
pub(super) fn install() -> Result<()> {
    debian::install(DEBIAN)?;
    let place = place();
    let complete = place.join("complete");
    let wanted = format!("{CRATE} {}", NPM.join(" "));
    if fs::read_to_string(&complete).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    println!("fetching {wanted}");
    fs::create_dir_all(&place)?;
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", "--root"]).arg(&place);
    run(install.arg("--target-dir").arg(place.join("build")).arg(CRATE))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(place.join("npm"));
    run(npm.args(NPM))?;
    fs::write(complete, wanted)?;
    Ok(())
}

fn place() -> PathBuf {
    target().join("peers")
}

/// A program of crates.io.
pub(super) fn of_crates(name: &str) -> PathBuf {
    place().join("bin").join(name)
}

/// A program of npm.
pub(super) fn of_npm(name: &str) -> PathBuf {
    place().join("npm/node_modules/.bin").join(name)
}

/// The program and its version, one line each.
///
/// # Errors
/// When one can't be run.
pub(super) fn versions() -> Result<Vec<(&'static str, String)>> {
    let mut versions = Vec::new();
    for (name, command) in [
        ("gatewatch", gatewatch(&["--version"])),
        ("ss (iproute2)", quiet("ss", &["-V"])),
        ("lsof", quiet("lsof", &["-v"])),
        ("fuser (psmisc)", quiet("fuser", &["-V"])),
        ("killport", quiet(of_crates("killport"), &["--version"])),
        ("Node", quiet("node", &["--version"])),
        ("bpftrace", quiet("bpftrace", &["--version"])),
    ] {
        versions.push((name, version(command).context(name)?));
    }
    for name in ["kill-port", "fkill-cli"] {
        let path = place().join("npm/node_modules").join(name).join("package.json");
        let text = fs::read_to_string(&path).with_context(|| format!("{name} has no package.json"))?;
        let package: serde_json::Value = serde_json::from_str(&text)?;
        versions.push((name, package["version"].as_str().context("a version")?.to_owned()));
    }
    Ok(versions)
}

/// The first number with a dot in what a command says of itself.
fn version(mut command: Command) -> Result<String> {
    let said = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    let text = format!("{} {}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let is_version =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    let mut words = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    Ok(words.find(is_version).context("no version")?.trim_end_matches('.').to_owned())
}
