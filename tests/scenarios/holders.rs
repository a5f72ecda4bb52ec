//! What holds a port without listening on it, and what does not hold it.

use gatewatch_tests::{Actor, Answer, Backend, Gatewatch, Part, can_bind, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::differ;

/// A clean neither ends another process that does not listen on its socket, nor calls the port free.
pub(crate) fn assert_keeps_the_port(backend: Backend, other: &Actor) -> Answer {
    let answer = clean(backend, other.port(), &["--free-timeout", "100ms"]);
    let outcome = differ::of_a_socket_that_does_not_listen(backend, "held_by_other");
    assert_eq!(answer.outcome(), outcome, "{answer:?}");
    assert_ne!(answer.status, 0);
    assert!(other.is_alive());
    answer
}

scenario!(a_gateway_that_is_bound_and_does_not_listen_holds_the_port, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--bound"]).start();
    let answer = clean(backend, gateway.port(), &["--free-timeout", "100ms"]);
    assert_eq!(answer.outcome(), differ::of_a_socket_that_does_not_listen(backend, "cleaned"), "{answer:?}");
    if answer.outcome() == "cleaned" {
        assert_cleaned(&answer, &gateway);
    } else {
        assert!(gateway.is_alive());
    }
});

scenario!(another_that_is_bound_and_does_not_listen_holds_the_port, |backend| {
    let other = Part::other().on_port(unused_port()).with(&["--bound"]).start();
    let answer = assert_keeps_the_port(backend, &other);
    if backend == Backend::Ebpf {
        assert_eq!(answer.owner(other.pid())["sockets"][0]["state"], "bound");
    }
});

scenario!(another_that_is_bound_without_reuse_holds_the_port, |backend| {
    let other = Part::other().on_port(unused_port()).with(&["--bound", "--no-reuse"]).start();
    assert_keeps_the_port(backend, &other);
});

scenario!(a_client_from_this_port_is_never_ended, |backend| {
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
    assert!(differ::may_be_of_a_blocking_client(backend, &answer.outcome()), "{answer:?}");
});

scenario!(a_gateway_with_clients_is_ended_and_they_are_not, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let client = Part::other()
        .on(([127, 0, 0, 1], 0).into())
        .with(&["--connect", &gateway.address().to_string()])
        .start();
    let answer = clean(backend, gateway.port(), &["--identity", "any"]);
    assert_cleaned(&answer, &gateway);
    assert!(client.is_alive());
});

scenario!(the_other_ports_of_an_owner_are_named, |backend| {
    // given an owner of three ports, and somebody else's port
    let [port, second, first, foreign] = [(); 4].map(|()| unused_port());
    let _other = Part::other().on_port(foreign).start();
    let owner = Part::gateway().on_port(port).on_port(first).on_port(second).start();
    let mut others = [first, second];
    others.sort_unstable();
    let [low, high] = others;
    // then its other ports are told in order, also when it is ended
    let answer = Gatewatch::on(backend, &["owners"], port).run();
    assert_eq!(answer.owner(owner.pid())["other_ports"], serde_json::json!(others), "{answer:?}");
    let text = Gatewatch::in_text(backend, &["owners"], port).run().out;
    assert!(text.contains(&format!("also listens on {low}, {high}")), "{text}");
    let answer = clean(backend, port, &[]);
    assert_cleaned(&answer, &owner);
    assert_eq!(answer.owner(owner.pid())["other_ports"], serde_json::json!(others), "{answer:?}");
});

scenario!(of_many_other_ports_the_lowest_sixteen_are_named, |backend| {
    let ports = [(); 19].map(|()| unused_port());
    let owner = ports.iter().fold(Part::other(), |part, &port| part.on_port(port)).start();
    let answer = Gatewatch::on(backend, &["owners"], ports[0]).run();
    let mut others = ports[1..].to_vec();
    others.sort_unstable();
    assert_eq!(answer.owner(owner.pid())["other_ports"], serde_json::json!(others[..16]), "{answer:?}");
});

scenario!(an_owner_of_one_port_has_no_others, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::on(backend, &["owners"], owner.port()).run();
    assert_eq!(answer.owner(owner.pid())["other_ports"], serde_json::json!([]), "{answer:?}");
});
