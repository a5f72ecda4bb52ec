//! How many instructions the commands take that people wait for, counted by valgrind: the same on a busy machine, and for
//! whoever counts again. The kernel's are not among them; for those of the verifier see [`crate::verifier`].

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::counts::{Counts, Recorded};
use crate::debian;
use crate::run::{build_release, output, target};

const NEEDED: &[(&str, &str)] = &[("valgrind", "valgrind"), ("unshare", "util-linux"), ("ip", "iproute2")];
const RECORDED: Recorded = Recorded {
    file: "xtask/instructions.txt",
    head: "Command, and how many instructions it takes",
    grown: "a tenth more instructions or worse for",
    task: "cargo xtask instructions --record",
};

/// What is counted, and by which words. One owner, or nobody, on a host without any other process or connection.
const COMMANDS: [(&str, &str); 5] = [
    ("version", "--version"),
    ("owners_by_events", "owners -p 18789 --backend ebpf --agent never"),
    ("owners_by_polling", "owners -p 18789 --backend poll --agent never"),
    ("clean_of_nobody_by_events", "clean -p 18790 --backend ebpf --agent never"),
    ("clean_of_nobody_by_polling", "clean -p 18790 --backend poll --agent never"),
];

/// The scene, in namespaces of its own: `$0` is gatewatch, `$1` the actor, `$2` where the count goes. What is remembered of
/// the kernel until the next boot is there by the first run; the second is counted. Both are valgrind's, because it is
/// remembered for one program's file, and `/proc/self/exe` is valgrind's there.
const SCENE: &str = r#"
    set -e
    ip link set lo up
    mount -t tmpfs none /run
    export GATEWATCH_WITHOUT=kept
    exec 3< <(exec -a openclaw-gateway "$1" --stay --on 127.0.0.1:18789)
    read -r ready <&3
    for run in first second; do
        valgrind --quiet --tool=callgrind --callgrind-out-file="$2" "$0" $WORDS > /dev/null 2>&1
    done
"#;

/// Counts, and compares with what is checked in, or records it.
///
/// # Errors
/// When a command takes a tenth more or worse, or can't be counted.
pub(crate) fn instructions(record: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root can load the kernel program");
    debian::install(NEEDED)?;
    let release = build_release()?;
    let counted: Result<Counts> =
        COMMANDS.iter().map(|&(name, words)| Ok((name.to_owned(), count(&release, words)?))).collect();
    RECORDED.compare(counted?, |_| true, record)
}

fn count(release: &Path, words: &str) -> Result<u64> {
    let place = target().join("tmp/instructions");
    fs::create_dir_all(target().join("tmp"))?;
    let _ = fs::remove_file(&place);
    let mut scene = Command::new("unshare");
    scene.args(["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "bash", "-c", SCENE]);
    scene.arg(release.join("gatewatch")).arg(release.join("actor")).arg(&place).env("WORDS", words);
    output(&mut scene)?;
    let text = fs::read_to_string(&place)?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    total.and_then(|count| count.trim().parse().ok()).context("valgrind has counted nothing")
}
