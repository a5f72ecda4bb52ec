//! More sockets and holders than anybody can keep account of: any user can open hundreds of thousands, most easily in a
//! network namespace of his own.

use std::time::Instant;

use gatewatch_tests::{Agent, Backend, Gatewatch, Part, can_bind, config, send, until, unused_port};
use nix::sys::signal::Signal;

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

/// For how many of the kernel's ticks the process has had a processor: its first thread, which is the agent's loop, and all others.
fn worked(pid: u32) -> (u64, u64) {
    let of = |path: String| {
        let stat = std::fs::read_to_string(path).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        // utime and stime (proc(5))
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    let (all, first) = (of(format!("/proc/{pid}/stat")), of(format!("/proc/{pid}/task/{pid}/stat")));
    (first, all.saturating_sub(first))
}

scenario!(looks_that_take_long_are_taken_beside_the_loop_and_one_time_in_nine, needs(Bpf), || {
    /// So many looks are waited for.
    const LOOKS: u32 = 2;
    /// On every architecture.
    const TICKS_PER_SECOND: u128 = 100;
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    // given a crowd as above, so that each look takes long
    let crowd = Part::other().on(([0, 0, 0, 0], port).into()).with(&["--reuse-port", "--crowd", "6000"]);
    let _crowd = crowd.with(&["--workers", "8"]).in_own_user_namespace().start();
    // and more events than are read, again and again, so that there is always a reason for the next one
    let _owner = Part::other().on_port(port).start();
    let lose_events = || {
        send(agent.pid(), Signal::SIGSTOP);
        // Binds that fail, because of those who bind the agent would read who they are.
        for _ in 0..5000 {
            assert!(!can_bind(([127, 0, 0, 1], port).into()));
        }
        send(agent.pid(), Signal::SIGCONT);
    };
    // The agent closes a connection on which nothing is asked for a while, and to lose events can take longer.
    let lost = || agent.connect_as(0).ask_and_stay("/v1/status").json()["lost"].as_u64().unwrap();
    let up_to_next_look = || {
        let (before, mut answered) = (lost(), 0_u32);
        // Answers about the looks are given beside the loop as well, so they are seldom asked for.
        while lost() == before {
            lose_events();
            let mut connection = agent.connect_as(0);
            for _ in 0..20 {
                assert_eq!(connection.ask_and_stay("/healthz").status, 200);
                answered += 1;
            }
        }
        answered
    };
    // The first one is taken at once, and the next one ends when those end that are counted.
    up_to_next_look();
    up_to_next_look();
    let (begun, (loop_before, beside_before)) = (Instant::now(), worked(agent.pid()));
    let answered: u32 = (0..LOOKS).map(|_| up_to_next_look()).sum();
    let passed = begun.elapsed().as_millis() * TICKS_PER_SECOND / 1000;
    let (of_loop, beside) = worked(agent.pid());
    let (of_loop, beside) = (of_loop - loop_before, beside - beside_before);
    let told =
        format!("{of_loop} ticks of the loop, {beside} beside it, {passed} passed, {answered} answers");
    // then other threads take the looks, and not the loop, which has work with the events alone
    assert!(beside * 20 > of_loop, "{told}");
    // and between two of them there is time for eight others, however long each of them has waited for a processor
    assert!(u128::from(beside) * 7 < passed, "{told}");
});
