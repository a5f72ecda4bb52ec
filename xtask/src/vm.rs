//! A virtual machine with one of Debian's kernels and a real systemd, in which the packaged units are tried.
//!
//! Everything is made of Debian's packages, as root, below the target folder: a root file system by mmdebstrap, a
//! kernel by apt-get. The guest's whole disk is its initial ramdisk; it has no network card. Without the host's own
//! virtualisation QEMU emulates the processor: one, because emulating several breaks the kernel's patching of its own
//! code while it runs (seen with QEMU 7.2 and Linux 6.12 as a panic).

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{build_release, output, root, run, target};
use crate::suites::Suites;
use crate::test::scenarios;
use crate::{debian, package, verifier};

/// What this needs besides Rust.
const NEEDED: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("ldd", "libc-bin"),
];
/// Modules of the kernel that the scenario needs, where they are not built in.
const MODULES: &[&str] = &["inet_diag", "tcp_diag", "autofs4", "mptcp_diag", "netlink_diag"];
const LONGEST: Duration = Duration::from_secs(1800);

/// Boots the kernel (`5.10`, `6.12`), runs the scenario in it, and prints what it says. With `suite` every scenario of
/// the tests is run there as well.
///
/// # Errors
/// When something is missing or fails.
pub(crate) fn test(kernel: &str, suite: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root can make a root file system");
    debian::install(NEEDED)?;
    let folder = target().join("vm");
    fs::create_dir_all(&folder)?;
    let base = base(&folder)?;
    let kernel = Kernel::fetch(&folder, kernel)?;
    let payload = payload(&folder, suite)?;
    let initrd = folder.join("initrd");
    // Initial ramdisks simply follow one another.
    let mut joined = fs::File::create(&initrd)?;
    for part in [&base, &kernel.modules, &payload] {
        std::io::copy(&mut fs::File::open(part)?, &mut joined)?;
    }
    boot(&folder, &kernel, &initrd)
}

/// The root file system, made once.
fn base(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("base.cpio");
    if archive.exists() {
        return Ok(archive);
    }
    println!("making a root file system (a minute or two)");
    let rootfs = folder.join("rootfs");
    let _ = fs::remove_dir_all(&rootfs);
    // The host's own sources, whatever they are.
    let sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("this host has no apt sources")?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=essential", "--mode=root", "--format=directory"]);
    make.args([
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        "--aptopt=Apt::Install-Recommends \"false\"",
    ]);
    for left_out in ["doc", "man", "locale", "zoneinfo"] {
        make.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    make.arg("--include=usr-is-merged,systemd,systemd-sysv,dbus,kmod,iproute2,procps,mount,passwd,python3");
    run(make.args(["bookworm"]).arg(&rootfs).arg(sources))?;
    for (path, text) in [
        ("etc/hostname", "guest\n"),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
        ("etc/fstab", ""),
    ] {
        fs::write(rootfs.join(path), text)?;
    }
    // Units that only take an emulated processor's time.
    for unit in [
        "getty@tty1.service",
        "serial-getty@ttyS0.service",
        "systemd-hwdb-update.service",
        "apt-daily.timer",
        "fstrim.timer",
    ] {
        let link = rootfs.join("etc/systemd/system").join(unit);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("/dev/null", link)?;
    }
    for waste in ["var/cache/apt", "var/lib/apt/lists", "usr/share/i18n", "usr/lib/udev/hwdb.d"] {
        let _ = fs::remove_dir_all(rootfs.join(waste));
    }
    let vm = root().join("tests/vm");
    fs::copy(vm.join("init"), rootfs.join("init"))?;
    fs::copy(vm.join("guest.service"), rootfs.join("etc/systemd/system/guest.service"))?;
    fs::create_dir_all(rootfs.join("etc/systemd/system/default.target.wants"))?;
    std::os::unix::fs::symlink(
        "/lib/systemd/system/multi-user.target",
        rootfs.join("etc/systemd/system/default.target"),
    )?;
    fs::create_dir_all(rootfs.join("etc/systemd/system/multi-user.target.wants"))?;
    std::os::unix::fs::symlink(
        "/etc/systemd/system/guest.service",
        rootfs.join("etc/systemd/system/multi-user.target.wants/guest.service"),
    )?;
    // The unit waits for the target that wants it, which systemd sorts out as long as it is not ordered before it.
    archive_of(&rootfs, &archive)?;
    fs::remove_dir_all(&rootfs)?;
    Ok(archive)
}

/// Packs a folder as a ramdisk in which every file is root's.
fn archive_of(folder: &Path, archive: &Path) -> Result<()> {
    let script = format!("find . -xdev | cpio --quiet -o -H newc -R 0:0 > {}.new", archive.display());
    run(Command::new("sh").arg("-c").arg(script).current_dir(folder))?;
    fs::rename(archive.with_extension("cpio.new"), archive)?;
    Ok(())
}

/// A kernel, and the modules that it needs.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The newest of Debian's cloud kernels of a version in any suite, fetched once.
    fn fetch(vm: &Path, version: &str) -> Result<Self> {
        let folder = vm.join(format!("kernel-{version}"));
        let kernel = Self { image: folder.join("vmlinuz"), modules: folder.join("modules.cpio") };
        if kernel.modules.exists() {
            return Ok(kernel);
        }
        let suites = Suites::set_up(&vm.join("apt"))?;
        let escaped = version.replace('.', "\\.");
        let mut names = suites.search(&format!("^linux-image-{escaped}\\.[0-9].*[0-9]-cloud-amd64$"))?;
        names.sort_by_key(|name| numbers(name));
        let name = names.pop().with_context(|| format!("Debian's suites have no cloud kernel {version}"))?;
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let depends = suites.depends(&name)?;
        // Since Linux 6.19 this package is empty, and needs others with the image and the modules.
        let parts = depends
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
        let unpacked = folder.join("x");
        suites.unpack(&std::iter::once(name.as_str()).chain(parts).collect::<Vec<_>>(), &unpacked)?;
        let release = name.trim_start_matches("linux-image-");
        let image = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]
            .into_iter()
            .map(|path| unpacked.join(path))
            .find(|path| path.exists());
        fs::copy(image.with_context(|| format!("{name} has no kernel in it"))?, &kernel.image)?;
        let base =
            if unpacked.join("lib/modules").exists() { unpacked.clone() } else { unpacked.join("usr") };
        run(Command::new("depmod").arg("-b").arg(&base).arg(release))?;
        let wanted = folder.join("m/usr/lib/modules").join(release);
        fs::create_dir_all(&wanted)?;
        for module in MODULES {
            let mut depends = Command::new("modprobe");
            depends.arg("-d").arg(&base).args(["-S", release, "--show-depends", module]);
            // A module that is built in, or that this kernel lacks, can't be copied.
            let Ok(lines) = output(depends.stderr(Stdio::null())) else { continue };
            for path in lines.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let path = Path::new(path.trim());
                fs::copy(path, wanted.join(path.file_name().context("a module has a name")?))?;
            }
        }
        run(Command::new("depmod").arg("-b").arg(folder.join("m/usr")).arg(release))?;
        archive_of(&folder.join("m"), &kernel.modules)?;
        fs::remove_dir_all(unpacked)?;
        Ok(kernel)
    }
}

