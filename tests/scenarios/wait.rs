//! `wait`: until a port can be bound, or a process listens on it.

use gatewatch_tests::{Backend, Gatewatch, Part, can_bind, unused_port};

pub(crate) fn wait(backend: Backend, state: &str, port: u16) -> Gatewatch {
    Gatewatch::on(backend, &["wait", state], port)
}

scenario!(a_free_port_is_free_at_once, |backend| {
    let answer = wait(backend, "free", unused_port()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"));
    assert_eq!(answer.json()["backend"], backend.name());
    assert!(answer.json()["elapsed_us"].is_u64());
});

scenario!(free_comes_when_the_owner_lets_go, |backend| {
    let mut owner = Part::other().on_port(unused_port()).start();
    let mut waiting = wait(backend, "free", owner.port()).spawn();
    assert!(waiting.is_running());
    owner.end();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"));
    assert!(can_bind(owner.address()));
    // A process closes its sockets before it has ended.
    gatewatch_tests::until("the owner has ended", || owner.is_gone());
});

scenario!(free_does_not_come_while_the_port_is_held, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = wait(backend, "free", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"));
    assert!(owner.is_alive());
});

scenario!(listening_comes_when_somebody_listens, |backend| {
    let port = unused_port();
    let waiting = wait(backend, "listening", port).spawn();
    let _owner = Part::other().on_port(port).start();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "listening"));
});

scenario!(listening_is_there_at_once, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    assert_eq!(wait(backend, "listening", owner.port()).run().outcome(), "listening");
});

scenario!(listening_does_not_come_for_a_bound_socket, |backend| {
    let owner = Part::other().on_port(unused_port()).with(&["--bound"]).start();
    let answer = wait(backend, "listening", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"));
});

scenario!(a_flag_of_the_other_wait_is_refused, || {
    for (words, flag) in [
        (&["free", "--pid", "1"][..], "--pid"),
        (&["free", "--settle", "1s"], "--settle"),
        (&["listening", "--plain"], "--plain"),
    ] {
        let port = unused_port().to_string();
        let answer = Gatewatch::new(&["wait"]).with(words).with(&["--timeout", "1ms", "-p", &port]).run();
        assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
        assert!(answer.err.contains(flag) && answer.err.lines().count() == 1, "{answer:?}");
    }
});

scenario!(a_wait_tells_of_the_owner_what_owners_tells, |backend| {
    let [port, second] = [(); 2].map(|()| unused_port());
    let owner = Part::other().on_port(port).on_port(second).start();
    let others = Gatewatch::on(backend, &["owners"], port).run().owner(owner.pid())["other_ports"].clone();
    for (state, status) in [("free", 7), ("listening", 0)] {
        let answer = wait(backend, state, port).with(&["--timeout", "100ms"]).run();
        assert_eq!((answer.status, &answer.json()["owner"]["other_ports"]), (status, &others), "{answer:?}");
    }
});
