//! Fuzzing of what gatewatch parses: libFuzzer, with the counters that the installed stable compiler can put in.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::debian::install;
use crate::run::{build_debug, cargo, output, root, run, target};

/// What tells libFuzzer where a run has been and what it compared: the flags of cargo-fuzz, less the sanitizers, which
/// need an unstable compiler. (Under nightly, `cargo fuzz run parse` in `tests/fuzz` has them.)
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

/// More than any rule looks at, and little enough that inputs stay legible.
const LONGEST_INPUT: &str = "-max_len=4096";

/// Pinned, because another one has other checks and makes other choices of the same seed.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// How long is fuzzed.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// So long, which finds something else each time.
    Time(Duration),
    /// So often, with this seed: nearly the same each time, because hash maps take their keys by chance.
    Runs { runs: u64, seed: u32 },
}

impl Bound {
    pub(crate) fn new(time: Duration, runs: Option<u64>, seed: u32) -> Self {
        runs.map_or(Self::Time(time), |runs| Self::Runs { runs, seed })
    }
}

/// How the fuzzers are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// With counters everywhere, and fast: for long runs.
    Whole,
    /// With counters in our own code alone, and not optimised, which takes less than half the processor time to build: for CI.
    Short,
}

/// How often each target is run in the short form, where nothing else is said.
pub(crate) const SHORT: Bound = Bound::Runs { runs: 2000, seed: 1 };

