//! Rules of Windows: consoles and windows, rights to a process, sockets that a child inherited.

use gatewatch_tests::{Actor, Backend, FORCED, Gatewatch, Life, Part, can_bind, program, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::{OnceRule, Rule, elsewhere};

pub(crate) const RULES: &[(&str, &[Rule])] = &[
    ("elsewhere", elsewhere::RULES),
    (
        "windows",
        &[
            ("a_window_is_asked_to_close", &[], window),
            ("who_shares_the_owners_console_is_left_alone", &[], shared_console),
            ("an_owner_that_can_not_be_asked_is_forced_without_a_wait", &[], no_console),
            ("an_owner_that_may_not_be_ended_is_not_permitted", &[], not_permitted),
            ("an_owner_whose_command_line_is_hidden_is_unknown", &[], hidden_command_line),
            ("a_socket_that_a_child_inherited_is_never_free", &[], inherited),
        ],
    ),
];

pub(crate) const ONCE_RULES: &[(&str, &[OnceRule])] =
    &[("elsewhere", elsewhere::ONCE_RULES), ("windows", &[("the_agent_is_not_for_windows", &[], agent)])];

/// Longer than the tests' patience: who waits for it fails.
const FOR_EVER: [&str; 2] = ["--term-timeout", "10m"];

fn window(backend: Backend) {
    let gateway = Part::gateway().without_console().on_port(unused_port()).with(&["--window"]).start();
    let answer = clean(backend, gateway.port(), &FOR_EVER);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], "close");
}

fn shared_console(backend: Backend) {
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
}

fn child_of(gateway: &mut Actor) -> Life {
    let line = gateway.line();
    let ready: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
    Life::of(ready["pids"][0].as_u64().unwrap().try_into().unwrap())
}

fn no_console(backend: Backend) {
    let gateway = Part::gateway().without_console().on_port(unused_port()).start();
    let answer = clean(backend, gateway.port(), &FOR_EVER);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], FORCED);
}

fn not_permitted(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--deny", "terminate"]).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (6, "not_permitted"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["action"], "not_permitted");
    assert!(gateway.is_alive());
}

fn hidden_command_line(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--deny", "read"]).start();
    for arguments in [&[][..], &["--identity", "any"]] {
        let answer = clean(backend, gateway.port(), arguments);
        assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
        assert_eq!(answer.owner(gateway.pid())["identity"], "unclassified");
        assert!(gateway.is_alive());
    }
}

fn inherited(backend: Backend) {
    // given a gateway whose child has inherited the listener
    let gateway = Part::gateway().on_port(unused_port()).with(&["--heir"]).start();
    let answer = clean(backend, gateway.port(), &["--free-timeout", "300ms"]);
    // then the gateway is ended, and the port is said to be held, which the system no longer says by whom
    assert_eq!(answer.killed(), [u64::from(gateway.pid())], "{answer:?}");
    assert!(matches!(answer.outcome().as_str(), "unknown" | "timed_out"), "{answer:?}");
    assert_eq!(gateway.alive(), [false, true]);
    assert!(!can_bind(gateway.address()));
}

fn agent() {
    let answer = Gatewatch::plain(&["agent"]);
    assert_eq!((answer.status, answer.out.as_str()), (1, ""), "{answer:?}");
    assert!(answer.err.contains("Linux and macOS"), "{answer:?}");
}
