//! A kernel from Debian's suites, and the modules of it that the scenarios need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Arch;
use super::guest::archive_of;
use crate::run::{output, run};
use crate::suites::Suites;

/// Modules of the kernel that the scenario needs, where they are not built in.
const MODULES: &[&str] = &["inet_diag", "tcp_diag", "autofs4", "mptcp_diag", "netlink_diag", "udp_diag"];

/// A kernel, and its modules as a ramdisk.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The newest of Debian's cloud kernels of a version in any suite, fetched once.
    pub(super) fn fetch(vm: &Path, version: &str, arch: Arch) -> Result<Self> {
        let folder = vm.join(format!("kernel-{version}{}", arch.suffix()));
        let kernel = Self { image: folder.join("vmlinuz"), modules: folder.join("modules.cpio") };
        if kernel.modules.exists() {
            return Ok(kernel);
        }
        let suites = Suites::set_up(&vm.join(format!("apt{}", arch.suffix())), arch.debian())?;
        let escaped = version.replace('.', "\\.");
        let mut names =
            suites.search(&format!("^linux-image-{escaped}\\.[0-9].*[0-9]-cloud-{}$", arch.debian()))?;
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
