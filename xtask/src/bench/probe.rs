//! What the kernel program costs on ports that nobody watches: the kernel's own statistics on BPF programs.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};

use anyhow::Result;
use gatewatch_tests::{Backend, Gatewatch};

const WATCHED: u16 = 18_792;
const UNWATCHED: u16 = 18_793;
const ROUNDS: usize = 20_000;
/// The same switch as `BPF_ENABLE_STATS` (bpf(2), Linux 5.1), as a file.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

pub(super) fn run() -> Result<()> {
    println!("probe: time in the kernel program on a port that nobody watches");
    let before = fs::read_to_string(SWITCH)?;
    let watch = Gatewatch::on(Backend::Ebpf, &["watch"], WATCHED).watch();
    fs::write(SWITCH, "1")?;
    let measured = measure(watch.pid());
    fs::write(SWITCH, before)?;
    drop(watch);
    for (kind, Runs { count, nanoseconds }) in measured? {
        println!("  {kind:<44} n {count:<9} mean {:.0} ns", nanoseconds as f64 / count as f64);
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Runs {
    count: u64,
    nanoseconds: u64,
}

fn measure(pid: u32) -> Result<BTreeMap<&'static str, Runs>> {
    let before = runs(pid)?;
    for _ in 0..ROUNDS {
        let listener = TcpListener::bind(("127.0.0.1", UNWATCHED))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        drop((client, server));
    }
    let mut measured = BTreeMap::new();
    for (kind, after) in runs(pid)? {
        let before = before.get(kind).copied().unwrap_or_default();
        let runs =
            Runs { count: after.count - before.count, nanoseconds: after.nanoseconds - before.nanoseconds };
        if runs.count > 0 {
            measured.insert(kind, runs);
        }
    }
    Ok(measured)
}

/// The programs that a process holds, by kind, from their descriptors' fdinfo.
fn runs(pid: u32) -> Result<BTreeMap<&'static str, Runs>> {
    let mut all: BTreeMap<&'static str, Runs> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        // A link's fdinfo names its program too; only the program's own has counts.
        let (Some(kind), Some(count), Some(time)) =
            (field("prog_type:"), field("run_cnt:"), field("run_time_ns:"))
        else {
            continue;
        };
        let kind = match kind {
            26 => "BTF tracepoints (set_state, destroy)",
            9 => "cgroup post_bind",
            5 => "system call tracepoints (bind, listen)",
            _ => "others",
        };
        let runs = all.entry(kind).or_default();
        runs.count += count;
        runs.nanoseconds += time;
    }
    Ok(all)
}
