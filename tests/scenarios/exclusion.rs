//! Who is never ended, whatever the flags say.

use gatewatch_tests::{Actor, Answer, Backend, Gatewatch, Part, program, unused_port};

use crate::clean::{assert_cleaned, clean};

/// The answer of gatewatch run as a descendant of the owner.
fn cleaned_from_below(backend: Backend, hops: &str, arguments: &[&str]) -> (Actor, Vec<String>) {
    let port = unused_port();
    let clean = Gatewatch::on(backend, &["clean"], port).with(arguments).words();
    let mut gateway = Part::gateway().on_port(port).with(&["--hops", hops]).running(&clean).start();
    let (answer, status) = (gateway.line(), gateway.line());
    (gateway, vec![answer, status])
}

pub(crate) fn assert_spared_as(lines: &[String], pid: u32, relation: &str) {
    let answer = Answer { status: 4, out: lines[0].clone(), err: String::new() };
    assert_eq!(answer.outcome(), "held_by_protected");
    assert_eq!(answer.owner(pid)["relation"], relation);
    assert_eq!(answer.owner(pid)["action"], "spared");
    assert_eq!(lines[1], "status 4");
}

scenario!(the_callers_parent_is_never_ended, |backend| {
    let (gateway, lines) = cleaned_from_below(backend, "0", &["--identity", "any"]);
    assert_spared_as(&lines, gateway.pid(), "ancestor");
    assert!(gateway.is_alive());
});

scenario!(an_ancestor_forty_hops_away_is_never_ended, |backend| {
    let (gateway, lines) = cleaned_from_below(backend, "40", &[]);
    assert_spared_as(&lines, gateway.pid(), "ancestor");
    assert!(gateway.is_alive());
});

scenario!(an_ancestor_is_never_ended_though_another_is, |backend| {
    // given two gateways on one port, one of which is the caller's parent
    let port = unused_port();
    let stale = Part::gateway().on(([127, 0, 0, 2], port).into()).start();
    let clean = Gatewatch::on(backend, &["clean"], port).words();
    let mut parent = Part::gateway().on_port(port).running(&clean).start();
    let lines = [parent.line(), parent.line()];
    assert_spared_as(&lines, parent.pid(), "ancestor");
    assert!(stale.is_gone());
    assert!(parent.is_alive());
});

scenario!(a_protected_process_is_never_ended, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer =
        clean(backend, gateway.port(), &["--identity", "any", "--protect", &gateway.pid().to_string()]);
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"));
    assert_eq!(answer.owner(gateway.pid())["relation"], "protected");
    assert!(gateway.is_alive());
});

scenario!(an_ancestor_of_a_protected_process_is_never_ended, |backend| {
    // given a gateway with a child
    let child = [program("actor").display().to_string()];
    let mut gateway =
        Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).running(&child).start();
    let line = gateway.line();
    let ready: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
    // when the child is protected
    let answer = clean(backend, gateway.port(), &["--protect", &ready["pids"][0].to_string()]);
    // then so is its parent
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["relation"], "protected");
    assert!(gateway.is_alive());
});

scenario!(the_gateway_that_names_itself_to_its_children_is_never_ended, |backend| {
    // given a caller that is no descendant of the gateway any more
    let gateway = Part::gateway().on_port(unused_port()).start();
    let clean = |arguments: &[&str]| {
        Gatewatch::on(backend, &["clean"], gateway.port())
            .with(arguments)
            .env("OPENCLAW_GATEWAY_SERVICE_PID", &gateway.pid().to_string())
            .run()
    };
    let answer = clean(&[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["relation"], "protected");
    assert!(gateway.is_alive());
    // then other rules have nothing to do with it
    assert_cleaned(&clean(&["--any"]), &gateway);
    // and nobody is told of a flag that was not given
    let answer = clean(&[]);
    assert!(answer.status == 0 && !answer.err.contains("--protect"), "{answer:?}");
});
