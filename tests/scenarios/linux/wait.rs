//! `wait` for a port whose socket a child holds.

use gatewatch_tests::{Part, unused_port};

use crate::wait::wait;

scenario!(free_does_not_come_while_a_child_holds_the_socket, |backend| {
    let owner = Part::other().on_port(unused_port()).with(&["--heir", "some-tool"]).start();
    let answer = wait(backend, "free", owner.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!(answer.status, 7);
});
