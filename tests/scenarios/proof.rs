//! What is said about the port is true.

use std::io::Read;
use std::net::{IpAddr, TcpStream};

use gatewatch_tests::{Actor, Backend, Part, can_bind, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::differ;

/// A gateway that has closed a connection, which lingers on its side.
fn with_a_lingering_connection() -> Actor {
    let mut gateway = Part::gateway().on_port(unused_port()).with(&["--accept-and-close"]).start();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    assert_eq!(gateway.line(), "closed");
    gateway
}

scenario!(connections_in_time_wait_keep_only_plain_servers_out, |backend| {
    let gateway = with_a_lingering_connection();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    let plain = differ::plain_bind_beside_a_lingering_connection();
    assert_eq!(answer.json()["released"]["plain_bind"], plain, "{answer:?}");
});

scenario!(a_port_that_was_never_held_can_be_bound_plainly, |backend| {
    let answer = clean(backend, unused_port(), &[]);
    assert_eq!(answer.json()["released"]["plain_bind"], true);
    assert_eq!(answer.json()["released"]["proof"], "bind");
});

scenario!(a_listener_without_reuse_is_proved_too, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--no-reuse"]).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(a_wildcard_listener_is_proved_on_the_wildcard, |backend| {
    proved_at(backend, [0, 0, 0, 0].into());
});

scenario!(a_dual_stack_listener_is_proved_on_both, needs(Ipv6Owners), |backend| {
    proved_at(backend, [0, 0, 0, 0, 0, 0, 0, 0].into());
});

fn proved_at(backend: Backend, ip: IpAddr) {
    let gateway = Part::gateway().on((ip, unused_port()).into()).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
    assert!(can_bind(([0, 0, 0, 0], gateway.port()).into()));
}
