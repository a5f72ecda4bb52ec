//! Building the kernel program's object, and comparing it with the one that is checked in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::run::{cargo, output, root, run, target};
use crate::toolchain::Toolchain;

/// The object and what made it, side by side.
fn checked_in() -> (PathBuf, PathBuf) {
    let folder = root().join("watcher/ebpf");
    (folder.join("gatewatch.bpf.o"), folder.join("gatewatch.bpf.toml"))
}

/// Builds the object and puts it where it is checked in.
///
/// # Errors
/// When the toolchain is missing or the build fails.
pub(crate) fn build() -> Result<()> {
    let toolchain =
        Toolchain::find()?.context("there is no BPF toolchain yet: run `cargo xtask setup-ebpf`")?;
    println!("building with {}: {}, {}", toolchain.name, toolchain.compiler, toolchain.linker);
    let object = compile(&toolchain)?;
    let (to, record) = checked_in();
    fs::copy(&object, &to)?;
    fs::write(&record, made_by(&toolchain, &object)?)?;
    println!("{} ({} bytes)", to.display(), fs::metadata(&to)?.len());
    Ok(())
}

/// Rebuilds the object and compares it with the one that is checked in. If another compiler or linker made that one,
/// the bytes may differ; then the fresh object must pass the tests.
///
/// # Errors
/// When they differ though the same tools made them, or the fresh one fails.
pub(crate) fn check() -> Result<()> {
    let toolchain = Toolchain::set_up()?;
    let fresh = compile(&toolchain)?;
    let (object, record) = checked_in();
    let recorded =
        fs::read_to_string(&record).with_context(|| format!("{} can't be read", record.display()))?;
    let bytes = fs::read(&object)?;
    ensure!(
        recorded.contains(&hash(&bytes)),
        "{} is not the object that {} was written for: run `cargo xtask build-ebpf`",
        object.display(),
        record.display()
    );
    if fs::read(&fresh)? == bytes {
        println!("the checked-in object matches its source, byte for byte ({})", toolchain.compiler);
        return Ok(());
    }
    let same_tools =
        [&toolchain.compiler, &toolchain.linker].iter().all(|tool| recorded.contains(tool.as_str()));
    if same_tools {
        bail!(
            "the checked-in object does not match its source ({} differs): run `cargo xtask build-ebpf`",
            fresh.display()
        );
    }
    println!(
        "the checked-in object was made by other tools:\n{recorded}here: {}, {}\ntesting the fresh one instead",
        toolchain.compiler, toolchain.linker
    );
    let mut tests = cargo();
    tests.args(["test", "--package", "gatewatch-tests", "--target-dir"]).arg(target().join("fresh-object"));
    tests.env("GATEWATCH_EBPF_OBJECT", &fresh);
    run(&mut tests).context("the fresh object doesn't pass the tests")
}

/// Builds and strips the object, and gives its path.
fn compile(toolchain: &Toolchain) -> Result<PathBuf> {
    let folder = target().join("ebpf");
    let sysroot = output(toolchain.rustc().args(["--print", "sysroot"]))?;
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    // The object must not contain a path of this machine. Debug information, which would carry BTF, is left out: the
    // loader has no use for it.
    let mut flags =
        vec![format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH), "-Cdebuginfo=0".to_owned()];
    for (from, to) in [
        (root(), "/gatewatch"),
        (cargo_home.join("registry/src"), "/registry"),
        (PathBuf::from(sysroot), "/sysroot"),
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let mut build = toolchain.cargo_build();
    build
        .current_dir(root().join("watcher-ebpf"))
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("RUSTC_WRAPPER", wrapper(&folder)?)
        // Cargo set these for this program, not for the kernel's.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    run(&mut build)?;
    let stripped = folder.join("gatewatch.bpf.o");
    let linked = folder.join("bpfel-unknown-none/release/gatewatch-ebpf");
    run(toolchain.strip().arg("-g").arg("-o").arg(&stripped).arg(linked))?;
    Ok(stripped)
}

/// Cargo hashes the absolute path of a path dependency into `-C metadata`, and the compiler that into the symbols'
/// names. This runs the compiler with the same value wherever the checkout is.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    const SCRIPT: &str = r#"#!/bin/sh
case "$*" in
*"--crate-name watcher_common "* | *"--crate-name gatewatch_ebpf "*)
    for word; do
        shift
        case $word in metadata=*) word=metadata=gatewatch ;; esac
        set -- "$@" "$word"
    done
    ;;
esac
exec "$@"
"#;
    fs::create_dir_all(folder)?;
    let path = folder.join("rustc-wrapper");
    fs::write(&path, SCRIPT)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The record beside the object.
fn made_by(toolchain: &Toolchain, object: &Path) -> Result<String> {
    Ok(format!(
        "# What made gatewatch.bpf.o; written by `cargo xtask build-ebpf`.\n\
         compiler = \"{}\"\nlinker = \"{}\"\nsha256 = \"{}\"\n",
        toolchain.compiler,
        toolchain.linker,
        hash(&fs::read(object)?)
    ))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fetches what `build` needs.
///
/// # Errors
/// When it is unavailable.
pub(crate) fn set_up() -> Result<()> {
    let toolchain = Toolchain::set_up()?;
    println!("ready: {} ({}, {})", toolchain.name, toolchain.compiler, toolchain.linker);
    Ok(())
}
