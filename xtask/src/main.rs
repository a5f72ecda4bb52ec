//! The project's own tasks. `cargo xtask --help` lists them.

mod bench;
mod cross;
mod debian;
mod ebpf;
mod run;
mod test;
mod toolchain;
mod vm;
mod wine;

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
    /// Install what the tests need, and run them all
    Test,
    /// Try the packaged units under a real systemd, on one of Debian's kernels, in a virtual machine
    VmTest {
        /// Its version: 6.1, 6.12
        #[arg(long, default_value = "6.1")]
        kernel: String,
        /// Run every scenario of the tests there as well
        #[arg(long)]
        suite: bool,
    },
    /// Check macOS, build Windows, and run what was built under Wine
    CrossCheck,
    /// Measure, each figure beside what it is to be compared with
    Bench {
        /// Only these figures
        parts: Vec<bench::Part>,
    },
    /// The load of a benchmark
    #[command(hide = true)]
    HoldSockets { count: usize },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::SetupEbpf => ebpf::set_up(),
        Task::BuildEbpf => ebpf::build(),
        Task::CheckEbpf => ebpf::check(),
        Task::Test => test::run_all(),
        Task::VmTest { kernel, suite } => vm::test(&kernel, suite),
        Task::CrossCheck => cross::check(),
        Task::Bench { parts } => bench::run_parts(&parts),
        Task::HoldSockets { count } => bench::hold_sockets(count),
    }
}
