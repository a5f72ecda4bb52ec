//! How much work the kernel program is for the verifier: the instructions that it looks at, each as often as it does. It
//! refuses a program at a million of them, and a start takes the longer the more there are.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{build_debug, output, root};

/// By the kernel's version (`6.18`) and the program's name.
type Counts = BTreeMap<(String, String), u64>;

/// In these surroundings the programs do most: in a pid namespace, where pids are translated; and without BTF, or without
/// loops, where others take the place of some.
const WAYS: [&[&str]; 4] = [
    &["env"],
    &["unshare", "--pid", "--fork", "--mount-proc"],
    &["env", "GATEWATCH_WITHOUT=btf"],
    &["env", "GATEWATCH_WITHOUT=loops"],
];

/// The first attaches all hooks. The second proves that a port is free, for which it runs a program that is attached to
/// nothing.
const COMMANDS: [&[&str]; 2] = [&["doctor"], &["clean", "-p", "1", "--backend", "ebpf", "--agent", "never"]];

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
    for ((kernel, program), count) in
        said.lines().filter_map(|line| read_line(line.trim().strip_prefix("verified ")?))
    {
        keep_most(&mut counts, (kernel + suffix, program), count);
    }
    compare(counts, record)
}

fn compare(counted: Counts, record: bool) -> Result<()> {
    let path = root().join("watcher/ebpf/verifier.txt");
    let mut recorded = read(&fs::read_to_string(&path).unwrap_or_default());
    let mut grown = Vec::new();
    for ((kernel, program), &count) in &counted {
        let before = recorded.get(&(kernel.clone(), program.clone())).copied();
        let beside = before.map_or("not recorded".to_owned(), |before| format!("recorded: {before}"));
        println!("{kernel} {program:<16} {count:>7}  ({beside})");
        if before.is_some_and(|before| count * 10 >= before * 11) {
            grown.push(program.as_str());
        }
    }
    if record {
        recorded.extend(counted);
        let lines = recorded.iter().map(|((kernel, program), count)| format!("{kernel} {program} {count}\n"));
        let head = "# Kernel, program, and how many instructions the verifier looks at: `cargo xtask verifier --record`.\n";
        return Ok(fs::write(path, format!("{head}{}", lines.collect::<String>()))?);
    }
    if !grown.is_empty() {
        bail!(
            "the verifier has a tenth more work or worse with {}: find out why, or `cargo xtask verifier --record`",
            grown.join(", ")
        );
    }
    Ok(())
}

/// The most of all ways, by program.
fn count() -> Result<Counts> {
    let gatewatch = build_debug()?.join("gatewatch");
    let release = output(Command::new("uname").arg("-r"))?;
    let kernel = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let mut counts = Counts::new();
    for way in WAYS {
        for words in COMMANDS {
            let mut command = Command::new(way[0]);
            command.args(&way[1..]).arg(&gatewatch).args(["-v", "-v"]).args(words).env("NO_COLOR", "1");
            let said = command.output().with_context(|| format!("{} can't be started", way[0]))?;
            for line in String::from_utf8_lossy(&said.stderr).lines() {
                let Some((program, count)) = loaded(line) else { continue };
                ensure!(count > 0, "this kernel does not tell how much it verified: that takes Linux 5.16");
                keep_most(&mut counts, (kernel.clone(), program.to_owned()), count);
            }
        }
    }
    ensure!(!counts.is_empty(), "no program was loaded: see `gatewatch doctor`");
    Ok(counts)
}

/// Of the ways, that with the most work counts.
fn keep_most(counts: &mut Counts, program: (String, String), count: u64) {
    let most = counts.entry(program).or_default();
    *most = count.max(*most);
}

/// Program and count of a line such as `… loaded program="destroy" verified=4209`.
fn loaded(line: &str) -> Option<(&str, u64)> {
    let (program, verified) = line.split_once("loaded program=\"")?.1.split_once("\" verified=")?;
    Some((program, verified.trim().parse().ok()?))
}

fn read(text: &str) -> Counts {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<((String, String), u64)> {
    let [kernel, program, count] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    Some(((kernel.to_owned(), program.to_owned()), count.parse().ok().filter(|&count| count > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_line_in_the_log_gives_its_count() {
        let line = "DEBUG gatewatch::platform::linux::seeing::load: loaded program=\"destroy\" verified=4209";
        assert_eq!(loaded(line), Some(("destroy", 4209)));
        assert_eq!(loaded("DEBUG gatewatch: something else"), None);
    }
}
