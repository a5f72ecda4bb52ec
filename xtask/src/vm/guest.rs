//! What a guest has besides its kernel: a root file system of Debian's packages, made once, and the programs to try.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Arch, What};
use crate::package::Kind;
use crate::run::{build_release, output, root, run};
use crate::test::scenarios;
use crate::{musl, package};

/// The packages in a guest with a real system.
const SYSTEM: &str = "usr-is-merged,systemd,systemd-sysv,dbus,kmod,iproute2,procps,mount,passwd,python3";
/// Those in a guest of another architecture. They are unpacked and not set up, because that would run their programs.
const PLAIN: &str = "usr-is-merged,base-files,base-passwd,bash,dash,coreutils,util-linux,mount,kmod,iproute2,procps,grep,sed,\
                     findutils,login,libc-bin,perl-base,mawk,gawk,python3-minimal,python3";

/// The root file system, made once.
pub(super) fn base(folder: &Path, arch: Arch) -> Result<PathBuf> {
    let archive = folder.join(match arch {
        Arch::X86_64 => "base.cpio".to_owned(),
        Arch::Arm64 => format!("base-{}.cpio", arch.debian()),
    });
    if archive.exists() {
        return Ok(archive);
    }
    println!("making a root file system (a minute or two)");
    let rootfs = folder.join(format!("rootfs-{}", arch.debian()));
    let _ = fs::remove_dir_all(&rootfs);
    // The host's own sources, whatever they are.
    let sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("this host has no apt sources")?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--mode=root", "--format=directory"]);
    make.args([
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        "--aptopt=Apt::Install-Recommends \"false\"",
    ]);
    for left_out in ["doc", "man", "locale", "zoneinfo"] {
        make.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    match arch {
        Arch::X86_64 => make.args(["--variant=essential", &format!("--include={SYSTEM}")]),
        Arch::Arm64 => make.args([
            "--variant=extract",
            "--skip=check/qemu",
            &format!("--architectures={}", arch.debian()),
            &format!("--include={PLAIN}"),
        ]),
    };
    run(make.args(["bookworm"]).arg(&rootfs).arg(sources))?;
    for (path, text) in [
        ("etc/hostname", "guest\n"),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
        ("etc/fstab", ""),
    ] {
        fs::write(rootfs.join(path), text)?;
    }
    match arch {
        Arch::X86_64 => set_up_system(&rootfs)?,
        Arch::Arm64 => name_users(&rootfs)?,
    }
    for waste in ["var/cache/apt", "var/lib/apt/lists", "usr/share/i18n", "usr/lib/udev/hwdb.d"] {
        let _ = fs::remove_dir_all(rootfs.join(waste));
    }
    archive_of(&rootfs, &archive)?;
    fs::remove_dir_all(&rootfs)?;
    Ok(archive)
}

/// The unit of the scenario, which systemd starts last.
fn set_up_system(rootfs: &Path) -> Result<()> {
    let units = rootfs.join("etc/systemd/system");
    // Units that only take an emulated processor's time.
    for unit in [
        "getty@tty1.service",
        "serial-getty@ttyS0.service",
        "systemd-hwdb-update.service",
        "apt-daily.timer",
        "fstrim.timer",
    ] {
        let link = units.join(unit);
        let _ = fs::remove_file(&link);
        symlink("/dev/null", link)?;
    }
    let vm = root().join("tests/vm");
    fs::copy(vm.join("init"), rootfs.join("init"))?;
    fs::copy(vm.join("guest.service"), units.join("guest.service"))?;
    fs::create_dir_all(units.join("default.target.wants"))?;
    symlink("/lib/systemd/system/multi-user.target", units.join("default.target"))?;
    // The unit waits for the target that wants it, which systemd sorts out as long as it is not ordered before it.
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("/etc/systemd/system/guest.service", units.join("multi-user.target.wants/guest.service"))?;
    Ok(())
}

/// The users that the packages' own scripts would have made.
fn name_users(rootfs: &Path) -> Result<()> {
    let masters = rootfs.join("usr/share/base-passwd");
    for name in ["passwd", "group"] {
        fs::copy(masters.join(format!("{name}.master")), rootfs.join("etc").join(name))?;
    }
    Ok(())
}

/// Packs a folder as a ramdisk in which every file is root's.
pub(super) fn archive_of(folder: &Path, archive: &Path) -> Result<()> {
    let script = format!("find . -xdev | cpio --quiet -o -H newc -R 0:0 > {}.new", archive.display());
    run(Command::new("sh").arg("-c").arg(script).current_dir(folder))?;
    fs::rename(archive.with_extension("cpio.new"), archive)?;
    Ok(())
}

/// The programs, the scripts and the units, as a ramdisk.
pub(super) fn payload(folder: &Path, arch: Arch, what: &What) -> Result<PathBuf> {
    let tree = folder.join("payload");
    let _ = fs::remove_dir_all(&tree);
    let place = tree.join("opt/gatewatch");
    fs::create_dir_all(&place)?;
    let programs = match arch {
        Arch::X86_64 => {
            let release = build_release()?;
            let mut programs = vec![release.join("gatewatch"), release.join("actor")];
            if *what != What::System(false) {
                programs.push(scenarios(&["--release"])?);
            }
            programs
        }
        // Static, because the host has no C library of that architecture.
        Arch::Arm64 => {
            let musl::Programs { gatewatch, actor, scenarios } = musl::programs("aarch64")?;
            vec![gatewatch, actor, scenarios]
        }
    };
    for program in &programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let name = if name.starts_with("scenarios") { "scenarios".to_owned() } else { name };
        fs::copy(program, place.join(name))?;
        if arch == Arch::X86_64 {
            bring_libraries(program, &tree)?;
        }
    }
    let scripts =
        ["guest.sh", "scenario.sh", "units.sh", "plain.sh", "common.sh"].map(|name| (name, place.join(name)));
    for (name, to) in scripts.into_iter().chain([("plain-init", tree.join("plain-init"))]) {
        fs::copy(root().join("tests/vm").join(name), &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    if let What::Scenarios(filters) = what {
        fs::write(place.join("filters"), filters.join("\n") + "\n")?;
    } else {
        packages(folder, &programs[0], &place)?;
        bring_rpm(&tree)?;
    }
    let archive = folder.join("payload.cpio");
    archive_of(&tree, &archive)?;
    Ok(archive)
}

/// The packaged units, two versions of each package, so that one can follow the other, and the tarball.
fn packages(folder: &Path, gatewatch: &Path, place: &Path) -> Result<()> {
    run(Command::new("cp").arg("-r").arg(root().join("packaging")).arg(place))?;
    let (made, version) = (folder.join("package"), package::version()?);
    fs::create_dir_all(&made)?;
    let make = |kind, version: &str, name: &str| -> Result<()> {
        fs::copy(package::of(gatewatch, kind, version, &made)?, place.join(name))?;
        Ok(())
    };
    for number in ["1", "2"] {
        make(Kind::Deb, &format!("{version}-{number}"), &format!("{number}.deb"))?;
        // A version of an rpm has no hyphen.
        make(Kind::Rpm, &format!("{version}.{number}"), &format!("{number}.rpm"))?;
    }
    make(Kind::Tarball, &version, "gatewatch.tar.gz")
}

/// The tool of rpm systems, which the guest, a Debian, has not: the host's own, with what it reads.
fn bring_rpm(tree: &Path) -> Result<()> {
    let rpm = Path::new("/usr/bin/rpm");
    fs::create_dir_all(tree.join("usr/bin"))?;
    fs::create_dir_all(tree.join("usr/lib"))?;
    fs::copy(rpm, tree.join("usr/bin/rpm"))?;
    bring_libraries(rpm, tree)?;
    run(Command::new("cp").args(["-r", "/usr/lib/rpm"]).arg(tree.join("usr/lib/")))
}

/// Copies a program's libraries, because the guest's C library may differ.
fn bring_libraries(program: &Path, tree: &Path) -> Result<()> {
    for line in output(Command::new("ldd").arg(program))?.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let to = tree.join("usr").join(path.trim_start_matches("/usr").trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
        fs::copy(path, to)?;
    }
    Ok(())
}
