//! The host agent's events: sent to every subscriber, whatever the others do.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use gatewatch_tests::{Actor, Agent, Events, Part, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

scenario!(a_slow_client_holds_up_nobody, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    // given clients that send half a request, that read nothing, and that send nothing at all
    let mut stuck: Vec<UnixStream> = Vec::new();
    for head in ["GET /v1/po", "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n", ""] {
        for _ in 0..30 {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stuck.push(stream);
        }
    }
    // then others are answered, and get every event
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let _owner = Part::other().on_port(port).with(&["--churn", "300"]).start();
    let mut listens = 0;
    while listens <= 300 {
        listens += usize::from(events.line()["event"] == "listen");
    }
    assert_eq!(agent.get("/healthz").status, 200);
    drop(stuck);
});

scenario!(looking_afresh_swallows_no_event, needs(Bpf), || {
    const ROUNDS: usize = 1000;
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // when the port changes hands again and again, while another client asks for its owners, whom no event names whole
    let path = format!("/v1/ports/{port}");
    std::thread::scope(|scope| {
        // The queries end with this sender, even if the actor fails.
        let (_going_on, over) = std::sync::mpsc::channel::<()>();
        let (agent, path) = (&agent, &path);
        scope.spawn(move || {
            while over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                assert_eq!(agent.get(path).status, 200);
            }
        });
        // Long enough for a query to find the socket, and for the next one to fall into its end.
        let rounds = ROUNDS.to_string();
        Part::other().on_port(port).with(&["--churn", &rounds, "--churn-for", "700"]).start();
    });
    // then each bind, listen and release of each socket is reported, in its order. Between sockets the order may
    // differ: a look can hold a socket that has just been closed, and then the next bind need only wait for its state to
    // change (with SO_REUSEADDR), which is a microsecond before its release.
    let mut told: HashMap<String, Vec<String>> = HashMap::new();
    let mut released = 0;
    while released < ROUNDS {
        let line = events.line();
        let (Some(event), Some(socket)) = (line["event"].as_str(), line["socket"].as_str()) else { continue };
        told.entry(socket.to_owned()).or_default().push(event.to_owned());
        released += usize::from(event == "release");
    }
    let whole = told.values().filter(|events| **events == ["bind", "listen", "release"]).count();
    assert_eq!(whole, ROUNDS, "{told:?}");
    let metrics = agent.get("/metrics").body;
    let looks = metrics.lines().find_map(|line| line.strip_prefix("gatewatch_refreshes_total ")).unwrap();
    assert!(looks.parse::<usize>().unwrap() > 10, "{looks} fresh looks");
});

scenario!(wait_comes_true, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    assert_eq!(agent.answer(&["wait", "listening"], port).outcome(), "listening");
    let timed_out = agent.answer(&["wait", "free", "--timeout", "50ms"], port);
    assert_eq!((timed_out.status, timed_out.outcome().as_str()), (7, "timed_out"));
    let waiting = agent.ask(&["wait", "free"], port).spawn();
    gateway.ask_to_end();
    let answer = waiting.finish();
    assert_eq!((answer.outcome().as_str(), &answer.json()["backend"]), ("free", &"agent".into()));
    let listening = agent.ask(&["wait", "listening"], port).spawn();
    let _next = Part::other().on_port(port).start();
    assert_eq!(listening.finish().outcome(), "listening");
});

scenario!(events_go_on_from_a_cursor, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    let ready = events.up_to("ready").pop().unwrap();
    let first = Part::other().on_port(port).start();
    let listen = events.up_to("listen").pop().unwrap();
    drop(events);
    // what happens while nobody reads
    first.ask_to_end();
    until("it has ended", || first.is_gone());
    let _second = Part::other().on_port(port).start();
    // is there for a reader that comes back
    let after = |line: &Value| format!("port={port}&after={}", line["cursor"].as_str().unwrap());
    let names = |lines: Vec<Value>| -> Vec<String> {
        lines.iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(agent.events(&after(&listen)).up_to("listen")), ["release", "free", "bind", "listen"]);
    assert_eq!(names(agent.events(&after(&ready)).up_to("listen")), ["bind", "listen"]);
});

