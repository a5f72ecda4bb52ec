//! The rules of a gateway's identity, each with command lines that hold it.

mod any_input;
mod command_line;
#[cfg(unix)]
mod environment;
mod installation;
mod runtime;

use std::path::Path;

use super::*;
use crate::steps::fake::process as of_root;

const ENTRIES: [&str; 9] = [
    "dist/index.js",
    "dist/index.mjs",
    "dist/entry.js",
    "dist/entry.mjs",
    "openclaw.mjs",
    "clawdbot.mjs",
    "scripts/run-node.mjs",
    "src/entry.ts",
    "src/index.ts",
];

/// A process of the user that the tests run as, whose files they are.
fn process(argv: &[&str]) -> Process {
    let process = of_root(argv);
    #[cfg(unix)]
    let process = Process { uid: Some(nix::unistd::geteuid().as_raw()), ..process };
    process
}

fn verdict(argv: &[&str]) -> Verdict {
    judge(&process(argv)).verdict
}

fn verdict_in(cwd: &Path, argv: &[&str]) -> Verdict {
    let mut process = process(argv);
    process.cwd = Some(cwd.to_owned());
    judge(&process).verdict
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A package folder with scripts in it.
fn package(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("package.json"), &format!("{{\"name\":\"{name}\"}}"));
    for script in ENTRIES {
        write(&folder.path().join(script), "//");
    }
    folder
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}
