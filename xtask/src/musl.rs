//! Static programs for Linux, which run whatever C library a host has: the release, for x86-64 and arm64. Zig is the C
//! compiler and the linker, and brings the C library; Rust's own library is rustup's.
//!
//! User-mode emulation shows what an arm64 program does without the kernel's programs: QEMU refuses bpf(2), and the
//! netlink of the socket tables, so that the tables come from `/proc/net`. With them it runs in a guest (`vm-test`).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, output, root, run, succeeds, target};
use crate::test::executable;
use crate::toolchain::debian_root;
use crate::{debian, pypi};

/// Programs that a build runs, and their packages.
const NEEDED: &[(&str, &str)] = &[("pip3", "python3-pip")];
const NEEDED_TO_JUDGE: &[(&str, &str)] = &[("readelf", "binutils")];
const NEEDED_TO_EMULATE: &[(&str, &str)] = &[("qemu-aarch64-static", "qemu-user-static")];
/// Both are pinned, because they follow neither Rust's releases nor each other's.
const ZIG: &str = "ziglang==0.17.1";
const ZIGBUILD: &str = "cargo-zigbuild==0.24.1";
/// The scenarios to run with each change: what a C library could change.
const SCENARIOS: &[&str] = &["clean::", "proof::", "holders::"];

/// The programs of one processor.
pub(crate) struct Programs {
    pub(crate) gatewatch: PathBuf,
    pub(crate) actor: PathBuf,
    pub(crate) scenarios: PathBuf,
}

/// Builds both, checks that they are static, and runs them.
///
/// # Errors
/// When one of these fails.
pub(crate) fn check() -> Result<()> {
    let host = programs("x86_64")?;
    println!("static, x86-64: running");
    run(Command::new(&host.gatewatch).arg("doctor"))?;
    SCENARIOS.iter().try_for_each(|filter| run_scenarios(&host, Some(filter)))?;
    let foreign = programs("aarch64")?;
    println!("static, arm64: running, emulated");
    emulate(&foreign)
}

/// Runs every scenario with this host's static programs.
///
/// # Errors
/// When they can't be built, or one fails.
pub(crate) fn run_all_scenarios() -> Result<()> {
    run_scenarios(&programs(std::env::consts::ARCH)?, None)
}

fn run_scenarios(programs: &Programs, filter: Option<&str>) -> Result<()> {
    let mut scenarios = Command::new(&programs.scenarios);
    scenarios.args(filter).current_dir(root().join("tests"));
    run(scenarios.env("GATEWATCH_BIN", &programs.gatewatch).env("RUST_BACKTRACE", "0"))
}

/// Builds gatewatch as it is released, for a processor by Rust's name.
///
/// # Errors
/// When it can't be built, or is not static.
pub(crate) fn gatewatch(arch: &str) -> Result<PathBuf> {
    let [gatewatch] = build(arch, &["--package", "gatewatch"], ["gatewatch"])?;
    Ok(gatewatch)
}

/// Builds gatewatch as it is released, and the programs of the tests.
///
/// # Errors
/// When one can't be built, or is not static.
pub(crate) fn programs(arch: &str) -> Result<Programs> {
    let gatewatch = gatewatch(arch)?;
    // By itself, because the features of the tests' crates would change the program that is released.
    let tests = ["--package", "gatewatch-tests", "--test", "scenarios"];
    let [actor, scenarios] = build(arch, &tests, ["actor", "scenarios"])?;
    Ok(Programs { gatewatch, actor, scenarios })
}

/// Builds gatewatch as it is released for this processor, and the actor, and gives the folder that they are in.
///
/// # Errors
/// When one can't be built, or is not static.
pub(crate) fn release() -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    let gatewatch = gatewatch(arch)?;
    let [actor] = build(arch, &["--package", "gatewatch-tests"], ["actor"])?;
    let folder = gatewatch.parent().context("a program is in a folder")?;
    ensure!(actor.parent() == Some(folder), "the programs are in two folders");
    Ok(folder.to_owned())
}