scenario!(a_cursor_of_the_past_is_told_what_is_gone, needs(Bpf), || {
    let port = unused_port();
    let mut agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events("");
    let before = events.up_to("ready").pop().unwrap()["cursor"].as_str().unwrap().to_owned();
    // given more than the history holds, so slowly that the agent can follow
    let owner = Part::other().on_port(port).with(&["--churn", "1500", "--churn-for", "200"]).start();
    let mut back = agent.events(&format!("after={before}"));
    let lost = back.line();
    assert_eq!((&lost["event"], &lost["port"]), (&"lost".into(), &port.into()));
    assert!(lost["count"].as_u64().unwrap() > 0, "{lost}");
    assert_eq!(back.line()["pid"], owner.pid());
    assert_eq!(back.line()["event"], "ready");
    // given another agent, which knows nothing of the first one's numbers
    agent.replace();
    let mut back = agent.events(&format!("after={before}"));
    assert_eq!(back.line()["event"], "lost");
    assert_eq!(back.line()["event"], "held");
});

scenario!(a_reader_that_stalls_is_told_how_many_lines_it_missed, needs(Bpf), || {
    let [port, other] = [(); 2].map(|()| unused_port());
    let agent = Agent::watching(&[(port, ""), (other, "")]);
    let mut events = agent.events(&format!("port={port}"));
    // given more than the history holds while nobody reads, so slowly that the agent can follow; also on another port
    let slowly = ["--churn-pause", "1", "--churn"];
    let _another = Part::other().on_port(other).with(&slowly).with(&["300"]).start();
    let owner = Part::other().on_port(port).with(&slowly).with(&["1800"]).start();
    // when the reader goes on
    let counted = ["bind", "listen", "release", "conflict"];
    let (mut told, mut lost) = (0, 0);
    loop {
        let line = events.line();
        told += u64::from(counted.iter().any(|&event| line["event"] == event));
        lost += line["count"].as_u64().unwrap_or(0);
        if line["event"] == "held" && line["pid"] == owner.pid() {
            break;
        }
    }
    // then what it saw and what it missed is what the agent has counted
    let metrics = agent.get("/metrics").body;
    let of = |event: &str| {
        let line = metrics.lines().find(|line| {
            line.starts_with("gatewatch_events_total{")
                && line.contains(&format!("event=\"{event}\""))
                && line.contains(&format!("port=\"{port}\""))
        });
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or(0)
    };
    let all: u64 = counted.iter().map(|event| of(event)).sum();
    assert!(lost > 0 && all >= 1800 * 3 + 2, "{lost} lost, {all} in all");
    assert_eq!(told + lost, all, "{told} told, {lost} lost");
});

