//! The look at all holders, however many descriptors there are.

use gatewatch_tests::{Backend, Gatewatch, Part, unused_port};
use nix::sys::resource::{Resource, getrlimit};

// A read of the kernel's iterator that visits so many and has nothing to show fails.
scenario!(a_million_descriptors_hide_no_owner, needs(Bpf), || {
    const ALL: u64 = 1_050_000;
    // given a crowd with as many, and an owner that began after it, and so is visited after it
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let each = (most - 500).min(50_000);
    let (each, workers) = (each.to_string(), (ALL / each).to_string());
    let _crowd = Part::other().with(&["--descriptors", &each, "--workers", &workers]).start();
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], owner.port()).run();
    assert_eq!(answer.owner(owner.pid())["identity"], "other");
});
