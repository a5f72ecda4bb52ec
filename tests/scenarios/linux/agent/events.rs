//! The host agent's events: told to all who listen, whatever the others do.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use gatewatch_tests::{Agent, Part, until, unused_port};
use serde_json::Value;

use super::ROOT;
use crate::OnceRule;

pub(crate) const RULES: &[OnceRule] = &[
    ("a_slow_client_holds_up_nobody", ROOT, slow_client),
    ("looking_afresh_swallows_no_event", ROOT, fresh_looks),
    ("wait_comes_true", ROOT, wait),
    ("events_go_on_from_a_cursor", ROOT, cursor),
    ("a_cursor_of_the_past_is_told_what_is_gone", ROOT, old_cursor),
    ("events_are_served_as_server_sent_events", ROOT, server_sent),
    ("watch_asks_the_agent", ROOT, watch),
];

fn slow_client() {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    // given clients that say half a request, that read nothing, and that say nothing at all
    let mut stuck: Vec<UnixStream> = Vec::new();
    for head in ["GET /v1/po", "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n", ""] {
        for _ in 0..30 {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stuck.push(stream);
        }
    }
    // then others are answered, and told of everything that happens
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let _owner = Part::other().on_port(port).with(&["--churn", "300"]).start();
    let mut listens = 0;
    while listens <= 300 {
        listens += usize::from(events.line()["event"] == "listen");
    }
    assert_eq!(agent.get("/healthz").status, 200);
    drop(stuck);
}

fn fresh_looks() {
    const ROUNDS: usize = 1000;
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // when the port changes hands again and again, while somebody asks for its owners, which no event tells whole
    let path = format!("/v1/ports/{port}");
    std::thread::scope(|scope| {
        // The asking ends with this sender, also where the actor fails.
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
    // then each bind, listen and release of each socket is told, in its order. Not so those of different sockets: a look
    // can hold a socket that has just been closed, and then the next bind need only wait for its state to change (with
    // SO_REUSEADDR), which is a microsecond before its release.
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
}

fn wait() {
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
}

fn cursor() {
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
    // is there for who comes back
    let after = |line: &Value| format!("port={port}&after={}", line["cursor"].as_str().unwrap());
    let names = |lines: Vec<Value>| -> Vec<String> {
        lines.iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(agent.events(&after(&listen)).up_to("listen")), ["release", "free", "bind", "listen"]);
    assert_eq!(names(agent.events(&after(&ready)).up_to("listen")), ["bind", "listen"]);
}

fn old_cursor() {
    let port = unused_port();
    let mut agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events("");
    let before = events.up_to("ready").pop().unwrap()["cursor"].as_str().unwrap().to_owned();
    // given more than the history holds, so slowly that the agent can follow
    let owner = Part::other().on_port(port).with(&["--churn", "1500", "--churn-for", "200"]).start();
    let mut back = agent.events(&format!("after={before}"));
    let lost = back.line();
    assert_eq!(lost["event"], "lost");
    assert!(lost["count"].as_u64().unwrap() > 0, "{lost}");
    assert_eq!(back.line()["pid"], owner.pid());
    assert_eq!(back.line()["event"], "ready");
    // given another agent, which knows nothing of the first one's numbers
    agent.replace();
    let mut back = agent.events(&format!("after={before}"));
    assert_eq!(back.line()["event"], "lost");
    assert_eq!(back.line()["event"], "held");
}

fn server_sent() {
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
}

fn watch() {
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
}
