//! `watch` of a socket that several processes hold.

use gatewatch_tests::{Backend, Part, send, unused_port};
use nix::sys::signal::Signal;

use crate::watch::watch;

scenario!(a_forked_worker_keeps_the_port_from_being_released, |backend| {
    let owner = Part::other().on_port(unused_port()).with(&["--workers", "1"]).start();
    let mut watch = watch(backend, owner.port());
    let mut held: Vec<u64> = watch.held.iter().filter_map(|line| line["pid"].as_u64()).collect();
    held.sort_unstable();
    let mut pids: Vec<u64> = owner.pids.iter().map(|&pid| pid.into()).collect();
    pids.sort_unstable();
    assert_eq!(held, pids);
    // when the one that listened ends, nothing is released
    owner.ask_to_end();
    gatewatch_tests::until("the first holder has ended", || !owner.alive()[0]);
    assert!(owner.alive()[1]);
    // and when the worker does, it is
    send(owner.pids[1], Signal::SIGKILL);
    let release = watch.expect("release");
    watch.expect("free");
    if backend == Backend::Ebpf {
        assert_eq!(release["pid"], owner.pids[1], "the last holder releases");
    }
});
