//! Static programs for Linux, which run whatever C library a host has: for x86-64 and arm64, with Zig as C compiler and
//! linker.
//!
//! User-mode emulation shows what an arm64 program does without the kernel's programs: QEMU refuses bpf(2), and the
//! netlink of the socket tables, so that the tables come from `/proc/net`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pypi;
use crate::run::{cargo, output, root, run, target};
use crate::test::{executable, scenarios};

/// Programs that the check runs, and their packages.
pub(crate) const NEEDED: &[(&str, &str)] =
    &[("readelf", "binutils"), ("qemu-aarch64-static", "qemu-user-static")];

const X86_64: &str = "x86_64-unknown-linux-musl";
const ARM64: &str = "aarch64-unknown-linux-musl";
/// Both are pinned, because they follow neither Rust's releases nor each other's.
const ZIG: &str = "ziglang==0.17.1";
const ZIGBUILD: &str = "cargo-zigbuild==0.24.1";
/// The scenarios to run with the static program: what a C library could change.
const SCENARIOS: &[&str] = &["clean::", "proof::", "holders::"];
/// The name of the tests that are all scenarios.
const SUITE: &str = "scenarios";

/// Builds both, checks that they are static, and runs them.
///
/// # Errors
/// When one of these fails.
pub(crate) fn check(rustc: &Path) -> Result<()> {
    for (target, names) in [(X86_64, &["gatewatch"][..]), (ARM64, &["gatewatch", "actor"])] {
        println!("static, {target}: building");
        for name in names {
            assert_static(&build(rustc, target, name)?)?;
        }
    }
    println!("static, {X86_64}: running");
    run(Command::new(program(X86_64, "gatewatch")).arg("doctor"))?;
    let tests = scenarios(&[])?;
    for filter in SCENARIOS {
        let mut scenarios = Command::new(&tests);
        scenarios.arg(filter).env("GATEWATCH_BIN", program(X86_64, "gatewatch")).env("RUST_BACKTRACE", "0");
        run(scenarios.current_dir(root().join("tests")))?;
    }
    println!("static, {ARM64}: running, emulated");
    emulate()
}

/// Builds the program for x86-64.
///
/// # Errors
/// When it can't be built, or is not static.
pub(crate) fn build_for_host(rustc: &Path) -> Result<PathBuf> {
    let program = build(rustc, X86_64, "gatewatch")?;
    assert_static(&program)?;
    Ok(program)
}

/// Builds gatewatch, the actor and the scenarios for arm64.
///
/// # Errors
/// When one can't be built, or is not static.
pub(crate) fn build_for_arm64(rustc: &Path) -> Result<Vec<PathBuf>> {
    let names = ["gatewatch", "actor", SUITE];
    let programs = names.into_iter().map(|name| build(rustc, ARM64, name)).collect::<Result<Vec<_>>>()?;
    programs.iter().try_for_each(|program| assert_static(program))?;
    Ok(programs)
}

fn program(target: &str, name: &str) -> PathBuf {
    folder().join(target).join("release").join(name)
}

fn folder() -> PathBuf {
    target().join("cross/musl")
}

/// The folder of Zig: the program and its headers.
pub(crate) fn zig() -> Result<PathBuf> {
    Ok(pypi::unpack(ZIG, &[], &["ziglang/"])?.join("ziglang"))
}

/// The release build of a program, or of the scenarios, with a standard library built for it.
fn build(rustc: &Path, target: &str, name: &str) -> Result<PathBuf> {
    let zig = zig()?.join("zig");
    let scripts = ZIGBUILD.replace('-', "_").replace("==", "-") + ".data/scripts/cargo-zigbuild";
    let zigbuild = pypi::unpack(ZIGBUILD, &[], &[&scripts])?.join(&scripts);
    for program in [&zig, &zigbuild] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    }
    let package = if name == "gatewatch" { name } else { "gatewatch-tests" };
    let kind = if name == SUITE { "--test" } else { "--bin" };
    let mut build = Command::new(zigbuild);
    build.args([
        "rustc",
        "--message-format=json",
        "--quiet",
        "--locked",
        "--release",
        "-Zbuild-std=std,panic_abort",
        "--target",
        target,
    ]);
    build.args(["--package", package, kind, name, "--target-dir"]).arg(folder()).current_dir(root());
    build.env("CARGO", cargo().get_program()).env("CARGO_ZIGBUILD_ZIG_PATH", zig);
    build.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
    // Zig brings the C library with its start files; this compiler's package has none.
    let messages = output(build.args(["--", "-Clink-self-contained=no"]))?;
    executable(&messages, name).with_context(|| format!("cargo built no {name}"))
}

/// A static program names neither an interpreter nor a library.
fn assert_static(program: &Path) -> Result<()> {
    let headers = output(Command::new("readelf").args(["--wide", "--segments", "--dynamic"]).arg(program))?;
    let asks = headers.lines().find(|line| line.contains("INTERP") || line.contains("(NEEDED)"));
    ensure!(asks.is_none(), "{} is not static: {}", program.display(), asks.unwrap_or_default().trim());
    println!("{} is static, {} KiB", program.display(), fs::metadata(program)?.len() / 1024);
    Ok(())
}

/// Runs the arm64 program: it finds an owner, ends it, and proves that its port is free.
fn emulate() -> Result<()> {
    let emulated = |name: &str| {
        let mut command = Command::new("qemu-aarch64-static");
        command.arg(program(ARM64, name));
        command
    };
    let gatewatch = |words: &[&str]| {
        let mut command = emulated("gatewatch");
        run(command.args(words).args(["--agent", "never", "--backend", "poll"]))
    };
    run(emulated("gatewatch").arg("--version"))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let mut actor = emulated("actor");
    actor.args(["--stay", "--on", &format!("127.0.0.1:{port}")]).stdin(Stdio::null());
    let mut actor = Ended(actor.stdout(Stdio::null()).spawn()?);
    gatewatch(&["wait", "listening", "--port", &port, "--timeout", "60s"])?;
    gatewatch(&["owners", "--port", &port])?;
    gatewatch(&["clean", "--port", &port, "--identity", "any"])?;
    ensure!(actor.0.try_wait()?.is_some(), "the owner of port {port} goes on");
    Ok(())
}

/// A child that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
