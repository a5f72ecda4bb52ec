//! `clean` of an owner that no signal ends.

use gatewatch_tests::{Backend, Gatewatch, Needs, Part, unused_port};

use crate::Rule;

pub(crate) const RULES: &[Rule] =
    &[("a_survivor_of_both_signals_is_reported", &[Needs::Root], a_survivor_of_both_signals_is_reported)];

fn a_survivor_of_both_signals_is_reported(backend: Backend) {
    // A pid namespace's first process can't be killed from within: the kernel drops the signal (pid_namespaces(7)).
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start_as_init();
    let limits = ["--include-init", "--term-timeout", "50ms", "--kill-timeout", "50ms"];
    let answer = Gatewatch::on(backend, &["clean"], gateway.port()).with(&limits).inside(gateway.pid()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.owner(1)["action"], "survived");
    assert!(gateway.is_alive());
}
