//! Rules of Windows: consoles and windows, rights to a process, sockets that a child inherited.

use gatewatch_tests::{Actor, FORCED, Gatewatch, Life, Part, can_bind, program, unused_port};

use crate::clean::{assert_cleaned, clean};

/// Longer than the tests' patience: a scenario that waits for it fails.
const FOR_EVER: [&str; 2] = ["--term-timeout", "10m"];

scenario!(a_window_is_asked_to_close, |backend| {
    let gateway = Part::gateway().without_console().on_port(unused_port()).with(&["--window"]).start();
    let answer = clean(backend, gateway.port(), &FOR_EVER);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], "close");
});

scenario!(who_shares_the_owners_console_is_left_alone, |backend| {
    // given a gateway with a child in its console, which would end at a Ctrl-C there
    let child = [program("actor").display().to_string()];
    let mut gateway = Part::gateway().on_port(unused_port()).running(&child).start();
    let child = child_of(&mut gateway);
    // when the gateway is cleaned
    let answer = clean(backend, gateway.port(), &FOR_EVER);
    // then it alone is ended, by force
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], FORCED);
    assert!(!child.ends_within(std::time::Duration::from_secs(1)), "the child was reached");
});

fn child_of(gateway: &mut Actor) -> Life {
    let line = gateway.line();
    let ready: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
    Life::of(ready["pids"][0].as_u64().unwrap().try_into().unwrap())
}

scenario!(an_owner_that_can_not_be_asked_is_forced_without_a_wait, |backend| {
    let gateway = Part::gateway().without_console().on_port(unused_port()).start();
    let answer = clean(backend, gateway.port(), &FOR_EVER);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], FORCED);
});

scenario!(an_owner_that_may_not_be_ended_is_not_permitted, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--deny", "terminate"]).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (6, "not_permitted"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["action"], "not_permitted");
    assert!(gateway.is_alive());
});

scenario!(an_owner_whose_command_line_is_hidden_is_unknown, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--deny", "read"]).start();
    for arguments in [&[][..], &["--identity", "any"]] {
        let answer = clean(backend, gateway.port(), arguments);
        assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
        assert_eq!(answer.owner(gateway.pid())["identity"], "unclassified");
        assert!(gateway.is_alive());
    }
});

scenario!(a_socket_that_a_child_inherited_is_never_free, |backend| {
    // given a gateway whose child has inherited the listener
    let gateway = Part::gateway().on_port(unused_port()).with(&["--heir"]).start();
    let answer = clean(backend, gateway.port(), &["--free-timeout", "300ms"]);
    // then the gateway is ended, and the port is reported as held; the system no longer says by whom
    assert_eq!(answer.killed(), [u64::from(gateway.pid())], "{answer:?}");
    assert!(matches!(answer.outcome().as_str(), "unknown" | "timed_out"), "{answer:?}");
    assert_eq!(gateway.alive(), [false, true]);
    assert!(!can_bind(gateway.address()));
});

scenario!(the_agent_is_not_for_windows, || {
    let answer = Gatewatch::plain(&["agent"]);
    assert_eq!((answer.status, answer.out.as_str()), (1, ""), "{answer:?}");
    assert!(answer.err.contains("Linux and macOS"), "{answer:?}");
});
