//! How much work the kernel program is for the verifier: the instructions that it looks at, each as often as it does. It
//! refuses a program at a million of them, and a start takes the longer the more there are.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::counts::{Counts, Recorded, read_line};
use crate::run::{build_debug, output};

/// By the kernel's version and the program's name: `6.18 bind4`.
const RECORDED: Recorded = Recorded {
    file: "watcher/ebpf/verifier.txt",
    head: "Kernel, program, and how many instructions the verifier looks at",
    grown: "the verifier has a tenth more work or worse with",
    task: "cargo xtask verifier --record",
};

/// In these surroundings the programs do most: in a pid namespace, where pids are translated; and without BTF, without loops, or
/// where the kernel's functions can't be followed, and others take the place of some.
const WAYS: [&[&str]; 5] = [
    &["env"],
    &["unshare", "--pid", "--fork", "--mount-proc"],
    &["env", "GATEWATCH_WITHOUT=btf"],
    &["env", "GATEWATCH_WITHOUT=loops"],
    &["env", "GATEWATCH_WITHOUT=fexit", "unshare", "--pid", "--fork", "--mount-proc"],
];

/// Counts on this kernel, and compares with what is checked in, or records it.
///
/// # Errors
/// When a program has grown by a tenth or more, or can't be loaded.
pub(crate) fn verifier(record: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root can load the kernel program");
    compare(count()?, record)
}

/// The same for a guest, which has said a line such as `verified 6.1 bind4 7713` for each program and surroundings. On another
/// processor the work is another, because the kernel's structures are laid out differently: `suffix` comes after the version.
///
/// # Errors
/// When a program has grown by a tenth or more, or the counts can't be recorded.
pub(crate) fn of_guest(said: &str, suffix: &str, record: bool) -> Result<()> {
    let mut counts = Counts::new();
    for (name, count) in said.lines().filter_map(|line| read_line(line.trim().strip_prefix("verified ")?)) {
        let Some((kernel, program)) = name.split_once(' ') else { continue };
        keep_most(&mut counts, format!("{kernel}{suffix} {program}"), count);
    }
    compare(counts, record)
}

/// All programs of the kernels that are counted are expected.
fn compare(counts: Counts, record: bool) -> Result<()> {
    let kernels: BTreeSet<String> = counts.keys().map(|name| kernel_of(name).to_owned()).collect();
    RECORDED.compare(counts, |name| kernels.contains(kernel_of(name)), record)
}

/// `6.18` of `6.18 bind4`.
fn kernel_of(name: &str) -> &str {
    name.split_once(' ').map_or(name, |(kernel, _)| kernel)
}

/// The most of all ways, by program.
fn count() -> Result<Counts> {
    let gatewatch = build_debug()?.join("gatewatch");
    let release = output(Command::new("uname").arg("-r"))?;
    let kernel = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let mut counts = Counts::new();
    for way in WAYS {
        let mut command = Command::new(way[0]);
        // It attaches all hooks.
        command.args(&way[1..]).arg(&gatewatch).args(["-v", "-v", "doctor"]).env("NO_COLOR", "1");
        let said = command.output().with_context(|| format!("{} can't be started", way[0]))?;
        for line in String::from_utf8_lossy(&said.stderr).lines() {
            let Some((program, count)) = loaded(line) else { continue };
            ensure!(count > 0, "this kernel does not tell how much it verified: that takes Linux 5.16");
            keep_most(&mut counts, format!("{kernel} {program}"), count);
        }
    }
    ensure!(!counts.is_empty(), "no program was loaded: see `gatewatch doctor`");
    Ok(counts)
}

/// Of the ways, that with the most work counts.
fn keep_most(counts: &mut Counts, name: String, count: u64) {
    let most = counts.entry(name).or_default();
    *most = count.max(*most);
}

/// Program and count of a line such as `… loaded program="destroy" verified=4209`.
fn loaded(line: &str) -> Option<(&str, u64)> {
    let (program, verified) = line.split_once("loaded program=\"")?.1.split_once("\" verified=")?;
    Some((program, verified.trim().parse().ok()?))
}
