//! Packages: a Debian package, an rpm, a tarball, checksums and a list of components, all from one tree of files.
//!
//! The systems' own tools make them (dpkg-deb, rpmbuild, tar), so that what they refuse, a host would refuse too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::run::{build_release, cargo, output, root, run, succeeds, target};
use crate::{debian, musl};

/// What to make.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A Debian package
    Deb,
    /// An rpm
    Rpm,
    /// A tarball
    Tarball,
    /// The list of components (CycloneDX)
    Sbom,
}

/// What to make, and of which program.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these [default: all]
    kinds: Vec<Kind>,
    /// Of the program with this host's C library, instead of the static one, which runs with any: built sooner
    #[arg(long)]
    dynamic: bool,
}

const NEEDED_FOR_DEB: &[(&str, &str)] = &[("dpkg-shlibdeps", "dpkg-dev")];
const NEEDED_FOR_RPM: &[(&str, &str)] = &[("rpmbuild", "rpm")];

/// Files as they are in the repository, and where a package has them.
const FILES: &[(&str, &str)] = &[
    ("packaging/config.toml", "etc/gatewatch/config.toml"),
    ("packaging/gatewatch.service", "usr/lib/systemd/system/gatewatch.service"),
    ("packaging/gatewatch.socket", "usr/lib/systemd/system/gatewatch.socket"),
    ("packaging/gatewatch.sysusers", "usr/lib/sysusers.d/gatewatch.conf"),
    (
        "packaging/openclaw-gateway-restart.service",
        "usr/share/doc/gatewatch/examples/openclaw-gateway-restart.service",
    ),
    (
        "packaging/openclaw-gateway.service.d/10-clean.conf",
        "usr/share/doc/gatewatch/examples/openclaw-gateway.service.d/10-clean.conf",
    ),
    (
        "packaging/gatewatch.service.d/10-notify-reload.conf",
        "usr/share/doc/gatewatch/examples/gatewatch.service.d/10-notify-reload.conf",
    ),
    (
        "packaging/prometheus/gatewatch.rules.yml",
        "usr/share/doc/gatewatch/examples/prometheus/gatewatch.rules.yml",
    ),
    ("packaging/prometheus/scrape.yml", "usr/share/doc/gatewatch/examples/prometheus/scrape.yml"),
    (
        "packaging/prometheus/grafana-dashboard.json",
        "usr/share/doc/gatewatch/examples/prometheus/grafana-dashboard.json",
    ),
    ("LICENSE", "usr/share/doc/gatewatch/copyright"),
    ("README.md", "usr/share/doc/gatewatch/README.md"),
];

