//! The container image: the static program and its configuration, built by Buildah from `packaging/container`.

use std::env;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::run::{output, root, run, succeeds, target};
use crate::{debian, musl, package};

/// Of which program.
#[derive(Args)]
pub(crate) struct Options {
    /// A static program that is built already, instead of building one, which takes a quarter of an hour
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Buildah, and what few machines have of the libraries that it needs.
const PACKAGES: &[&str] = &["buildah", "libassuan0", "libgpgme11", "libsubid4"];

/// Builds the image and writes it as an archive, which `podman load` and `ctr images import` take.
///
/// # Errors
/// When the program is not static, or Buildah is unavailable or refuses.
pub(crate) fn image(options: &Options) -> Result<()> {
    let program = options.program.clone().map_or_else(|| musl::gatewatch(ARCH), Ok)?;
    musl::assert_static(&program).context("the image has no libraries")?;
    let folder = target().join("image");
    let context = folder.join("context");
    fs::create_dir_all(&context)?;
    fs::copy(&program, context.join("gatewatch"))?;
    fs::copy(root().join("packaging/container/config.toml"), context.join("config.toml"))?;
    let name = format!("gatewatch:{}", package::version()?);
    // The same program gives the same image.
    let build = ["build", "--quiet", "--isolation", "chroot", "--timestamp", "0", "--file"];
    let mut built = buildah(&folder)?;
    built.args(build).arg(root().join("packaging/container/Containerfile")).args(["--tag", &name]);
    let id = output(built.arg(&context))?;
    let archive = folder.join(format!("{}.oci.tar", name.replace(':', "-")));
    let _ = fs::remove_file(&archive);
    let to = format!("oci-archive:{}:{name}", archive.display());
    run(buildah(&folder)?.args(["push", "--quiet", &name, &to]))?;
    println!("{}, {} KiB: {name}, {id}", archive.display(), fs::metadata(&archive)?.len() / 1024);
    Ok(())
}

/// The installed Buildah, or Debian's, unpacked below the target folder; with all that it stores in `folder`.
fn buildah(folder: &Path) -> Result<Command> {
    let mut buildah = Command::new("buildah");
    if !succeeds(Command::new("buildah").arg("--version")) {
        let place = folder.join("debian");
        debian::unpack(PACKAGES, &place)?;
        buildah = Command::new(place.join("usr/bin/buildah"));
        buildah.env("LD_LIBRARY_PATH", debian::libraries(&place));
    }
    // Nothing is fetched, so there is nothing to be signed.
    let policy = folder.join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
    let registries = folder.join("registries.conf");
    fs::write(&registries, "")?;
    buildah.env("CONTAINERS_REGISTRIES_CONF", &registries).env("TMPDIR", env::temp_dir());
    buildah.args(["--storage-driver", "vfs", "--root"]).arg(folder.join("storage"));
    buildah.arg("--runroot").arg(folder.join("run")).arg("--signature-policy").arg(policy);
    Ok(buildah)
}
