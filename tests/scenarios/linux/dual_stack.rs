//! A listener on `[::]` has the port for both families: the proof is of both, whoever else has one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gatewatch_tests::{Part, unused_port};
use socket2::{Domain, Socket, Type};

use crate::clean::{assert_ended, clean};

/// A gateway that serves both families by one socket, whatever else may have the port.
fn dual_stack(port: u16) -> Part {
    Part::gateway().on((Ipv6Addr::UNSPECIFIED, port).into()).with(&["--reuse-port"])
}

scenario!(a_cleaned_dual_stack_port_can_be_bound_by_both_families, |backend| {
    let port = unused_port();
    let gateway = Part::gateway().on((Ipv6Addr::UNSPECIFIED, port).into()).start();
    let answer = clean(backend, port, &[]);
    assert_ended(&answer, &gateway);
    assert_eq!(answer.json()["released"]["plain_bind"], true, "{answer:?}");
    // then two servers can listen there at once, each for one family, and without any option that lets them share it
    let listen = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        let bound = socket.bind(&address.into());
        assert!(bound.is_ok(), "{address}: {bound:?}: {answer:?}");
        socket.listen(1).unwrap();
        socket
    };
    let _both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        .map(|ip| listen((ip, port).into()));
});

scenario!(a_dual_stack_port_of_which_somebody_else_has_a_part_is_not_called_cleaned, |backend| {
    // given a gateway on [::], and another process that has one family of the port, or both, or one address of it: by a socket that
    // does not listen, or by one that shares the port
    for (ip, options) in [
        ("0.0.0.0", &["--bound"][..]),
        ("::", &["--bound", "--v6-only"]),
        ("::", &["--bound"]),
        ("0.0.0.0", &["--reuse-port"]),
        ("127.0.0.1", &["--reuse-port"]),
        ("::", &["--reuse-port", "--v6-only"]),
        ("::", &["--reuse-port"]),
    ] {
        let port = unused_port();
        let other = Part::other().on((ip.parse::<IpAddr>().unwrap(), port).into()).with(options).start();
        let gateway = dual_stack(port).start();
        let answer = clean(backend, port, &["--free-timeout", "100ms"]);
        // then what can't be bound by a plain server is not called so, nor is the port called cleaned
        assert!(answer.status != 0 && answer.outcome() != "cleaned", "{ip} {options:?}: {answer:?}");
        assert_ne!(answer.json()["released"]["plain_bind"], true, "{ip} {options:?}: {answer:?}");
        // and nobody but the gateway is ended
        assert!(other.is_alive(), "{ip} {options:?}: {answer:?}");
        drop(gateway);
    }
});
