//! The host agent and UDP ports: the same number is another port than TCP's.

use gatewatch_tests::{Agent, Gatewatch, Part, folder, until, unused_port};
use serde_json::Value;

use crate::udp::{assert_udp_cleaned, udp};

/// An agent that watches this UDP port.
fn watching(port: u16) -> Agent {
    Agent::with(&format!("[[watch]]\nport = \"{port}/udp\"\n"))
}

/// The names of events on a UDP port, and no others.
fn of_udp(lines: &[Value], port: u16) -> Vec<&str> {
    let is_of = |line: &&Value| line["port"] == port && line["protocol"] == "udp";
    lines.iter().filter(is_of).filter_map(|line| line["event"].as_str()).collect()
}

scenario!(the_agent_cleans_a_udp_port_and_leaves_the_tcp_ports_owner, needs(Bpf), || {
    // given a gateway on each, of which the agent watches one
    let port = unused_port();
    let agent = watching(port);
    let by_udp = udp(Part::gateway()).on_port(port).start();
    let by_tcp = Part::gateway().on_port(port).start();
    let owner = agent.ask_udp(&["owners"], port).run().owner(by_udp.pid());
    assert_eq!(owner["identity"], "match", "{owner}");
    // when
    let refused = agent.answer(&["clean"], port);
    let answer = agent.ask_udp(&["clean"], port).run();
    // then
    assert_eq!(refused.status, 6, "{refused:?}");
    assert_eq!(answer.json()["backend"], "agent", "{answer:?}");
    assert_udp_cleaned(&answer, &by_udp);
    assert!(by_tcp.is_alive());
    assert!(agent.log().contains("protocol=\"udp\""), "{}", agent.log());
});

scenario!(a_user_who_may_have_a_tcp_port_cleaned_may_not_have_the_udp_port, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::with(&format!(
        "[[watch]]\nport = {port}\nclean = {{ users = [\"nobody\"] }}\n[[watch]]\nport = \"{port}/udp\"\n"
    ));
    let gateway = udp(Part::gateway()).on_port(port).start();
    let reply = agent.as_nobody("POST", &format!("/v1/ports/{port}%2Fudp/clean"), "");
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(gateway.is_alive());
    assert_eq!(agent.as_nobody("POST", &format!("/v1/ports/{port}/clean"), "").status, 200);
    assert!(gateway.is_alive());
});

scenario!(a_udp_port_is_waited_for_through_the_agent, needs(Bpf), || {
    let port = unused_port();
    let agent = watching(port);
    let mut gateway = udp(Part::gateway()).on_port(port).start();
    let mut waiting = agent.ask_udp(&["wait", "free"], port).spawn();
    assert!(waiting.is_running());
    gateway.end();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    let mut waiting = agent.ask_udp(&["wait", "bound"], port).spawn();
    assert!(waiting.is_running());
    let gateway = udp(Part::gateway()).on_port(port).start();
    let answer = waiting.finish();
    assert_eq!(answer.outcome(), "listening", "{answer:?}");
    assert!(gateway.is_alive());
});

scenario!(the_history_of_a_udp_port_is_kept, needs(Bpf), || {
    let kept = folder();
    let path = kept.path().join("kept").join("history.sqlite");
    let port = unused_port();
    let agent = Agent::with(&format!("[history]\npath = {path:?}\n[[watch]]\nport = \"{port}/udp\"\n"));
    let mut server = udp(Part::other()).on_port(port).start();
    server.end();
    let query = format!("port={port}/udp");
    until("the release", || of_udp(&agent.history(&query), port).contains(&"free"));
    let lines = agent.history(&query);
    assert_eq!(of_udp(&lines, port), ["bind", "release", "free"], "{lines:?}");
    let bind = lines.iter().find(|line| line["event"] == "bind").unwrap();
    assert_eq!(bind["pid"], server.pid(), "{lines:?}");
    // and the TCP port of the number has none of it
    assert_eq!(of_udp(&agent.history(&format!("port={port}")), port), [""; 0]);
});

scenario!(an_agent_that_follows_every_port_follows_udp_ports_too, needs(Bpf), || {
    let agent = Agent::with("[agent]\nwatch = \"all\"\n");
    let server = udp(Part::other()).on_port(unused_port()).start();
    let is_it =
        |entry: &Value| (&entry["port"], &entry["protocol"]) == (&server.port().into(), &"udp".into());
    let knows = || agent.get("/v1/ports").json()["ports"].as_array().unwrap().iter().any(is_it);
    until("the agent knows of it", knows);
    let owner = agent.ask_udp(&["owners"], server.port()).run().owner(server.pid());
    assert_eq!(owner["identity"], "other", "{owner}");
    drop(server);
});

