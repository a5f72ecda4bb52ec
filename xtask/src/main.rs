//! The project's own tasks. `cargo xtask --help` lists them.

#[cfg(target_os = "linux")]
mod bench;
mod counts;
mod cross;
mod debian;
mod ebpf;
mod fuzz;
mod image;
mod instructions;
mod musl;
mod openclaw;
mod package;
#[cfg(target_os = "linux")]
mod pictures;
mod pypi;
mod run;
mod servers;
mod suites;
mod supply;
mod test;
mod toolchain;
#[cfg(target_os = "linux")]
mod torture;
mod verifier;
mod vm;
mod wine;

use std::time::Duration;

use clap::{Parser, Subcommand};

/// Tasks of the project itself.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch the compiler and linker for the kernel program into the target folder
    SetupEbpf,
    /// Build the kernel program's object that is checked in
    BuildEbpf,
    /// Rebuild the kernel program and compare it with the object that is checked in
    CheckEbpf,
    /// Count what the kernel's verifier has to do, and fail where it has grown by a tenth since it was recorded
    Verifier {
        /// Record the counts of this kernel in watcher/ebpf/verifier.txt
        #[arg(long)]
        record: bool,
    },
    /// Count the instructions that commands take, and fail where one takes a tenth more than was recorded
    Instructions {
        /// Record the counts in xtask/instructions.txt
        #[arg(long)]
        record: bool,
    },
    /// Install what the tests need, and run them all
    Test {
        /// Instead run every scenario with the static programs, as they are released
        #[arg(long = "static")]
        is_static: bool,
    },
    /// Try the packaged units under a real systemd, on one of Debian's kernels, in a virtual machine
    VmTest {
        /// The kernel's version in one of Debian's suites: 5.10, 6.1, 6.12 or later
        #[arg(long, default_value = "6.1")]
        kernel: String,
        /// The guest's processor; with arm64 say which scenarios are to run
        #[arg(long, value_enum, default_value = "x86-64")]
        arch: vm::Arch,
        /// Run every scenario of the tests there as well
        #[arg(long)]
        suite: bool,
        /// Instead run the scenarios whose name contains one of these, without any system
        #[arg(long, value_name = "FILTER", num_args = 1.., conflicts_with = "suite")]
        scenarios: Vec<String>,
        /// Record what the verifier of this kernel has to do in watcher/ebpf/verifier.txt, instead of comparing
        #[arg(long)]
        record: bool,
    },
    /// Fuzz what gatewatch parses, each target for some time
    Fuzz {
        /// How long each target runs: 20s, 3m
        #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = fuzz::duration)]
        time: Duration,
        /// Run each target so many times instead, from the corpus that is checked in: nearly the same each time
        #[arg(long, conflicts_with = "time")]
        runs: Option<u64>,
        /// The seed, with --runs
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// Run each target 2000 times, with the same seed each time, by fuzzers that are built in a short time: what CI does
        #[arg(long, conflicts_with_all = ["time", "runs", "seed", "api"])]
        short: bool,
        /// Fuzz the agent instead, by its own description: for that long in all
        #[arg(long, conflicts_with = "targets")]
        api: bool,
        /// Only these targets, which are the folders of tests/fuzz/corpus
        targets: Vec<String>,
    },
    /// Check macOS; build Windows, and run it under Wine; with `static`, build static programs for Linux, and run them
    CrossCheck {
        /// Only these [default: macos windows]
        parts: Vec<cross::Part>,
    },
    /// Make the README's pictures anew, from real runs
    #[cfg(target_os = "linux")]
    Pictures {
        /// Of the programs as the tests build them: made sooner, and their times are longer
        #[arg(long)]
        debug: bool,
    },
    /// Check the dependencies' licences, versions and sources
    CheckSupply,
    /// Make a Debian package, an rpm, a tarball, checksums and a list of components
    Package(package::Options),
    /// Build the container image, and write it as an archive
    Image(image::Options),
    /// Measure, and print each figure beside what to compare it with
    #[cfg(target_os = "linux")]
    Bench {
        /// Only these figures
        parts: Vec<bench::Part>,
        /// Instead measure everything beside other tools, and write docs/benchmarks.md with its plots
        #[arg(long, conflicts_with = "parts")]
        report: bool,
        /// The part that runs in namespaces of its own, with the programs of this folder
        #[arg(long, hide = true, requires = "report", value_name = "PROGRAMS")]
        inside: Option<std::path::PathBuf>,
    },
    /// Try gatewatch with random scenes and against time, and fail if it ends a wrong process or gives a wrong answer
    #[cfg(target_os = "linux")]
    Torture(torture::Options),
    /// Try gatewatch with real gateways of OpenClaw, installed from the npm registry
    TestOpenclaw(openclaw::Options),
    /// The load of a benchmark
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    HoldSockets { count: usize },
    /// A load of the report
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    HoldLoad {
        #[command(subcommand)]
        kind: bench::LoadKind,
    },
    /// A process that gives the pid of an owner to a bystander
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    SwapPids,
    /// A process that takes a port the moment that it is free
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    TakePort,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::SetupEbpf => ebpf::set_up(),
        Task::BuildEbpf => ebpf::build(),
        Task::CheckEbpf => ebpf::check(),
        Task::Verifier { record } => verifier::verifier(record),
        Task::Instructions { record } => instructions::instructions(record),
        Task::Test { is_static } => test::run_all(is_static),
        Task::VmTest { kernel, arch, suite, scenarios, record } => {
            let what =
                if scenarios.is_empty() { vm::What::System(suite) } else { vm::What::Scenarios(scenarios) };
            vm::test(&kernel, arch, &what, record)
        }
        Task::Fuzz { time, runs, seed, api: true, .. } => fuzz::fuzz_api(fuzz::Bound::new(time, runs, seed)),
        Task::Fuzz { short: true, targets, .. } => fuzz::fuzz(fuzz::SHORT, fuzz::Form::Short, &targets),
        Task::Fuzz { time, runs, seed, targets, .. } => {
            fuzz::fuzz(fuzz::Bound::new(time, runs, seed), fuzz::Form::Whole, &targets)
        }
        Task::CrossCheck { parts } => cross::check(&parts),
        #[cfg(target_os = "linux")]
        Task::Pictures { debug } => pictures::make(debug),
        Task::CheckSupply => supply::check(),
        Task::Package(options) => package::package(&options),
        Task::Image(options) => image::image(&options),
        #[cfg(target_os = "linux")]
        Task::Bench { report: true, inside, .. } => bench::make_report(inside),
        #[cfg(target_os = "linux")]
        Task::Bench { parts, .. } => bench::run_parts(&parts),
        Task::TestOpenclaw(options) => openclaw::test(&options),
        #[cfg(target_os = "linux")]
        Task::HoldSockets { count } => bench::hold_sockets(count),
        #[cfg(target_os = "linux")]
        Task::HoldLoad { kind } => bench::hold_load(&kind),
        #[cfg(target_os = "linux")]
        Task::Torture(options) => torture::run_parts(&options),
        #[cfg(target_os = "linux")]
        Task::SwapPids => torture::swap_pids(),
        #[cfg(target_os = "linux")]
        Task::TakePort => torture::take_port(),
    }
}
