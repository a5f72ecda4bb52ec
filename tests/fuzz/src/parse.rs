//! One program for all targets, so that it is built and linked once: `GATEWATCH_FUZZ` names the one that is run.
#![no_main]

use std::sync::LazyLock;

use gatewatch::fuzzing::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("GATEWATCH_FUZZ").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("GATEWATCH_FUZZ={name} is not a target"))
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