/// Reads on until all lines are told or counted as lost, and no more; how many were lost.
fn lost_of(events: &mut Events, total: u64) -> u64 {
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < total {
        let line = events.line();
        match line["event"].as_str() {
            Some("bind" | "listen" | "release") => seen += 1,
            Some("lost") => lost += line["count"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert_eq!(seen + lost, total);
    lost
}

/// A port that no other run of the scenarios has, not even in another network namespace: an agent sees all of these, and
/// what the kernel has dropped is known by its number alone. Outgoing connections get none so high.
fn lonely_port(place: u32) -> u16 {
    u16::try_from(61_000 + std::process::id() % 1_300 * 3 + place).unwrap()
}

/// Takes the port so many times, and holds it then.
fn churn(port: u16, rounds: u64) -> Actor {
    Part::other().on_port(port).with(&["--churn", &rounds.to_string()]).start()
}

scenario!(what_a_stalled_agent_misses_is_counted_exactly, needs(Bpf), || {
    // given an agent that sees no failed binds, because some of the actor's may fail
    let port = lonely_port(0);
    let agent = Agent::without("conflict", &[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // when more happens than the kernel's ring holds
    agent.signal(Signal::SIGSTOP);
    let owner = churn(port, 2000);
    agent.signal(Signal::SIGCONT);
    // then a bind, a listen and a release each time are told or counted, and what holds the port now
    assert!(lost_of(&mut events, 3 * 2000 + 2) > 0);
    owner.ask_to_end();
    assert!(events.up_to("free").iter().all(|line| line["event"] != "lost"));
});

scenario!(a_flood_in_another_network_namespace_displaces_no_events, needs(Bpf), || {
    let port = lonely_port(3);
    let agent = Agent::without("conflict", &[(port, "")]);
    let mut all = agent.events(&format!("port={port}"));
    let mut here = agent.events(&format!("port={port}&netns={}", own_netns()));
    for events in [&mut all, &mut here] {
        events.up_to("ready");
    }
    // given a user who does more in a network namespace of its own than the kernel's ring holds
    agent.signal(Signal::SIGSTOP);
    let elsewhere = |rounds| {
        let part = Part::other().on(([0, 0, 0, 0], port).into()).in_own_user_namespace();
        part.with(&["--churn", rounds]).start()
    };
    let _flood = elsewhere("2000");
    // when something happens here, and in a third namespace
    let owner = churn(port, 100);
    let quiet = elsewhere("0");
    agent.signal(Signal::SIGCONT);
    // then nothing of that is lost
    assert_eq!(lost_of(&mut here, 3 * 100 + 2), 0);
    owner.ask_to_end();
    assert!(here.up_to("free").iter().all(|line| line["count"].as_u64().unwrap_or(0) == 0));
    // and of what the flood has lost, each line is counted
    let (mut seen, mut lost, mut of_quiet) = (0, 0, 0);
    let total = 3 * (2000 + 100 + 1) + 2 + 2;
    while seen + lost < total {
        let line = all.line();
        if ["bind", "listen", "release"].iter().any(|&event| line["event"] == event) {
            seen += 1;
            of_quiet += u64::from(line["pid"] == quiet.pid());
        }
        lost += line["count"].as_u64().unwrap_or(0);
    }
    assert_eq!((seen + lost, of_quiet), (total, 2));
    assert!(lost > 2000, "{lost}");
});

/// The inode number of this process's network namespace.
fn own_netns() -> u64 {
    std::os::linux::fs::MetadataExt::st_ino(&std::fs::metadata("/proc/self/ns/net").unwrap())
}

scenario!(what_a_stalled_reader_misses_is_counted_exactly, needs(Bpf), || {
    const ROUNDS: u64 = 500;
    const TIMES: u64 = 8;
    let (port, second) = (lonely_port(1), lonely_port(2));
    let agent = Agent::without("conflict", &[(port, ""), (second, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // when more happens than the agent keeps, but each time no more than the kernel's ring holds
    for _ in 0..TIMES {
        for port in [second, port] {
            let owner = churn(port, ROUNDS);
            let path = format!("/v1/ports/{port}");
            assert_eq!(agent.get(&path).json()["owners"][0]["pid"], owner.pid());
            owner.ask_to_end();
            until("the agent knows its end", || agent.get(&path).json()["owners"][0]["pid"].is_null());
        }
    }
    // then all that happened to the port that was asked for is told or counted, and nothing of the other one
    assert!(lost_of(&mut events, TIMES * 3 * (ROUNDS + 1)) > 0);
    let _next = churn(port, 0);
    let told = events.up_to("listen");
    assert!(told.iter().all(|line| line["event"] != "lost"), "{told:?}");
});

scenario!(events_are_served_as_server_sent_events, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), "")]);
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n").unwrap();
    let mut text = String::new();
    until("an event has come", || {
        let mut bytes = [0; 4096];
        let length = std::io::Read::read(&mut stream, &mut bytes).unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        text.contains("event: ready")
    });
    for part in ["text/event-stream", "event: held\ndata: {", "id: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
});

scenario!(watch_asks_the_agent, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut watch = agent.ask(&["watch"], port).watch();
    let owner = Part::other().on_port(port).start();
    let listen = watch.up_to("listen").pop().unwrap();
    assert_eq!(listen["pid"], owner.pid());
    assert!(listen["cursor"].is_string());
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});
