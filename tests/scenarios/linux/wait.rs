//! `wait` for a port whose socket a child holds.

use gatewatch_tests::{Backend, Part, unused_port};

use crate::Rule;
use crate::wait::wait;

pub(crate) const RULES: &[Rule] =
    &[("free_does_not_come_while_a_child_holds_the_socket", &[], free_with_heir)];

fn free_with_heir(backend: Backend) {
    let owner = Part::other().on_port(unused_port()).with(&["--heir", "some-tool"]).start();
    let answer = wait(backend, "free", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!(answer.status, 7);
}
