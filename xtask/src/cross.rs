//! The other systems: macOS is checked by the compiler, Windows is built and linked, and run under Wine; and Linux's
//! static programs ([`musl`]).
//!
//! Debian's compiler does all but the latter, because the standard library's sources come with it. Downloads stay below the
//! target folder, except mingw-w64 and Wine, which are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::run::{cargo, output, root, run, target};
use crate::toolchain::debian_root;
use crate::wine::Programs;
use crate::{debian, musl, wine};

const MACOS: &str = "aarch64-apple-darwin";
const WINDOWS: &str = "x86_64-pc-windows-gnu";
const NEEDED: &[(&str, &str)] = &[("pip3", "python3-pip")];
const NEEDED_FOR_WINDOWS: &[(&str, &str)] = &[
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32"),
    ("wine", "wine64"),
    ("wine", "wine"),
    ("ip", "iproute2"),
];

/// A part of the check.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Linux's static programs
    Static,
    Macos,
    Windows,
}

/// Checks macOS, builds Windows and runs what was built; or what is asked for. Linux's static programs are built on request
/// only, because that takes many minutes.
///
/// # Errors
/// When one of these fails.
pub(crate) fn check(parts: &[Part]) -> Result<()> {
    let wanted = |part| parts.contains(&part) || (parts.is_empty() && part != Part::Static);
    ensure!(std::env::consts::ARCH == "x86_64", "cross-check needs an x86-64 host");
    if wanted(Part::Static) {
        musl::check()?;
    }
    if wanted(Part::Macos) {
        println!("macOS: checking");
        macos(&compiler()?)?;
    }
    if wanted(Part::Windows) {
        debian::install(NEEDED_FOR_WINDOWS)?;
        println!("Windows: building");
        let programs = windows(&compiler()?)?;
        println!("Windows: running under Wine");
        wine::test(&programs)?;
    }
    Ok(())
}

/// Debian's compiler, with its library's sources and what bindgen needs.
fn compiler() -> Result<PathBuf> {
    debian::install(NEEDED)?;
    debian::unpack_compiler(&debian_root())?;
    debian::unpack(&["rust-web-src", "libclang1-14"], &debian_root())?;
    debian::rustc_wrapper(&debian_root())
}

fn folder() -> PathBuf {
    target().join("cross")
}

/// `cargo check` of everything, against a standard library of metadata alone.
fn macos(rustc: &Path) -> Result<()> {
    let library = debian_root().join(format!("usr/lib/rustlib/{MACOS}/lib"));
    if !library.join("complete").exists() {
        let sources = fs::read_dir(debian_root().join("usr/src"))?
            .filter_map(|entry| Some(entry.ok()?.path().join("library/sysroot/Cargo.toml")))
            .find(|manifest| manifest.exists())
            .context("the compiler's package has no library sources")?;
        let mut check = cargo();
        check.args(["check", "--quiet", "--locked", "--target", MACOS, "--manifest-path"]).arg(sources);
        check.arg("--target-dir").arg(folder().join("std")).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        run(check.env("RUSTFLAGS", "-Zforce-unstable-if-unmarked --cap-lints=allow"))?;
        fs::create_dir_all(&library)?;
        for entry in fs::read_dir(folder().join("std").join(MACOS).join("debug/deps"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "rmeta") {
                fs::copy(&path, library.join(path.file_name().context("a file has a name")?))?;
            }
        }
        fs::write(library.join("complete"), "")?;
    }
    let headers = headers()?;
    let mut check = cargo();
    check.args(["check", "--quiet", "--locked", "--all-targets", "--target", MACOS]);
    check.args(["--package", "gatewatch", "--package", "gatewatch-tests", "--target-dir"]);
    check.arg(folder()).env("RUSTC", rustc).env("RUSTFLAGS", "-Dwarnings");
    check.env("LIBCLANG_PATH", debian_root().join("usr/lib/llvm-14/lib"));
    check.env(
        "BINDGEN_EXTRA_CLANG_ARGS",
        format!(
            "-nostdinc -isystem {0}/lib/include -isystem {0}/lib/libc/include/any-darwin-any",
            headers.display()
        ),
    );
    run(&mut check)
}

/// macOS's headers, for netstat2's build: Zig's package contains them.
fn headers() -> Result<PathBuf> {
    musl::zig()
}

/// The program and its tests, with a standard library built for them.
fn windows(rustc: &Path) -> Result<Programs> {
    let cargo_for_windows = |what: &[&str]| {
        let mut command = cargo();
        command.args(what).args(["--quiet", "--locked", "-Zbuild-std=std,panic_abort", "--target", WINDOWS]);
        command.arg("--target-dir").arg(folder()).current_dir(root());
        command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Dwarnings");
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
        command
    };
    run(&mut cargo_for_windows(&["build", "--package", "gatewatch"]))?;
    let mut tests = cargo_for_windows(&["test", "--no-run", "--message-format=json"]);
    let messages = output(tests.args(["--package", "gatewatch", "--package", "gatewatch-tests"]))?;
    let tests = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let holds_tests = message["profile"]["test"] == true;
        message["executable"].as_str().filter(|_| holds_tests).map(PathBuf::from)
    });
    let gatewatch = folder().join(WINDOWS).join("debug/gatewatch.exe");
    Ok(Programs { gatewatch, tests: tests.collect() })
}
