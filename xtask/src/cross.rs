//! The other systems: macOS is checked by the compiler, Windows is built and linked, and run under Wine.
//!
//! All of it with Debian's compiler, whose package carries the standard library's sources; what is fetched stays below
//! the target folder, but for mingw-w64 and Wine, which are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run, target};
use crate::test::install;
use crate::toolchain::debian_root;
use crate::{debian, wine};

const MACOS: &str = "aarch64-apple-darwin";
const WINDOWS: &str = "x86_64-pc-windows-gnu";
const NEEDED: &[(&str, &str)] = &[
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32"),
    ("wine", "wine64"),
    ("wine", "wine"),
    ("pip3", "python3-pip"),
];

/// Checks macOS, builds Windows, and runs what was built.
///
/// # Errors
/// When one of these fails.
pub(crate) fn check() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "this is made for x86-64 hosts");
    install(NEEDED)?;
    debian::unpack(debian::RUSTC, &debian_root())?;
    debian::unpack(&["rust-web-src", "libclang1-14"], &debian_root())?;
    let rustc = debian::rustc_wrapper(&debian_root())?;
    println!("macOS: checking");
    macos(&rustc)?;
    println!("Windows: building");
    let program = windows(&rustc)?;
    println!("Windows: running under Wine");
    wine::smoke(&program)
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
    check.args(["check", "--quiet", "--locked", "--package", "gatewatch", "--target", MACOS, "--target-dir"]);
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

/// macOS's headers, for netstat2's build: the PyPI package of Zig carries them.
fn headers() -> Result<PathBuf> {
    let zig = folder().join("zig");
    let headers = zig.join("ziglang");
    if headers.join("lib/libc/include/any-darwin-any").exists() {
        return Ok(headers);
    }
    fs::create_dir_all(&zig)?;
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "ziglang", "--dest"])
        .arg(&zig))?;
    const UNPACK: &str = "
import glob, sys, zipfile
for wheel in glob.glob(sys.argv[1] + '/*.whl'):
    with zipfile.ZipFile(wheel) as archive:
        wanted = ('ziglang/lib/include/', 'ziglang/lib/libc/include/any-darwin-any/')
        archive.extractall(sys.argv[1], [name for name in archive.namelist() if name.startswith(wanted)])
";
    run(Command::new("python3").arg("-c").arg(UNPACK).arg(&zig))?;
    Ok(headers)
}

/// The program, with a standard library built for it.
fn windows(rustc: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "-Zbuild-std=std,panic_abort", "--package", "gatewatch"]);
    build.args(["--target", WINDOWS, "--target-dir"]).arg(folder()).current_dir(root());
    build.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Dwarnings");
    build.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
    run(&mut build)?;
    Ok(folder().join(WINDOWS).join("debug/gatewatch.exe"))
}
