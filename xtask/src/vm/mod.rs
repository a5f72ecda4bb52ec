//! A virtual machine with one of Debian's kernels, in which the packaged units are tried under a real systemd, or scenarios
//! of the tests without any system.
//!
//! Everything is made of Debian's packages, as root, below the target folder: a root file system by mmdebstrap, a
//! kernel by apt-get. The guest's whole disk is its initial ramdisk; it has no network card. Without the host's own
//! virtualisation QEMU emulates the processor: one, because emulating several breaks the kernel's patching of its own
//! code while it runs (seen with QEMU 7.2 and Linux 6.12 as a panic).

mod guest;
mod kernel;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::run::target;
use crate::{debian, verifier};
use kernel::Kernel;

/// What this needs besides Rust.
const NEEDED: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("ldd", "libc-bin"),
];
const NEEDED_FOR_ARM64: &[(&str, &str)] = &[("qemu-system-aarch64", "qemu-system-arm")];
const LONGEST: Duration = Duration::from_secs(3600);
/// After this the guest says how its script ended.
const STATUS: &str = "GUEST STATUS ";

/// The guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86-64")]
    X86_64,
    Arm64,
}

impl Arch {
    /// Debian's name of it.
    fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The end of the names of what is made for it.
    fn suffix(self) -> &'static str {
        match self {
            Self::X86_64 => "",
            Self::Arm64 => "-arm64",
        }
    }

    fn emulator(self) -> Command {
        let (program, machine) = match self {
            Self::X86_64 => ("qemu-system-x86_64", ["-machine", "q35"]),
            Self::Arm64 => ("qemu-system-aarch64", ["-machine", "virt"]),
        };
        let mut emulator = Command::new(program);
        emulator.args(machine);
        emulator
    }

    /// The first serial port.
    fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}

/// What a guest does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Try the packaged units under systemd, and then every scenario of the tests if that is wanted.
    System(bool),
    /// Run the scenarios whose name contains one of these, without any system.
    Scenarios(Vec<String>),
}

/// Boots the kernel (`5.10`, `6.12`), has the guest do its part, and prints what it says.
///
/// # Errors
/// When something is missing or fails.
pub(crate) fn test(version: &str, arch: Arch, what: &What, record: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root can make a root file system");
    ensure!(
        arch == Arch::X86_64 || matches!(what, What::Scenarios(_)),
        "the arm64 guest has no system: say which scenarios are to run, with --scenarios"
    );
    debian::install(NEEDED)?;
    if arch == Arch::Arm64 {
        debian::install(NEEDED_FOR_ARM64)?;
    }
    let folder = target().join("vm");
    fs::create_dir_all(&folder)?;
    let base = guest::base(&folder, arch)?;
    let kernel = Kernel::fetch(&folder, version, arch)?;
    // Of its own, so that two kernels can be tried side by side.
    let own = folder.join(format!("run-{version}{}", arch.suffix()));
    fs::create_dir_all(&own)?;
    let payload = guest::payload(&own, arch, what)?;
    // Initial ramdisks simply follow one another.
    let mut joined = fs::File::create(own.join("initrd"))?;
    for part in [&base, &kernel.modules, &payload] {
        std::io::copy(&mut fs::File::open(part)?, &mut joined)?;
    }
    let said = boot(&own, &kernel, arch, what)?;
    verifier::of_guest(&said, arch.suffix(), record)
}

/// Boots, prints what the guest says, gives it as well, and fails unless the guest reports success.
fn boot(folder: &Path, kernel: &Kernel, arch: Arch, what: &What) -> Result<String> {
    let console = folder.join("console");
    // A guest without a system writes all to the console.
    let (said, status) = match what {
        What::System(_) => (folder.join("said"), folder.join("status")),
        What::Scenarios(_) => (console.clone(), console.clone()),
    };
    let mut serials = vec![&console, &said, &status];
    serials.dedup();
    let begun = Instant::now();
    let mut qemu = arch.emulator();
    qemu.args(["-accel", "tcg,tb-size=512", "-cpu", "max", "-smp", "1", "-m", "2048"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]);
    for file in serials {
        fs::write(file, "")?;
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(folder.join("initrd"));
    let init = if matches!(what, What::Scenarios(_)) { "rdinit=/plain-init" } else { "" };
    // On a busy host the emulated timer can be late when the kernel tests it, which would then panic: `no_timer_check`.
    qemu.arg("-append").arg(format!(
        "console={} panic=-1 quiet mitigations=off nokaslr no_timer_check systemd.show_status=auto {init}",
        arch.console()
    ));
    let mut qemu = qemu.stdin(Stdio::null()).spawn().context("QEMU can't be started")?;
    let mut lines = BufReader::new(fs::File::open(&said)?);
    let mut line = String::new();
    loop {
        // Checked before the lines are read, so that no line before the end is missed.
        let ended = qemu.try_wait()?.is_some();
        let over = status_in(&fs::read_to_string(&status)?).is_some();
        // A line may not have come to its end yet.
        while lines.read_line(&mut line)? > 0 && (line.ends_with('\n') || over || ended) {
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
    match status_in(&status) {
        Some("0") => {
            println!("the guest succeeded after {:.0?}", begun.elapsed());
            Ok(fs::read_to_string(&said)?)
        }
        None => bail!("the guest ended without a status; its console output is {}", console.display()),
        Some(other) => bail!("the guest's script ended with status {other}"),
    }
}

/// The status in what the guest said, once its line is whole.
fn status_in(said: &str) -> Option<&str> {
    let (_, rest) = said.rsplit_once(STATUS)?;
    Some(rest.split_once('\n')?.0.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_once_its_line_is_whole() {
        assert_eq!(status_in("some line\nGUEST STATUS 1"), None);
        assert_eq!(status_in("some line\r\nGUEST STATUS 0\r\n"), Some("0"));
        assert_eq!(status_in("GUEST STATUS 17\n[  10.0] something of the kernel\n"), Some("17"));
    }
}
