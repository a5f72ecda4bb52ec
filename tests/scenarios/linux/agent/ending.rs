//! How the host agent ends owners that do not simply end.

use gatewatch_tests::{Agent, Part, can_bind, unused_port};

use crate::clean::assert_lives_on;
use crate::linux::plan::{FORCED_AT_ONCE, SHORT, assert_forced_at_the_second, assert_given_up};

scenario!(for_a_client_an_owner_that_forks_another_when_asked_is_forced_at_the_second, needs(Bpf), || {
    let hydra = Part::gateway().on_port(unused_port()).with(&["--on-term", "fork"]).start();
    let agent = Agent::watching(&[(hydra.port(), "")]);
    let answer = agent.ask(&["clean"], hydra.port()).with(FORCED_AT_ONCE).run();
    assert_forced_at_the_second(&answer, &hydra);
});

scenario!(for_a_client_owners_that_are_replaced_without_end_are_not_fought_without_end, needs(Bpf), || {
    let nest = Part::gateway().on_port(unused_port()).with(&["--nest"]).start();
    let agent = Agent::watching(&[(nest.port(), "")]);
    let answer = agent.ask(&["clean"], nest.port()).with(SHORT).run();
    assert_given_up(&answer, &nest);
    // then the agent is free for others
    assert_eq!(agent.get("/healthz").status, 200);
    assert_eq!(agent.ask(&["clean", "--dry-run"], nest.port()).run().outcome(), "would_clean");
});

scenario!(for_a_client_a_gateway_that_lets_go_and_lives_is_not_killed, needs(Bpf), || {
    let mut gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "close"]).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.ask(&["clean", "--term-timeout", "2s"], gateway.port()).run();
    assert_lives_on(&answer, &mut gateway);
    assert!(can_bind(gateway.address()));
});
