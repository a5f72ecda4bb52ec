//! The program `gatewatch`: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatewatch::cli::run()
}
