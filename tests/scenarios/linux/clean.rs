//! `clean` of an owner that no signal ends.

use gatewatch_tests::{Frozen, Gatewatch, Part, unused_port};

use crate::clean::clean;

scenario!(a_survivor_of_both_signals_is_reported, needs(Root), |backend| {
    // A process in a frozen group of version 1 gets no signal before it is thawed.
    let gateway = Part::gateway().on_port(unused_port()).start();
    let _frozen = Frozen::new(gateway.pid());
    let owners = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    assert_eq!(owners.owner(gateway.pid())["stopped"], true, "{owners:?}");
    let answer = clean(backend, gateway.port(), &["--term-timeout", "50ms", "--kill-timeout", "50ms"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["action"], "survived");
    // a person is told who it is, and why no signal ends it
    let text = Gatewatch::in_text(backend, &["clean"], gateway.port())
        .with(&["--term-timeout", "50ms", "--kill-timeout", "50ms"])
        .run();
    let who = format!("(pid {}), whose control group is frozen", gateway.pid());
    assert!(text.out.lines().next().unwrap().contains(&who), "{text:?}");
    assert!(gateway.is_alive());
});

scenario!(an_address_that_this_host_has_not_got_is_refused, || {
    for command in [&["clean"][..], &["wait", "free"]] {
        let answer = Gatewatch::new(command).with(&[&format!("192.0.2.77:{}", unused_port())]).run();
        assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
        assert!(answer.err.contains("does not have the address 192.0.2.77"), "{answer:?}");
    }
});
