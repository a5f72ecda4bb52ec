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

// What is found at one process is more than there is room for, which ends a read; the next one goes on behind it.
scenario!(a_process_with_thousands_of_listeners_is_shown_with_all, needs(Bpf), || {
    const LISTENERS: u16 = 3000;
    let port = unused_port();
    let addresses: Vec<String> =
        (1..=LISTENERS).map(|host| format!("127.1.{}.{}:{port}", host / 250, host % 250 + 1)).collect();
    let options: Vec<&str> = addresses.iter().flat_map(|address| ["--on", address]).collect();
    let owner = Part::other().on(([127, 0, 0, 1], port).into()).with(&options).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], port).run();
    let mut listeners = answer.owner(owner.pid())["listeners"].as_array().unwrap().clone();
    listeners.sort_unstable_by_key(ToString::to_string);
    listeners.dedup();
    assert_eq!(listeners.len(), usize::from(LISTENERS) + 1);
});

// As on kernels before Linux 5.17.
scenario!(without_loops_in_the_kernel_program_all_holders_are_found, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "2"]).start();
    let owners =
        Gatewatch::on(Backend::Ebpf, &["owners"], gateway.port()).env("GATEWATCH_WITHOUT", "loops").run();
    assert_eq!(owners.json()["owners"].as_array().unwrap().len(), 3, "{owners:?}");
    assert!(!owners.err.contains("iter/"), "{owners:?}");
});