/// Each shell with its folder, and the name of the file for it.
const COMPLETIONS: &[(&str, &str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions", "gatewatch"),
    ("zsh", "usr/share/zsh/site-functions", "_gatewatch"),
    ("fish", "usr/share/fish/vendor_completions.d", "gatewatch.fish"),
];

/// Makes the packages, in `package` below the target folder.
///
/// # Errors
/// When the program can't be built, or a tool is missing or refuses.
pub(crate) fn package(options: &Options) -> Result<()> {
    let folder = target().join("package/gatewatch");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let program = if options.dynamic {
        build_release()?.join("gatewatch")
    } else {
        musl::gatewatch(std::env::consts::ARCH)?
    };
    let wanted = |kind| options.kinds.is_empty() || options.kinds.contains(&kind);
    let tree = tree(&program, &folder)?;
    let version = version()?;
    let kinds = Kind::value_variants().iter().filter(|&&kind| wanted(kind));
    let made: Vec<PathBuf> =
        kinds.map(|&kind| make(kind, &tree, &program, &version, &folder)).collect::<Result<_>>()?;
    let mut sums = Command::new("sha256sum");
    let names = made.iter().filter_map(|path| path.file_name());
    fs::write(folder.join("SHA256SUMS"), output(sums.args(names).current_dir(&folder))? + "\n")?;
    for path in &made {
        println!("{}, {} KiB", path.display(), fs::metadata(path)?.len() / 1024);
    }
    Ok(())
}

/// A package of a program that is built, with this version, in `folder`.
///
/// # Errors
/// When a tool is missing or refuses.
pub(crate) fn of(program: &Path, kind: Kind, version: &str, folder: &Path) -> Result<PathBuf> {
    make(kind, &tree(program, folder)?, program, version, folder)
}

fn make(kind: Kind, tree: &Path, program: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    match kind {
        Kind::Deb => deb(tree, program, version, folder),
        Kind::Rpm => rpm(tree, version, folder),
        Kind::Tarball => tarball(tree, version, folder),
        Kind::Sbom => sbom(version, folder),
    }
}

/// The program's version.
///
/// # Errors
/// When cargo can't say it.
pub(crate) fn version() -> Result<String> {
    let id = output(cargo().args(["pkgid", "--package", "gatewatch"]))?;
    let version = id.rsplit(['#', '@']).next().context("a package's id ends with its version")?;
    Ok(version.to_owned())
}

/// The files as a host has them, below `folder`.
fn tree(program: &Path, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    let bin = tree.join("usr/bin/gatewatch");
    place(program, &bin, 0o755)?;
    for (from, to) in FILES {
        place(&root().join(from), &tree.join(to), 0o644)?;
    }
    let man = folder.join("man");
    let _ = fs::remove_dir_all(&man);
    run(Command::new(&bin).arg("man").arg("--dir").arg(&man))?;
    for page in fs::read_dir(&man)? {
        let page = page?.path();
        let section = page.extension().context("a page's name ends with its section")?.to_string_lossy();
        let name = page.file_name().context("a page has a name")?;
        zip(&page, &tree.join(format!("usr/share/man/man{section}")).join(name))?;
    }
    fs::remove_dir_all(&man)?;
    for (shell, place, name) in COMPLETIONS {
        let text = output(Command::new(&bin).args(["completions", shell]))?;
        fs::create_dir_all(tree.join(place))?;
        fs::write(tree.join(place).join(name), text + "\n")?;
    }
    zip(&root().join("CHANGELOG.md"), &tree.join("usr/share/doc/gatewatch/changelog"))?;
    Ok(tree)
}

fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
    fs::copy(from, to).with_context(|| format!("{} can't be copied", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// Compresses a file, the same way each time.
fn zip(from: &Path, to: &Path) -> Result<()> {
    place(from, to, 0o644)?;
    run(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(to))
}

fn deb(tree: &Path, program: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    debian::install(NEEDED_FOR_DEB)?;
    let from = root().join("packaging/debian");
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let size =
        output(Command::new("du").args(["--summarize", "--apparent-size", "--block-size=1024"]).arg(tree))?;
    let control = fs::read_to_string(from.join("control.in"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@SIZE@", size.split_whitespace().next().unwrap_or_default())
        .replace("@DEPENDS@", &depends(program, folder)?);
    // dpkg knows no empty list.
    let control: Vec<&str> = control.lines().filter(|line| *line != "Depends: ").collect();
    let about = tree.join("DEBIAN");
    fs::create_dir_all(&about)?;
    fs::write(about.join("control"), control.join("\n") + "\n")?;
    fs::write(about.join("conffiles"), "/etc/gatewatch/config.toml\n")?;
    for script in ["postinst", "prerm", "postrm"] {
        place(&from.join(script), &about.join(script), 0o755)?;
    }
    let package = folder.join(format!("gatewatch_{version}_{architecture}.deb"));
    // xz, because older suites' dpkg knows no zstd.
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]).arg(tree).arg(&package))?;
    fs::remove_dir_all(about)?;
    Ok(package)
}

/// The packages with the libraries that a program is linked with; none if it is static.
fn depends(program: &Path, folder: &Path) -> Result<String> {
    if !succeeds(Command::new("ldd").arg(program)) {
        return Ok(String::new());
    }
    // The tool wants to be in a source package.
    let source = folder.join("source");
    fs::create_dir_all(source.join("debian"))?;
    fs::write(source.join("debian/control"), "Source: gatewatch\n\nPackage: gatewatch\nArchitecture: any\n")?;
    let said = output(Command::new("dpkg-shlibdeps").arg("-O").arg(program).current_dir(&source))?;
    fs::remove_dir_all(source)?;
    let depends = said.strip_prefix("shlibs:Depends=").context("dpkg-shlibdeps names no libraries")?;
    Ok(depends.to_owned())
}

fn rpm(tree: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    debian::install(NEEDED_FOR_RPM)?;
    let top = folder.join("rpmbuild");
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    let mut build = Command::new("rpmbuild");
    build.args(["--quiet", "-bb"]);
    build.args(define("_topdir", &top.to_string_lossy()));
    build.args(define("version_of_gatewatch", version));
    build.args(define("tree_of_gatewatch", &tree.to_string_lossy()));
    run(build.arg(root().join("packaging/rpm/gatewatch.spec")))?;
    let built = fs::read_dir(top.join("RPMS").join(std::env::consts::ARCH))?
        .find_map(|entry| Some(entry.ok()?.path()))
        .context("rpmbuild has built nothing")?;
    let package = folder.join(built.file_name().context("a package has a name")?);
    fs::rename(built, &package)?;
    fs::remove_dir_all(top)?;
    // What can be unpacked again is what went in.
    let files = output(Command::new("rpm").args(["--query", "--list", "--package"]).arg(&package))?;
    for (_, to) in FILES {
        ensure!(files.lines().any(|line| line == format!("/{to}")), "the rpm lacks {to}");
    }
    Ok(package)
}

fn tarball(tree: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    let name = format!("gatewatch-{version}-{}-linux", std::env::consts::ARCH);
    let package = folder.join(format!("{name}.tar.gz"));
    // Owner, order and times say nothing about the machine that made it.
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--sort=name",
        "--mtime=@0",
    ]);
    tar.arg(format!("--transform=s,^\\.,{name},")).arg("--file").arg(&package).arg("--directory").arg(tree);
    run(tar.arg("."))?;
    Ok(package)
}

fn sbom(version: &str, folder: &Path) -> Result<PathBuf> {
    let tools = target().join("tools");
    let tool = tools.join("bin/cargo-cyclonedx");
    if !tool.exists() {
        println!("building cargo-cyclonedx (some minutes)");
        run(cargo().args(["install", "--quiet", "--locked", "cargo-cyclonedx", "--root"]).arg(&tools))?;
    }
    let name = format!("gatewatch-{version}.cdx");
    let mut list = Command::new(tool);
    list.args(["cyclonedx", "--quiet", "--format", "json", "--override-filename", &name, "--manifest-path"]);
    run(list.arg(root().join("watcher/Cargo.toml")))?;
    // The tool writes beside each manifest of the workspace.
    let package = folder.join(format!("{name}.json"));
    fs::rename(root().join("watcher").join(format!("{name}.json")), &package)?;
    for member in ["watcher-common", "xtask", "tests"] {
        let _ = fs::remove_file(root().join(member).join(format!("{name}.json")));
    }
    Ok(package)
}
