//! What the agent's work costs where a process or a request could make it much: processor time and memory, compared with those
//! of little.

use std::time::Instant;

use gatewatch_tests::{Agent, Connection, Gatewatch, Part, config, folder, until, unused_port};

/// How long the threads of this process have had a processor, in nanoseconds.
fn worked(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that has ended meanwhile tells nothing more.
    let told = threads.flatten().flat_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")));
    told.map(|told| told.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// So many requests are a batch.
const BATCH: usize = 1_600;
/// What five batches may cost, in KiB.
const MORE: u64 = 1 << 10;

/// The memory of its own that a process has, in KiB.
fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

scenario!(requests_without_end_cost_no_memory, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let one_port = format!("/v1/ports/{port}");
    let unknown = format!("/v1/ports/{}", unused_port());
    let paths = [(one_port.as_str(), 200), ("/v1/ports", 200), ("/v1/status", 200), (&unknown, 404)];
    let ask = |times: usize| {
        let mut connections: Vec<Connection> = (0..4).map(|_| agent.connect_as(0)).collect();
        for at in 0..times {
            let (path, status) = paths[at % paths.len()];
            let reply = connections[at / paths.len() % 4].ask_and_stay(path);
            assert_eq!(reply.status, status, "{reply:?}");
        }
    };
    // given an agent that has been asked often enough to have all the threads and buffers that it wants
    ask(BATCH);
    let before = own_memory(agent.pid());
    // when it is asked many times as often
    ask(5 * BATCH);
    // then it has as much memory as before, but for a hundred bytes or so of each request
    let after = own_memory(agent.pid());
    assert!(after < before + MORE, "{before} KiB, then {after}");
});

scenario!(one_look_at_the_descriptors_does_for_all_watched_ports, needs(Bpf), || {
    let ports: Vec<u16> = (0..200).map(|_| unused_port()).collect();
    let others: Vec<String> = ports[1..].iter().map(|port| format!("--on=127.0.0.1:{port}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    // given a process that holds many ports, and so many descriptors that a look at all of them takes a while
    let owner = Part::other().on_port(ports[0]).with(&others).with(&["--descriptors", "3000"]).start();
    let costs = |watched: &[u16]| {
        let watched: Vec<(u16, &str)> = watched.iter().map(|&port| (port, "")).collect();
        let agent = Agent::watching(&watched);
        let owners = agent.get(&format!("/v1/ports/{}", owner.port())).json();
        assert_eq!(owners["owners"][0]["pid"], owner.pid(), "{owners}");
        worked(agent.pid())
    };
    let (one, all) = (costs(&ports[..1]), costs(&ports));
    // then an agent of all of them works hardly more at its start, and by no means 200 times as much
    assert!(all < one * 6, "{one} ns for one port, {all} ns for 200");
});

scenario!(a_long_line_of_ancestors_is_walked_once_for_all_who_are_below_it, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    // given 64 processes below a line of 100
    let children = "exec 3<&0; for child in $(seq 64); do cat <&3 & echo $!; done; wait";
    let command = ["sh", "-c", children].map(str::to_owned);
    let mut line = Part::other().with(&["--hops", "100"]).running(&command).start();
    let pids: Vec<String> = (0..64).map(|_| line.line()).collect();
    // when some of them are to be protected
    let costs = |count: usize| {
        let body = format!(
            "{{\"dry_run\":true,\"term_timeout_ms\":0,\"kill_timeout_ms\":0,\"free_timeout_ms\":0,\"protect\":[{}]}}",
            pids[..count].join(",")
        );
        // the middle of several, because others make it work as well
        let cost = |_| {
            let before = worked(agent.pid());
            let reply = agent.post(&format!("/v1/ports/{port}/clean"), &body);
            assert_eq!(reply.status, 200, "{reply:?}");
            worked(agent.pid()).saturating_sub(before)
        };
        let mut costs: Vec<u64> = (0..5).map(cost).collect();
        costs.sort_unstable();
        costs[2]
    };
    let (one, all) = (costs(1), costs(64));
    // then all cost hardly more than one, and by no means 64 times as much
    assert!(all < one * 6, "{one} ns for one, {all} ns for 64");
});

scenario!(an_agent_with_a_history_does_nothing_where_nothing_happens, needs(Bpf), || {
    let kept = folder();
    let path = kept.path().join("kept").join("history.sqlite");
    let port = unused_port();
    let gateway = Part::gateway().on_port(port).start();
    let agent = Agent::with(&format!("[history]\npath = {path:?}\n{}", config(&[(port, "")])));
    until("who has the port is written", || !agent.history("since=1h").is_empty());
    // when it is asked to wait for a second for what does not come
    let (begun, before) = (Instant::now(), worked(agent.pid()));
    let reply = agent.get(&format!("/v1/ports/{port}/wait?until=free&timeout_ms=1000"));
    assert_eq!(reply.json()["outcome"], "timed_out", "{reply:?}");
    // then no thread of it has been busy meanwhile
    let (passed, worked) = (begun.elapsed().as_nanos(), u128::from(worked(agent.pid()) - before));
    assert!(worked * 5 < passed, "{worked} ns of {passed}");
    drop(gateway);
    // and it tells of its history
    let history = agent.get("/v1/status").json()["history"].clone();
    assert_eq!((&history["path"], &history["works"]), (&path.to_str().unwrap().into(), &true.into()));
    assert!(history["newest"].as_u64() > Some(0), "{history}");
    let doctor = Gatewatch::plain(&["doctor", "--socket", agent.socket().to_str().unwrap()]).out;
    assert!(doctor.contains(&format!("keeps a history in {}: ", path.display())), "{doctor}");
});
