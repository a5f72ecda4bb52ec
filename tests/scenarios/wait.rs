//! `wait`: until a port can be bound, or somebody listens on it.

use gatewatch_tests::{Backend, Gatewatch, Part, can_bind, unused_port};

use crate::Rule;

pub(crate) const RULES: &[Rule] = &[
    ("a_free_port_is_free_at_once", &[], a_free_port_is_free_at_once),
    ("free_comes_when_the_owner_lets_go", &[], free_comes_when_the_owner_lets_go),
    ("free_does_not_come_while_the_port_is_held", &[], free_does_not_come),
    ("listening_comes_when_somebody_listens", &[], listening_comes),
    ("listening_is_there_at_once", &[], listening_is_there_at_once),
    ("listening_does_not_come_for_a_bound_socket", &[], listening_does_not_come),
];

pub(crate) fn wait(backend: Backend, state: &str, port: u16) -> Gatewatch {
    Gatewatch::on(backend, &["wait", state], port)
}

fn a_free_port_is_free_at_once(backend: Backend) {
    let answer = wait(backend, "free", unused_port()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"));
    assert_eq!(answer.json()["backend"], backend.name());
    assert!(answer.json()["elapsed_us"].is_u64());
}

fn free_comes_when_the_owner_lets_go(backend: Backend) {
    let mut owner = Part::other().on_port(unused_port()).start();
    let mut waiting = wait(backend, "free", owner.port()).spawn();
    assert!(waiting.goes_on());
    owner.end();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"));
    assert!(owner.is_gone());
    assert!(can_bind(owner.address()));
}

fn free_does_not_come(backend: Backend) {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = wait(backend, "free", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"));
    assert!(owner.is_alive());
}

fn listening_comes(backend: Backend) {
    let port = unused_port();
    let waiting = wait(backend, "listening", port).spawn();
    let _owner = Part::other().on_port(port).start();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "listening"));
}

fn listening_is_there_at_once(backend: Backend) {
    let owner = Part::other().on_port(unused_port()).start();
    assert_eq!(wait(backend, "listening", owner.port()).run().outcome(), "listening");
}

fn listening_does_not_come(backend: Backend) {
    let owner = Part::other().on_port(unused_port()).with(&["--bound"]).start();
    let answer = wait(backend, "listening", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"));
}
