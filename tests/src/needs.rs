//! What a scenario needs of the machine. One that can't run is skipped, and says why; in CI that is a failure.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Gatewatch, checkout, platform, servers};

/// What a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing that an ordinary user lacks.
    Nothing,
    /// Root.
    Root,
    /// Root where files have owners: programs that are root's.
    RootsFiles,
    /// Root, and a kernel that takes BPF programs.
    Bpf,
    /// Node, for a real gateway.
    Node,
    /// tmux, for a real terminal.
    Tmux,
    /// strace, to see system calls.
    Strace,
    /// systemd-analyze, to judge a unit.
    SystemdAnalyze,
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
    /// The real servers that `cargo xtask test` fetches.
    Servers,
    /// A real Prometheus, which `cargo xtask test` fetches.
    Prometheus,
    /// Root, a kernel that takes BPF programs, and a real NATS server, which `cargo xtask test` fetches.
    NatsServer,
    /// A system that names the process of a listener over IPv6.
    Ipv6Owners,
    /// A kernel with multipath TCP, switched on.
    Multipath,
    /// Root, a kernel that takes BPF programs, and file systems in user space.
    Fuse,
    /// A kernel that lets everybody use io_uring.
    IoUring,
    /// The checkout that the tests were built from, and the cargo that built them.
    Checkout,
}

impl Needs {
    /// Why this system, whatever is installed on it, can't show what needs this; `None` if it can.
    pub fn cannot_be_shown(self) -> Option<&'static str> {
        platform::cannot(self)
    }
}

/// Whether it is available; if not, why.
///
/// # Errors
/// What is missing.
pub fn have(needs: Needs) -> Result<(), String> {
    static BPF: OnceLock<bool> = OnceLock::new();
    let root = platform::is_root();
    match needs {
        Needs::Nothing | Needs::Ipv6Owners => Ok(()),
        Needs::RootsFiles if cfg!(windows) => Ok(()),
        Needs::Root | Needs::RootsFiles if root => Ok(()),
        Needs::Root | Needs::RootsFiles => Err("needs root".to_owned()),
        Needs::Bpf if !root => Err("needs root".to_owned()),
        Needs::Bpf => {
            let works = *BPF.get_or_init(|| Gatewatch::plain(&["doctor", "--backend", "ebpf"]).status == 0);
            if works {
                Ok(())
            } else {
                Err("needs a kernel that takes all of the eBPF backend's hooks".to_owned())
            }
        }
        Needs::Fuse if !Path::new("/dev/fuse").exists() => Err("needs /dev/fuse".to_owned()),
        Needs::Fuse => have(Needs::Bpf),
        Needs::IoUring if platform::has_io_uring() => Ok(()),
        Needs::IoUring => Err("needs io_uring (kernel.io_uring_disabled)".to_owned()),
        Needs::Multipath if platform::has_multipath() => Ok(()),
        Needs::Multipath => Err("needs a kernel with multipath TCP (net.mptcp.enabled)".to_owned()),
        Needs::Checkout if checkout().join("README.md").exists() => Ok(()),
        Needs::Checkout => Err("needs the checkout that the tests were built from".to_owned()),
        Needs::Servers if servers().join("complete").exists() => Ok(()),
        Needs::Servers => Err("needs the servers that `cargo xtask test` fetches".to_owned()),
        Needs::Prometheus if crate::prometheus("prometheus").exists() => Ok(()),
        Needs::Prometheus => Err("needs the Prometheus that `cargo xtask test` fetches".to_owned()),
        Needs::NatsServer if !crate::nats_server().exists() => {
            Err("needs the NATS server that `cargo xtask test` fetches".to_owned())
        }
        Needs::NatsServer => have(Needs::Bpf),
        Needs::Node => have_program("node"),
        Needs::Tmux => have_program("tmux"),
        Needs::Strace => have_program("strace"),
        Needs::SystemdAnalyze => have_program("systemd-analyze"),
        Needs::Bash => have_program("bash"),
        Needs::Zsh => have_program("zsh"),
        Needs::Fish => have_program("fish"),
    }
}

fn have_program(name: &str) -> Result<(), String> {
    let is_in = |folder: PathBuf| folder.join(format!("{name}{EXE_SUFFIX}")).exists();
    let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(is_in));
    if found { Ok(()) } else { Err(format!("needs {name}")) }
}