/// The numbers in a name, to sort versions by.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|char: char| !char.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The programs, the units and the scenario, as a ramdisk.
fn payload(folder: &Path, suite: bool) -> Result<PathBuf> {
    let release = build_release()?;
    let tree = folder.join("payload");
    let _ = fs::remove_dir_all(&tree);
    let place = tree.join("opt/gatewatch");
    fs::create_dir_all(&place)?;
    let mut programs = vec![release.join("gatewatch"), release.join("actor")];
    if suite {
        programs.push(scenarios(&["--release"])?);
    }
    for program in &programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let name = if name.starts_with("scenarios") { "scenarios".to_owned() } else { name };
        fs::copy(program, place.join(name))?;
        bring_libraries(program, &tree)?;
    }
    for script in ["guest.sh", "scenario.sh"] {
        let to = place.join(script);
        fs::copy(root().join("tests/vm").join(script), &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    run(Command::new("cp").arg("-r").arg(root().join("packaging")).arg(&place))?;
    // Two versions, so that one can follow the other.
    for version in ["1", "2"] {
        let made = folder.join("package");
        fs::create_dir_all(&made)?;
        let package = package::deb_of(
            &release.join("gatewatch"),
            &format!("{}-{version}", package::version()?),
            &made,
        )?;
        fs::copy(package, place.join(format!("{version}.deb")))?;
    }
    let archive = folder.join("payload.cpio");
    archive_of(&tree, &archive)?;
    Ok(archive)
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

/// Boots, prints what the guest says, and fails unless the guest reports success.
fn boot(folder: &Path, kernel: &Kernel, initrd: &Path) -> Result<()> {
    let (console, said, status) = (folder.join("console"), folder.join("said"), folder.join("status"));
    for file in [&console, &said, &status] {
        fs::write(file, "")?;
    }
    let begun = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,tb-size=512", "-cpu", "max", "-smp", "1", "-m", "2048", "-machine", "q35"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]);
    for file in [&console, &said, &status] {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    // On a busy host the emulated timer can be late when the kernel tests it, which would then panic: `no_timer_check`.
    qemu.args([
        "-append",
        "console=ttyS0 panic=-1 quiet mitigations=off nokaslr no_timer_check systemd.show_status=auto",
    ]);
    let mut qemu = qemu.stdin(Stdio::null()).spawn().context("QEMU can't be started")?;
    let mut lines = BufReader::new(fs::File::open(&said)?);
    loop {
        // Checked before the lines are read, so that no line before the end is missed.
        let ended = qemu.try_wait()?.is_some();
        let over = fs::read_to_string(&status)?.contains('\n');
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            print!("{}", line.replace('\r', ""));
            line.clear();
        }
        if over && !ended {
            // The guest's own shutdown takes long, or never ends, and there is no disk to write to.
            qemu.kill()?;
            qemu.wait()?;
        }
        if over || ended {
            break;
        }
        if begun.elapsed() > LONGEST {
            qemu.kill()?;
            qemu.wait()?;
            bail!("the guest did not end within {LONGEST:?}; its console output is {}", console.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = fs::read_to_string(&status)?;
    match status.trim() {
        "GUEST STATUS 0" => {
            println!("the guest succeeded after {:.0?}", begun.elapsed());
            verifier::of_guest(&fs::read_to_string(&said)?)
        }
        "" => bail!("the guest ended without a status; its console output is {}", console.display()),
        other => bail!("the guest says: {other}"),
    }
}
