//! What holds a port without listening on it, and what does not hold it.

use gatewatch_tests::{Backend, Part, can_bind, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::{Rule, differ};

pub(crate) const RULES: &[Rule] = &[
    ("a_gateway_that_is_bound_and_does_not_listen_holds_the_port", &[], bound_gateway),
    ("another_that_is_bound_and_does_not_listen_holds_the_port", &[], bound_other),
    ("another_that_is_bound_without_reuse_holds_the_port", &[], bound_other_without_reuse),
    ("a_client_from_this_port_is_never_ended", &[], a_client_from_this_port_is_never_ended),
    ("a_gateway_with_clients_is_ended_and_they_are_not", &[], a_gateway_with_clients),
];

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
