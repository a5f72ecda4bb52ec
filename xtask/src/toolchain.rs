//! The compiler and linker of the kernel program: rustup's nightly where it has the library's sources, else
//! Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian;
use crate::run::{cargo, output, run, succeeds, target};

/// The bpf-linker to build if none is installed. Newer ones give the same object and need more to build.
const BPF_LINKER: &str = "0.10.3";

/// What builds the kernel program.
pub(crate) struct Toolchain {
    /// Its name, for people.
    pub(crate) name: &'static str,
    /// The compiler's own version line.
    pub(crate) compiler: String,
    /// The linker's own version line.
    pub(crate) linker: String,
    rustc: Rustc,
    linker_folder: Option<PathBuf>,
}

enum Rustc {
    /// rustup's nightly: `core` is built from its sources.
    Nightly,
    /// Debian's compiler, which carries a `core` for BPF.
    Debian { wrapper: PathBuf, strip: PathBuf, root: PathBuf },
}

fn folder() -> PathBuf {
    target().join("ebpf-toolchain")
}

/// Where Debian's compiler is unpacked.
pub(crate) fn debian_root() -> PathBuf {
    folder().join("root")
}

impl Toolchain {
    /// The installed toolchain; `None` if it has not been set up.
    pub(crate) fn find() -> Result<Option<Self>> {
        let Some(linker_folder) = find_linker() else { return Ok(None) };
        let rustc = if nightly() {
            Rustc::Nightly
        } else if debian_root().join("usr/bin/rustc").exists() {
            let root = debian_root();
            Rustc::Debian {
                wrapper: debian::rustc_wrapper(&root)?,
                strip: root.join("usr/lib").join(debian::llvm(&root)?).join("bin/llvm-strip"),
                root,
            }
        } else {
            return Ok(None);
        };
        let mut toolchain = Self {
            name: match rustc {
                Rustc::Nightly => "rustup's nightly",
                Rustc::Debian { .. } => "Debian's compiler, unpacked in the target folder",
            },
            compiler: String::new(),
            linker: String::new(),
            rustc,
            linker_folder,
        };
        toolchain.compiler = output(toolchain.rustc().arg("--version"))?;
        toolchain.linker = output(toolchain.with_paths(&mut Command::new("bpf-linker")).arg("--version"))?;
        Ok(Some(toolchain))
    }

    /// Like [`Self::find`], but fetches what is missing.
    ///
    /// # Errors
    /// When it is unavailable.
    pub(crate) fn set_up() -> Result<Self> {
        if !nightly() {
            let root = debian_root();
            debian::unpack_compiler(&root)?;
            debian::unpack(&["libstd-rust-web-dev-bpf", &debian::llvm(&root)?], &root)?;
        }
        if find_linker().is_none() {
            println!("building bpf-linker {BPF_LINKER} (some minutes)");
            run(cargo()
                .args(["install", "--quiet", "bpf-linker", "--version", BPF_LINKER, "--locked", "--root"])
                .arg(folder().join("linker"))
                // Not below the workspace's own target folder, whose lock is held while this runs.
                .env("CARGO_TARGET_DIR", folder().join("linker-build")))?;
            fs::remove_dir_all(folder().join("linker-build")).ok();
        }
        Self::find()?.context("the toolchain was fetched but can't be found")
    }

    /// The compiler itself, for questions.
    pub(crate) fn rustc(&self) -> Command {
        match &self.rustc {
            Rustc::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
            Rustc::Debian { wrapper, .. } => Command::new(wrapper),
        }
    }

    /// A cargo that builds with this compiler for the BPF target.
    pub(crate) fn cargo_build(&self) -> Command {
        let mut command = match &self.rustc {
            Rustc::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                command
            }
            Rustc::Debian { wrapper, .. } => {
                let mut command = cargo();
                command.arg("build").env("RUSTC", wrapper);
                command
            }
        };
        self.with_paths(&mut command);
        command.args(["--release", "--locked", "--target", "bpfel-unknown-none"]);
        // Lets a stable compiler use the target's unstable features for these crates.
        command.env("RUSTC_BOOTSTRAP", "watcher_ebpf,gatewatch_ebpf,aya_ebpf,aya_log_ebpf,watcher_common");
        command
    }

    /// `llvm-strip`, which knows BPF.
    pub(crate) fn strip(&self) -> Command {
        let name = match &self.rustc {
            Rustc::Debian { strip, .. } => strip.as_path(),
            Rustc::Nightly => Path::new("llvm-strip"),
        };
        let mut command = Command::new(name);
        self.with_paths(&mut command);
        command
    }

    fn with_paths<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(folder) = &self.linker_folder {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(folder.clone()).chain(std::env::split_paths(&path));
            if let Ok(path) = std::env::join_paths(folders) {
                command.env("PATH", path);
            }
        }
        if let Rustc::Debian { root, .. } = &self.rustc {
            // bpf-linker loads the LLVM of the compiler that it links for.
            command.env("LD_LIBRARY_PATH", debian::libraries(root));
        }
        command
    }
}

/// Whether rustup has a nightly with the library's sources.
fn nightly() -> bool {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    succeeds(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
        && output(&mut command)
            .is_ok_and(|sysroot| PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core").exists())
}

/// The folder to put before PATH for bpf-linker; none if it is on PATH already.
#[expect(clippy::option_option, reason = "found or not; found on PATH, or in a folder of its own")]
fn find_linker() -> Option<Option<PathBuf>> {
    let own = folder().join("linker/bin");
    if own.join("bpf-linker").exists() {
        Some(Some(own))
    } else if succeeds(Command::new("bpf-linker").arg("--version")) {
        Some(None)
    } else {
        None
    }
}