/// The folder of Zig: the program and its headers.
pub(crate) fn zig() -> Result<PathBuf> {
    Ok(pypi::unpack(ZIG, &[], &["ziglang/"])?.join("ziglang"))
}

/// Release builds of the programs among these packages, by name.
fn build<const N: usize>(arch: &str, packages: &[&str], names: [&str; N]) -> Result<[PathBuf; N]> {
    debian::install(NEEDED)?;
    let target_name = format!("{arch}-unknown-linux-musl");
    println!("static, {target_name}: building {}", names.join(", "));
    let zig = zig()?.join("zig");
    let scripts = ZIGBUILD.replace('-', "_").replace("==", "-") + ".data/scripts/cargo-zigbuild";
    let zigbuild = pypi::unpack(ZIGBUILD, &[], &[&scripts])?.join(&scripts);
    for program in [&zig, &zigbuild] {
        fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    }
    let mut build = Command::new(zigbuild);
    build.args(["build", "--message-format=json", "--quiet", "--locked", "--release", "--bins"]);
    build.args(packages).args(["--target", &target_name, "--target-dir"]).arg(target().join("cross/musl"));
    build.env("CARGO", cargo().get_program()).env("CARGO_ZIGBUILD_ZIG_PATH", zig).current_dir(root());
    // Does nothing if the library is there already.
    if !succeeds(Command::new("rustup").args(["target", "add", &target_name])) {
        build_library(&mut build)?;
    }
    let messages = output(&mut build)?;
    let mut built = names.map(|_| PathBuf::new());
    for (place, name) in built.iter_mut().zip(names) {
        *place = executable(&messages, name).with_context(|| format!("cargo built no {name}"))?;
        assert_static(place)?;
    }
    Ok(built)
}

/// Has Rust's own library built as well, by Debian's compiler, whose packages have its sources.
fn build_library(build: &mut Command) -> Result<()> {
    println!("rustup can't fetch Rust's library: building it with Debian's compiler");
    debian::unpack_compiler(&debian_root())?;
    debian::unpack(&["rust-web-src"], &debian_root())?;
    build.arg("-Zbuild-std=std,panic_abort");
    build.env("RUSTC", debian::rustc_wrapper(&debian_root())?).env("RUSTC_BOOTSTRAP", "1");
    // That compiler's package has no start files, but Zig has.
    build.env("RUSTFLAGS", "-Clink-self-contained=no");
    Ok(())
}

/// A static program names neither an interpreter nor a library.
///
/// # Errors
/// When the program does.
pub(crate) fn assert_static(program: &Path) -> Result<()> {
    debian::install(NEEDED_TO_JUDGE)?;
    let headers = output(Command::new("readelf").args(["--wide", "--segments", "--dynamic"]).arg(program))?;
    let asks = headers.lines().find(|line| line.contains("INTERP") || line.contains("(NEEDED)"));
    ensure!(asks.is_none(), "{} is not static: {}", program.display(), asks.unwrap_or_default().trim());
    println!("{} is static, {} KiB", program.display(), fs::metadata(program)?.len() / 1024);
    Ok(())
}

/// Runs the arm64 program: it finds an owner, ends it, and proves that its port is free.
fn emulate(programs: &Programs) -> Result<()> {
    debian::install(NEEDED_TO_EMULATE)?;
    let emulated = |program: &Path| {
        let mut command = Command::new("qemu-aarch64-static");
        command.arg(program);
        command
    };
    let gatewatch = |words: &[&str]| {
        let mut command = emulated(&programs.gatewatch);
        run(command.args(words).args(["--agent", "never", "--backend", "poll"]))
    };
    run(emulated(&programs.gatewatch).arg("--version"))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let mut actor = emulated(&programs.actor);
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
