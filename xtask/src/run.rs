//! Running other programs, and saying which one failed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where everything that is built or downloaded goes.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command and shows its output.
///
/// # Errors
/// When it can't be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{} can't be started", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and gives its standard output, trimmed.
///
/// # Errors
/// When it can't be started or fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, .. } = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} can't be started", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// Whether a command can be run and succeeds; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The `cargo` that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds the release programs, gatewatch and the tests' actor, and gives the folder that they are in.
///
/// # Errors
/// When they can't be built.
pub(crate) fn build_release() -> Result<PathBuf> {
    build(&["--release"])?;
    Ok(target().join("release"))
}

/// Builds the same programs as the tests do, with their assertions, and gives the folder that they are in.
///
/// # Errors
/// When they can't be built.
pub(crate) fn build_debug() -> Result<PathBuf> {
    build(&[])?;
    Ok(target().join("debug"))
}

fn build(more: &[&str]) -> Result<()> {
    let packages = ["--package", "gatewatch", "--package", "gatewatch-tests"];
    run(cargo().args(["build", "--quiet", "--bins"]).args(packages).args(more))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    format!("{} {}", name(command), words.join(" "))
}
