//! The program `gatewatch`; the library has all its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatewatch::run()
}
