//! What the host agent does when another program detaches its hooks, as `bpftool link detach` does.

use gatewatch_tests::{Agent, Events, Part, detach_cgroup_hooks, until, unused_port};
use nix::errno::Errno;

fn is_whole(agent: &Agent) -> bool {
    agent.get("/v1/status").json()["degraded"].as_array().is_some_and(Vec::is_empty)
}

/// The agent tells of an owner of the port who comes and goes, as it did before.
fn assert_tells(events: &mut Events, port: u16) {
    let owner = Part::other().on_port(port).start();
    for event in ["bind", "listen"] {
        assert_eq!(events.up_to(event).pop().unwrap()["pid"], owner.pid());
    }
    owner.ask_to_end();
    for event in ["release", "free"] {
        events.up_to(event);
    }
}

scenario!(a_hook_of_the_agents_that_another_program_detaches_is_attached_again, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    assert_tells(&mut events, port);
    let mut detached = 0;
    for _ in 0..2 {
        let before = detached;
        detached += detach_cgroup_hooks(agent.pid());
        assert!(detached > before);
        // then its readers are told that events may be missing
        events.up_to("lost");
        until("all are attached again", || {
            agent.log().matches("was detached by another program, and is attached again").count() == detached
        });
        // and from then on none is
        assert_tells(&mut events, port);
        assert!(is_whole(&agent));
    }
});

scenario!(a_hook_that_can_not_be_attached_again_is_told_with_the_reason, needs(Bpf), || {
    const GONE: &str = "was detached by another program, and can't be attached again";
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let mut known = agent.connect_as(0);
    assert_eq!(known.ask_and_stay("/healthz").status, 200);
    // given that no descriptor is left for another link
    agent.limit_descriptors(4);
    let detached = detach_cgroup_hooks(agent.pid());
    assert!(detached > 0);
    // then it says what it can't see any more, and why
    let mut degraded = || known.ask_and_stay("/v1/status").json()["degraded"].clone();
    let is_told = |said: &serde_json::Value| {
        let said = said.as_array().unwrap().iter().filter_map(|line| line.as_str());
        // Another C library has other words for it.
        let why = format!("os error {}", Errno::EMFILE as i32);
        said.filter(|line| line.contains(GONE) && line.contains(&why)).count() == detached
    };
    until("it says that its hooks are gone", || is_told(&degraded()));
    // and once it can, it attaches them, and tells all events
    agent.limit_descriptors(1024);
    until("it is whole again", || is_whole(&agent));
    assert_tells(&mut events, port);
});
