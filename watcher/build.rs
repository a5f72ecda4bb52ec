//! Chooses the kernel program's object for the binary: the one that is checked in, or the file that
//! `GATEWATCH_EBPF_OBJECT` names, so that a freshly built object can be tried.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=GATEWATCH_EBPF_OBJECT");
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("ebpf/gatewatch.bpf.o");
    let object = std::env::var_os("GATEWATCH_EBPF_OBJECT").map_or_else(own, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=GATEWATCH_EBPF_OBJECT={}", object.display());
}
