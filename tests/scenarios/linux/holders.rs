//! All holders of a socket count, however they came by it: by fork, by a message, as a thread.

use gatewatch_tests::{Backend, Gatewatch, Needs, Part, can_bind, unused_port};
use nix::sys::resource::{Resource, getrlimit};

use crate::clean::{assert_cleaned, clean};
use crate::{OnceRule, Rule, differ};

pub(crate) const RULES: &[Rule] = &[
    ("forked_workers_are_all_ended", &[], forked_workers_are_all_ended),
    ("a_group_that_reuses_the_port_is_ended_whole", &[], a_group_that_reuses_the_port_is_ended_whole),
    ("an_orphan_that_inherited_the_socket_is_ended", &[], an_orphan_that_inherited_the_socket_is_ended),
    ("a_process_that_was_passed_the_socket_is_ended", &[], a_process_that_was_passed_the_socket_is_ended),
    ("a_socket_on_its_way_to_nobody_is_never_free", &[], a_socket_on_its_way_to_nobody_is_never_free),
    ("a_thread_of_a_dead_leader_is_an_owner", &[], a_thread_of_a_dead_leader_is_an_owner),
    ("an_heir_of_another_name_keeps_the_port", &[], an_heir_of_another_name_keeps_the_port),
    ("a_listener_that_was_shut_down_still_holds_the_port", &[], shut_down_listener),
    ("a_multipath_gateway_is_ended", &[], multipath),
];

pub(crate) const EBPF_RULES: &[OnceRule] =
    &[("a_million_descriptors_hide_no_owner", &[Needs::Bpf], a_million_descriptors_hide_no_owner)];

fn forked_workers_are_all_ended(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "4"]).start();
    assert_eq!(gateway.pids.len(), 5);
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
}

fn a_group_that_reuses_the_port_is_ended_whole(backend: Backend) {
    let port = unused_port();
    let first = Part::gateway().on_port(port).with(&["--reuse-port"]).start();
    let second = Part::gateway().on_port(port).with(&["--reuse-port", "--on-term", "ignore"]).start();
    let answer = clean(backend, port, &["--term-timeout", "50ms"]);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(first.is_gone() && second.is_gone());
    assert!(can_bind(first.address()));
}

fn an_orphan_that_inherited_the_socket_is_ended(backend: Backend) {
    let orphan = Part::gateway().on_port(unused_port()).with(&["--orphan"]).start();
    assert_ne!(orphan.pid(), orphan.started_pid());
    assert_cleaned(&clean(backend, orphan.port(), &[]), &orphan);
}

fn a_process_that_was_passed_the_socket_is_ended(backend: Backend) {
    let receiver = Part::gateway().on_port(unused_port()).with(&["--pass"]).start();
    assert_ne!(receiver.pid(), receiver.started_pid());
    assert_cleaned(&clean(backend, receiver.port(), &[]), &receiver);
}

fn a_socket_on_its_way_to_nobody_is_never_free(backend: Backend) {
    let sender = Part::gateway().on_port(unused_port()).with(&["--in-flight"]).start();
    let answer = clean(backend, sender.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert!(sender.is_alive(), "it holds no descriptor of the socket");
    let owners = Gatewatch::on(backend, &["owners"], sender.port()).run().json();
    assert_eq!(owners["owners"][0]["pid"], serde_json::Value::Null);
    assert_eq!(owners["owners"][0]["identity"], "unclassified");
}

fn a_thread_of_a_dead_leader_is_an_owner(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--dead-leader"]).start();
    let owners = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    assert_eq!(owners.owner(gateway.pid())["identity"], "match", "{owners:?}");
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
}

fn an_heir_of_another_name_keeps_the_port(backend: Backend) {
    // given a gateway's child of another command line that alone holds the listener
    let gateway = Part::gateway().on_port(unused_port()).with(&["--heir", "some-tool"]).start();
    let heir = gateway.pids[1];
    let answer = clean(backend, gateway.port(), &[]);
    // then the answer is not "free", as it is not, and the child lives
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.owner(heir)["action"], "spared");
    assert!(gateway.is_alive());
    assert!(!can_bind(gateway.address()));
}

fn shut_down_listener(backend: Backend) {
    let other = Part::other().on_port(unused_port()).with(&["--shut-down"]).start();
    let answer = clean(backend, other.port(), &["--free-timeout", "100ms"]);
    assert_eq!(
        answer.outcome(),
        differ::of_a_socket_that_does_not_listen(backend, "held_by_other"),
        "{answer:?}"
    );
    assert!(other.is_alive());
}

fn multipath(backend: Backend) {
    if std::fs::read_to_string("/proc/sys/net/mptcp/enabled").map_or("0", |_| "1") == "0" {
        // The kernel has no multipath sockets, so nobody can hold a port by one.
        return;
    }
    let gateway = Part::gateway().on_port(unused_port()).with(&["--multipath"]).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
}

/// A read of the kernel's iterator that visits so many and has nothing to show fails.
fn a_million_descriptors_hide_no_owner() {
    const ALL: u64 = 1_050_000;
    // given a crowd with as many, and an owner that began after it, and so is visited after it
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let each = (most - 500).min(50_000);
    let (each, workers) = (each.to_string(), (ALL / each).to_string());
    let _crowd = Part::other().with(&["--descriptors", &each, "--workers", &workers]).start();
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], owner.port()).run();
    assert_eq!(answer.owner(owner.pid())["identity"], "other");
}