scenario!(a_reload_adds_a_udp_port, needs(Bpf), || {
    let (port, other) = (unused_port(), unused_port());
    let agent = Agent::watching(&[(other, "")]);
    let query = format!("port={port}/udp");
    assert_eq!(agent.get(&format!("/v1/events?{query}")).status, 404);
    agent.reconfigure(&format!("[[watch]]\nport = \"{port}/udp\"\n"));
    until("the port is watched", || {
        agent.get("/v1/status").json()["udp_ports"]
            .as_array()
            .is_some_and(|ports| ports.contains(&port.into()))
    });
    let mut events = agent.events(&query);
    events.up_to("ready");
    let mut gateway = udp(Part::gateway()).on_port(port).start();
    assert_eq!(events.line()["event"], "bind");
    gateway.end();
    assert_eq!(events.line()["event"], "release");
});

scenario!(where_udp_can_not_be_followed_the_agent_says_so_and_follows_tcp, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::without("udp", &[(port, "")]);
    let status = agent.get("/v1/status").json();
    assert_eq!(status["backend"], "ebpf", "{status}");
    let degraded = status["degraded"].to_string();
    assert!(degraded.contains("UDP ports are not followed"), "{degraded}");
    assert!(degraded.contains("no release events of UDP ports"), "{degraded}");
    // then TCP's are as ever
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let gateway = Part::gateway().on_port(port).start();
    assert_eq!(events.up_to("listen").last().unwrap()["pid"], gateway.pid());
    // and a command on a UDP port goes on alone
    let by_udp = udp(Part::other()).on_port(port).start();
    assert_eq!(agent.get(&format!("/v1/ports/{port}%2Fudp")).status, 404);
    let socket = agent.socket();
    let answer = Gatewatch::new(&["owners", "--socket", socket.to_str().unwrap(), "--format", "json"])
        .with(&["-p", &format!("{port}/udp")])
        .run();
    assert_eq!(answer.json()["backend"], "ebpf", "{answer:?}");
    assert_eq!(answer.owner(by_udp.pid())["listeners"][0], by_udp.address().to_string());
});

scenario!(a_udp_port_that_can_not_be_followed_is_cleaned_without_the_agent, needs(Bpf), || {
    // given an agent that is to watch it, and knows of no owner
    let (port, other) = (unused_port(), unused_port());
    let sections = format!("[[watch]]\nport = \"{port}/udp\"\n[[watch]]\nport = {other}\n");
    let agent = Agent::with_and_without(&sections, "udp");
    let gateway = udp(Part::gateway()).on_port(port).start();
    // then it says nothing of it
    let known = agent.get("/v1/ports").json();
    let ports: Vec<&Value> = known["ports"].as_array().unwrap().iter().map(|it| &it["port"]).collect();
    assert_eq!(ports, [other], "{known}");
    assert!(!agent.get("/metrics").body.contains(&format!("{port}/udp")));
    let reply = agent.post(&format!("/v1/ports/{port}%2Fudp/clean"), "");
    assert!(reply.status == 404 && reply.body.contains("its protocol"), "{reply:?}");
    // and a command does by itself what the agent can't
    let socket = agent.socket();
    let words = ["clean", "--socket", socket.to_str().unwrap(), "--format", "json"];
    let answer = Gatewatch::new(&words).with(&["-p", &format!("{port}/udp")]).run();
    assert_eq!(answer.json()["backend"], "ebpf", "{answer:?}");
    assert_udp_cleaned(&answer, &gateway);
});

scenario!(the_time_that_a_udp_port_had_nobody_is_measured, needs(Bpf), || {
    let port = unused_port();
    let agent = watching(port);
    let has = |wanted: &str| agent.get("/metrics").body.contains(wanted);
    let mut server = udp(Part::other()).on_port(port).start();
    server.end();
    let freed = format!("gatewatch_events_total{{event=\"free\",port=\"{port}/udp\"}} 1\n");
    until("it is free", || has(&freed));
    assert!(has("gatewatch_restart_duration_seconds_count 0\n"));
    let _next = udp(Part::other()).on_port(port).start();
    assert!(has("gatewatch_restart_duration_seconds_count 1\n"), "{}", agent.get("/metrics").body);
});

scenario!(a_refusal_is_told_with_the_ports_protocol, needs(Bpf), || {
    let port = unused_port();
    let agent = watching(port);
    assert_eq!(agent.as_nobody("POST", &format!("/v1/ports/{port}%2Fudp/clean"), "").status, 403);
    let refused = || agent.log().lines().find(|line| line.contains("a clean is refused")).map(str::to_owned);
    until("the refusal is told", || refused().is_some());
    assert!(refused().unwrap().contains("protocol=\"udp\""), "{}", agent.log());
});
