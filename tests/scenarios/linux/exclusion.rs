//! Who is never ended: PID 1.

use gatewatch_tests::{Gatewatch, Part, unused_port};

use crate::exclusion::assert_spared_as;

scenario!(pid_1_is_never_ended_by_its_sidecar, needs(Root), |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["clean"], gateway.port())
        .with(&["--identity", "any"])
        .inside(gateway.pid())
        .run();
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert_eq!(answer.owner(1)["relation"], "init");
    assert!(gateway.is_alive());
});

scenario!(pid_1_is_not_ended_from_within_its_namespace_even_where_it_is_included, needs(Root), |backend| {
    // It handles SIGTERM, so the kernel would not drop it; and the namespace would end with it, and gatewatch in it
    // (pid_namespaces(7)).
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["clean"], gateway.port())
        .with(&["--include-init"])
        .inside(gateway.pid())
        .run();
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    let owner = answer.owner(1);
    assert_eq!(owner["relation"], "init");
    assert!(owner["why"].as_str().unwrap().contains("would end gatewatch too"), "{answer:?}");
    assert!(gateway.is_alive());
});

scenario!(pid_1_of_a_namespace_is_ended_from_outside, needs(Root), |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["clean"], gateway.port()).run();
    crate::clean::assert_cleaned(&answer, &gateway);
});

scenario!(pid_1_is_not_ended_by_its_child_even_where_it_is_included, needs(Root), |backend| {
    let port = unused_port();
    let clean = Gatewatch::on(backend, &["clean"], port).with(&["--include-init"]).words();
    let mut gateway = Part::gateway().on_port(port).running(&clean).start_as_init();
    let lines = [gateway.line(), gateway.line()];
    assert_spared_as(&lines, 1, "ancestor");
    assert!(gateway.is_alive());
});
