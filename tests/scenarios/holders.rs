//! All holders of a socket count, however they came by it.

use gatewatch_tests::{Backend, Gatewatch, Needs, Part, can_bind, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::{Rule, differ};

pub(crate) const RULES: &[Rule] = &[
    ("forked_workers_are_all_ended", &[], forked_workers_are_all_ended),
    ("a_group_that_reuses_the_port_is_ended_whole", &[], a_group_that_reuses_the_port_is_ended_whole),
    ("an_orphan_that_inherited_the_socket_is_ended", &[], an_orphan_that_inherited_the_socket_is_ended),
    ("a_process_that_was_passed_the_socket_is_ended", &[], a_process_that_was_passed_the_socket_is_ended),
    ("a_socket_on_its_way_to_nobody_is_never_free", &[], a_socket_on_its_way_to_nobody_is_never_free),
    ("a_thread_of_a_dead_leader_is_an_owner", &[], a_thread_of_a_dead_leader_is_an_owner),
    ("an_heir_of_another_name_keeps_the_port", &[], an_heir_of_another_name_keeps_the_port),
    ("a_gateway_that_is_bound_and_does_not_listen_holds_the_port", &[], bound_gateway),
    ("another_that_is_bound_and_does_not_listen_holds_the_port", &[], bound_other),
    ("another_that_is_bound_without_reuse_holds_the_port", &[], bound_other_without_reuse),
    ("a_listener_that_was_shut_down_still_holds_the_port", &[], shut_down_listener),
    ("a_multipath_gateway_is_ended", &[], multipath),
    ("a_client_from_this_port_is_never_ended", &[], a_client_from_this_port_is_never_ended),
    ("a_gateway_with_clients_is_ended_and_they_are_not", &[Needs::Root], a_gateway_with_clients),
];

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

fn bound_gateway(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--bound"]).start();
    let answer = clean(backend, gateway.port(), &["--free-timeout", "100ms"]);
    match backend {
        Backend::Ebpf => assert_cleaned(&answer, &gateway),
        Backend::Poll => {
            assert_eq!(answer.outcome(), differ::of_a_socket_that_does_not_listen(backend, "cleaned"));
            assert!(gateway.is_alive());
        }
    }
}

fn bound_other(backend: Backend) {
    let other = Part::other().on_port(unused_port()).with(&["--bound"]).start();
    let answer = clean(backend, other.port(), &["--free-timeout", "100ms"]);
    assert_eq!(
        answer.outcome(),
        differ::of_a_socket_that_does_not_listen(backend, "held_by_other"),
        "{answer:?}"
    );
    assert_ne!(answer.status, 0);
    assert!(other.is_alive());
    if backend == Backend::Ebpf {
        assert_eq!(answer.owner(other.pid())["sockets"][0]["state"], "bound");
    }
}

fn bound_other_without_reuse(backend: Backend) {
    let other = Part::other().on_port(unused_port()).with(&["--bound", "--no-reuse"]).start();
    let answer = clean(backend, other.port(), &["--free-timeout", "100ms"]);
    assert_eq!(
        answer.outcome(),
        differ::of_a_socket_that_does_not_listen(backend, "held_by_other"),
        "{answer:?}"
    );
    assert!(other.is_alive());
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

fn a_client_from_this_port_is_never_ended(backend: Backend) {
    // given a server elsewhere, and a client whose local port is the one to be cleaned
    let server = Part::other().on_port(unused_port()).start();
    let client =
        Part::gateway().on_port(unused_port()).with(&["--connect", &server.address().to_string()]).start();
    let no_reuse = Part::gateway()
        .on_port(unused_port())
        .with(&["--no-reuse", "--connect", &server.address().to_string()])
        .start();
    // when its port is cleaned of anybody
    for client in [&client, &no_reuse] {
        let answer = clean(backend, client.port(), &["--identity", "any", "--free-timeout", "100ms"]);
        // then it lives
        assert!(client.is_alive(), "{answer:?}");
        assert!(answer.killed().is_empty());
        // and the answer is right about the port
        assert_eq!(answer.status == 0, can_bind(client.address()), "{answer:?}");
    }
    let answer = clean(backend, no_reuse.port(), &["--identity", "any", "--free-timeout", "100ms"]);
    assert_eq!(
        answer.outcome(),
        differ::of_a_socket_that_does_not_listen(backend, "held_by_other"),
        "{answer:?}"
    );
}

fn a_gateway_with_clients(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let client = Part::other()
        .on(([127, 0, 0, 1], 0).into())
        .with(&["--connect", &gateway.address().to_string()])
        .start();
    let answer = clean(backend, gateway.port(), &["--identity", "any"]);
    assert_cleaned(&answer, &gateway);
    assert!(client.is_alive());
}
