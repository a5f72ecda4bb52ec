//! All tests: installs what they need beside Rust, then runs them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::install;
use crate::run::{cargo, output, run, target};
use crate::{musl, servers};

/// Programs that scenarios run, and the Debian package of each.
const NEEDED: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("tmux", "tmux"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("bash", "bash"),
    ("zsh", "zsh"),
    ("fish", "fish"),
];

/// Runs every test of the workspace, or every scenario with static programs.
///
/// # Errors
/// When one fails, or what it needs can't be installed.
pub(crate) fn run_all(of_static: bool) -> Result<()> {
    install_missing()?;
    if !nix::unistd::geteuid().is_root() {
        println!("not root: scenarios that need kernel events or other users are skipped, and say so");
    }
    if of_static {
        return musl::run_all_scenarios();
    }
    run(cargo().args(["test", "--workspace", "--locked"]))?;
    if nix::unistd::geteuid().is_root() { run_with_less() } else { Ok(()) }
}

/// Runs the polling scenarios again, as an ordinary user, and as root without the capabilities for BPF.
fn run_with_less() -> Result<()> {
    // Where an ordinary user can read it.
    let folder = std::env::temp_dir().join(format!("gatewatch-less-{}", std::process::id()));
    let deps = folder.join("deps");
    fs::create_dir_all(&deps)?;
    for (from, to) in [
        (scenarios(&[])?, deps.join("scenarios")),
        (target().join("debug/actor"), folder.join("actor")),
        (target().join("debug/gatewatch"), folder.join("gatewatch")),
    ] {
        fs::copy(from, to)?;
    }
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let without = ["--bounding-set=-bpf,-perfmon,-sys_admin", "--inh-caps=-bpf,-perfmon,-sys_admin"];
    let result =
        [("user", &user[..]), ("without-bpf", &without)].into_iter().try_for_each(|(name, options)| {
            println!(
                "by polling, {}",
                if name == "user" { "as an ordinary user" } else { "without CAP_BPF" }
            );
            let mut command = Command::new("setpriv");
            command.args(options).arg("--").arg(deps.join("scenarios")).current_dir(&folder);
            run(command.env("GATEWATCH_TESTS_RUN", name).env("GATEWATCH_BIN", folder.join("gatewatch")))
        });
    fs::remove_dir_all(&folder)?;
    result
}

/// Builds the black-box tests with these arguments, and gives their executable.
///
/// # Errors
/// When it can't be built.
pub(crate) fn scenarios(arguments: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--quiet", "--package", "gatewatch-tests", "--no-run", "--message-format=json"]);
    let messages = output(build.args(arguments))?;
    executable(&messages, "scenarios").context("cargo built no scenarios")
}

/// The executable of a name in the messages of a cargo that was asked for JSON.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    })
}

fn install_missing() -> Result<()> {
    match install(NEEDED).and_then(|()| servers::fetch()) {
        // In CI a skipped test is a failure; elsewhere the other tests can still run.
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("{error}; the tests that need them are skipped");
            Ok(())
        }
        done => done,
    }
}