/// Runs these targets, or all of them, as many at once as there are processors.
///
/// # Errors
/// When a rule does not hold, or the fuzzers can't be built.
pub(crate) fn fuzz(bound: Bound, form: Form, wanted: &[String]) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(*name)) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("there is no target {unknown}: the targets are {}", known.join(", "));
    }
    let wanted: Vec<String> =
        known.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
    let program = build(form)?;
    let folder = std::env::temp_dir().join(format!("gatewatch-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let left = Mutex::new(wanted.iter());
    let failed = Mutex::new(Vec::new());
    let next = || left.lock().ok()?.next();
    let work = || {
        while let Some(name) = next() {
            let done = Campaign { name, program: &program, folder: &folder, bound }.run();
            if let (Err(error), Ok(mut failed)) = (done, failed.lock()) {
                println!("{name}: {error:#}");
                failed.push(name.clone());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    fs::remove_dir_all(&folder)?;
    match failed.into_inner().unwrap_or_default() {
        failed if failed.is_empty() => Ok(()),
        failed => bail!("a rule does not hold: {}", failed.join(", ")),
    }
}

/// Asks a running agent whatever its own description allows, and what it does not, and compares the answers with it.
///
/// # Errors
/// When an answer is not as described, or schemathesis can't be installed.
pub(crate) fn fuzz_api(bound: Bound) -> Result<()> {
    let folder = target().join("fuzz").join(SCHEMATHESIS);
    let complete = folder.join("complete");
    if !complete.exists() {
        println!("fetching {SCHEMATHESIS}");
        let mut install = Command::new("python3");
        run(install.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&folder).arg(SCHEMATHESIS))?;
        fs::write(complete, "")?;
    }
    let gatewatch = build_debug()?.join("gatewatch");
    // A network namespace of its own, in which nobody listens.
    let mut tested = Command::new("unshare");
    tested.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", "python3"]);
    tested.arg(root().join("tests/fuzz/api.py")).arg(gatewatch);
    match bound {
        Bound::Time(time) => {
            tested.args([format!("--max-time={}", time.as_secs()), "--max-examples=50".to_owned()])
        }
        Bound::Runs { runs, seed } => {
            tested.args([format!("--max-examples={runs}"), format!("--seed={seed}")])
        }
    };
    run(tested.env("PYTHONPATH", folder))
}

/// The names of the targets: each has a folder of inputs to begin with.
fn targets() -> Result<BTreeSet<String>> {
    let folders = fs::read_dir(root().join("tests/fuzz/corpus"))?;
    Ok(folders.filter_map(|folder| folder.ok()?.file_name().into_string().ok()).collect())
}

fn build(form: Form) -> Result<PathBuf> {
    // libFuzzer itself is built from its source.
    install(&[("c++", "g++")])?;
    let begun = Instant::now();
    let program = match form {
        Form::Whole => build_whole()?,
        Form::Short => build_short()?,
    };
    println!("the fuzzers are built ({:.0} s)", begun.elapsed().as_secs_f64());
    Ok(program)
}

fn build_short() -> Result<PathBuf> {
    let place = root().join("tests/fuzz");
    let folder = target().join("fuzz/short");
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&folder).current_dir(&place);
    build.env("RUSTC_WRAPPER", place.join("instrument.sh")).env("GATEWATCH_FUZZ_FLAGS", FLAGS.join(" "));
    run(build.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    Ok(folder.join("debug/parse"))
}

fn build_whole() -> Result<PathBuf> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let folder = target().join("fuzz");
    let mut build = cargo();
    // With a target named, build scripts and macros are built without the flags.
    build.args(["build", "--quiet", "--release", "--locked", "--target", host, "--target-dir"]).arg(&folder);
    build.current_dir(root().join("tests/fuzz")).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    run(&mut build)?;
    Ok(folder.join(host).join("release/parse"))
}

/// One target's run.
struct Campaign<'a> {
    name: &'a str,
    program: &'a PathBuf,
    folder: &'a PathBuf,
    bound: Bound,
}

impl Campaign<'_> {
    fn run(&self) -> Result<()> {
        let Self { name, program, folder, bound } = self;
        // A run that is to be nearly the same each time begins with the same inputs, and keeps none.
        let kept = match bound {
            Bound::Time(_) => target().join("fuzz/found").join(name),
            Bound::Runs { .. } => folder.join(name),
        };
        fs::create_dir_all(&kept)?;
        let artifacts = target().join("fuzz/artifacts").join(name);
        fs::create_dir_all(&artifacts)?;
        let log = target().join("fuzz").join(format!("{name}.log"));
        let mut fuzzer = match bound {
            Bound::Time(_) => Command::new(program),
            Bound::Runs { .. } => {
                // Addresses are compared too, and what was compared is tried as input.
                let mut fuzzer = Command::new("setarch");
                fuzzer.arg("--addr-no-randomize").arg(program);
                fuzzer
            }
        };
        fuzzer.env("GATEWATCH_FUZZ", name).env("TMPDIR", folder).env("NO_COLOR", "1");
        match bound {
            Bound::Time(time) => fuzzer.arg(format!("-max_total_time={}", time.as_secs().max(1))),
            Bound::Runs { runs, seed } => fuzzer.args([format!("-runs={runs}"), format!("-seed={seed}")]),
        };
        fuzzer.args([LONGEST_INPUT, "-timeout=30", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
        // What is new goes to the first folder.
        fuzzer.arg(&kept).arg(root().join("tests/fuzz/corpus").join(name));
        let status =
            fuzzer.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?).status()?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if !status.success() {
            let lines: Vec<&str> = text.lines().collect();
            let from = lines
                .iter()
                .position(|line| line.contains("panicked at"))
                .unwrap_or(lines.len().saturating_sub(12));
            let end = lines.len().min(from + 12);
            bail!("failed ({status})\n{}\nthe whole log: {}", lines[from..end].join("\n"), log.display());
        }
        println!("{name}: {}", figures(&text).unwrap_or("no figures".to_owned()));
        Ok(())
    }
}

/// The figures of libFuzzer's last lines.
fn figures(log: &str) -> Option<String> {
    let stat = |name: &str| {
        log.lines()
            .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.split_whitespace().last())
    };
    let last = log.lines().rfind(|line| line.contains(" cov: "))?;
    let covered = last.split(" cov: ").nth(1)?.split_whitespace().next()?;
    Some(format!(
        "{} executions ({} a second), {} new inputs, {covered} places reached, {} MiB at most",
        stat("number_of_executed_units:")?,
        stat("average_exec_per_sec:")?,
        stat("new_units_added:")?,
        stat("peak_rss_mb:")?,
    ))
}

/// Seconds or minutes: `20s`, `3m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write 20s or 3m");
    let (digits, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_mins(number)),
        _ => Err(wrong()),
    }
}
