//! What is said of the port is so.

use std::io::Read;
use std::net::TcpStream;

use gatewatch_tests::{Actor, Backend, Part, unused_port};

use crate::Rule;
use crate::clean::{assert_cleaned, clean};

pub(crate) const RULES: &[Rule] = &[
    ("connections_in_time_wait_keep_only_plain_servers_out", &[], time_wait),
    ("a_port_that_was_never_held_can_be_bound_plainly", &[], never_held),
    ("a_listener_without_reuse_is_proved_too", &[], without_reuse),
    ("a_wildcard_listener_is_proved_on_the_wildcard", &[], wildcard),
];

/// A gateway that has closed a connection, which lingers on its side.
fn with_a_lingering_connection() -> Actor {
    let mut gateway = Part::gateway().on_port(unused_port()).with(&["--accept-and-close"]).start();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    assert_eq!(gateway.line(), "closed");
    gateway
}

fn time_wait(backend: Backend) {
    let gateway = with_a_lingering_connection();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["released"]["plain_bind"], false, "{answer:?}");
}

fn never_held(backend: Backend) {
    let answer = clean(backend, unused_port(), &[]);
    assert_eq!(answer.json()["released"]["plain_bind"], true);
    assert_eq!(answer.json()["released"]["proof"], "bind");
}

fn without_reuse(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--no-reuse"]).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
}

fn wildcard(backend: Backend) {
    let port = unused_port();
    let gateway = Part::gateway().on(([0, 0, 0, 0, 0, 0, 0, 0], port).into()).start();
    let answer = clean(backend, port, &[]);
    assert_cleaned(&answer, &gateway);
    assert!(gatewatch_tests::can_bind(([0, 0, 0, 0], port).into()));
}
