//! More sockets and holders than anybody can keep account of: any user can open hundreds of thousands, most easily in a
//! network namespace of his own.

use gatewatch_tests::{Agent, Backend, Gatewatch, Part, config, until, unused_port};

/// How much memory a process has had at most, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a crowd may cost, in KiB. To keep each of a hundred thousand descriptors, and make an event of each, would take twice
/// as much.
const COST: u64 = 24 << 10;

/// How much memory an agent has that watches such a port, without a crowd.
fn memory_alone() -> u64 {
    most_memory(Agent::watching(&[(unused_port(), "")]).pid())
}

/// Whether the agent says that it does not keep account of all.
fn leaves_out(agent: &Agent) -> bool {
    agent.get("/v1/status").json()["degraded"].to_string().contains("than are kept account of")
}

scenario!(a_crowd_of_listeners_elsewhere_does_not_end_the_agent, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let running = Agent::watching(&[(port, "")]);
    let alone = memory_alone();
    // given a user who has a hundred thousand descriptors of listeners on the port, in a network namespace of its own
    let crowd = Part::other().on(([0, 0, 0, 0], port).into()).with(&["--reuse-port", "--crowd", "6000"]);
    let crowd = crowd.with(&["--workers", "16"]).in_own_user_namespace().start();
    running.reconfigure(&config(&[(port, "")]));
    // and an agent that starts while they are there
    let late = Agent::watching(&[(port, "")]);
    for agent in [&running, &late] {
        until("it says that it leaves some out", || leaves_out(agent));
        // then it tells who has the port here
        let owners = agent.answer(&["owners"], port).json();
        assert_eq!(owners["owners"].as_array().map(Vec::len), Some(1), "{owners}");
        assert_eq!(owners["owners"][0]["pid"], gateway.pid(), "{owners}");
        // and of all namespaces, that these are not all
        let all = agent.get(&format!("/v1/ports/{port}")).json();
        assert_eq!(all["reason"], "too_many", "{}", all["reason"]);
        let memory = most_memory(agent.pid());
        assert!(memory < alone + COST, "{memory} KiB, {alone} without them");
    }
    // and has the owner ended
    crate::clean::assert_cleaned(&late.answer(&["clean"], port), &gateway);
    // and it is whole again once they are gone
    drop(crowd);
    late.reconfigure(&config(&[(port, "")]));
    until("it leaves nothing out", || !leaves_out(&late));
});

scenario!(a_users_crowd_on_another_address_keeps_nobody_from_a_clean, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    // given a user who has more listeners on the port than are kept account of, here, on an address that is not the gateway's
    let crowd = Part::other().on(([127, 0, 0, 9], port).into()).with(&["--reuse-port", "--crowd", "6000"]);
    let _crowd = crowd.with(&["--workers", "2"]).as_nobody().start();
    let agent = Agent::watching(&[(port, "")]);
    until("it says that it leaves some out", || leaves_out(&agent));
    crate::clean::assert_cleaned(&agent.answer(&["clean"], port), &gateway);
});

scenario!(an_answer_that_leaves_holders_out_says_so, needs(Bpf), || {
    let port = unused_port();
    // given a gateway with more listeners, and processes that hold them, than are kept account of
    let gateway =
        Part::gateway().on_port(port).with(&["--reuse-port", "--crowd", "6000", "--workers", "2"]).start();
    let agent = Agent::watching(&[(port, "")]);
    let by_agent = |command: &[&str]| agent.answer(command, port);
    let alone = |command: &[&str]| Gatewatch::on(Backend::Ebpf, command, port).run();
    for ask in [&by_agent as &dyn Fn(&[&str]) -> gatewatch_tests::Answer, &alone] {
        assert_eq!(ask(&["owners"]).json()["reason"], "too_many");
        // then nobody is ended, because who else has the very same sockets would decide on that
        for command in [&["clean", "--dry-run"][..], &["clean"]] {
            let answer = ask(command);
            assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"));
            assert_eq!((&answer.json()["reason"], answer.killed().len()), (&"too_many".into(), 0));
        }
        assert!(gateway.is_alive());
    }
});
