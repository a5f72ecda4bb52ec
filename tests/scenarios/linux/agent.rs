//! The host agent: what it knows, whom it serves, and what it refuses.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use gatewatch_tests::{Agent, Backend, Gatewatch, Managed, Needs, Part, config, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::OnceRule;

const ROOT: &[Needs] = &[Needs::Bpf];

pub(crate) const RULES: &[OnceRule] = &[
    ("it_answers_who_owns_a_port", ROOT, owners),
    ("it_sees_who_came_later_and_who_inherited", ROOT, later_owners),
    ("it_cleans_for_root", ROOT, cleans),
    ("it_cleans_for_a_user_whom_the_configuration_names", ROOT, cleans_for_named),
    ("it_cleans_for_no_other_user", ROOT, refuses_others),
    ("it_answers_nobody_outside_of_its_group", ROOT, refuses_readers),
    ("a_command_that_need_not_ask_goes_on_without_it", ROOT, goes_on_without),
    ("a_caller_cannot_widen_what_may_be_ended", ROOT, cannot_widen),
    ("an_owner_that_does_not_match_is_left_alone", ROOT, left_alone),
    ("a_port_that_is_not_watched_is_left_alone", ROOT, not_watched),
    ("the_callers_ancestors_are_never_ended", ROOT, ancestors),
    ("a_protected_process_is_never_ended", ROOT, protected),
    ("a_dry_run_signals_nobody", ROOT, dry_run),
    ("a_caller_in_a_network_namespace_has_its_own_port_cleaned", ROOT, own_namespace),
    ("bad_requests_are_refused_with_the_mend", ROOT, bad_requests),
    ("cleans_without_end_are_refused", ROOT, rate),
    ("a_slow_client_holds_up_nobody", ROOT, slow_client),
    ("looking_afresh_swallows_no_event", ROOT, fresh_looks),
    ("wait_comes_true", ROOT, wait),
    ("events_go_on_from_a_cursor", ROOT, cursor),
    ("a_cursor_of_the_past_is_told_what_is_gone", ROOT, old_cursor),
    ("events_are_served_as_server_sent_events", ROOT, server_sent),
    ("watch_asks_the_agent", ROOT, watch),
    ("it_describes_itself", ROOT, described),
    ("it_keeps_only_what_it_needs", ROOT, privileges),
    ("a_reload_changes_the_ports", ROOT, reload),
    ("sigterm_lets_a_clean_finish", ROOT, finishes),
    ("its_death_is_told_at_once", ROOT, death),
    ("a_second_agent_does_not_take_the_socket", ROOT, second),
    ("a_leftover_socket_is_replaced", ROOT, leftover),
    ("it_takes_the_service_managers_socket", ROOT, managed),
    ("an_ordinary_users_own_agent_serves_that_user", &[Needs::Root], own_agent),
    ("a_bad_configuration_is_refused", &[], bad_configuration),
    ("only_says_that_no_agent_answers", &[], absent),
];

fn owners() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["owners"], gateway.port());
    assert_eq!(answer.json()["backend"], "agent");
    let own = Gatewatch::on(Backend::Ebpf, &["owners"], gateway.port()).run();
    assert_eq!(answer.owner(gateway.pid()), own.owner(gateway.pid()));
    let ports = agent.get("/v1/ports").json();
    assert_eq!(ports["ports"][0]["port"], gateway.port());
    assert_eq!(ports["ports"][0]["held"], true);
}

fn later_owners() {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    assert_eq!(agent.answer(&["owners"], port).json()["owners"], Value::Array(Vec::new()));
    let gateway = Part::gateway().on_port(port).with(&["--workers", "2"]).start();
    let seen = agent.answer(&["owners"], port).json()["owners"].as_array().unwrap().len();
    assert_eq!(seen, 3, "the workers have inherited the socket");
    let killed = agent.answer(&["clean"], port).killed();
    assert_eq!(killed.len(), 3);
    assert!(gateway.is_gone());
    assert_eq!(agent.answer(&["owners"], port).json()["owners"], Value::Array(Vec::new()));
}

fn cleans() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean"], gateway.port());
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "agent");
    assert_eq!(answer.json()["released"]["proof"], "ebpf");
    // and it says who asked, what was decided, and why
    for said in [&gateway.pid().to_string(), "uid=0", "Cleaned", "its title is openclaw-gateway"] {
        assert!(agent.log().contains(said), "{said}: {}", agent.log());
    }
}

fn cleans_for_named() {
    for allowed in ["users = [\"nobody\"]", "users = [\"65534\"]", "groups = [\"65534\"]"] {
        let gateway = Part::gateway().on_port(unused_port()).start();
        let agent = Agent::watching(&[(gateway.port(), &format!("clean = {{ {allowed} }}"))]);
        let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
        crate::clean::assert_cleaned(&answer, &gateway);
    }
}

fn refuses_others() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let other = unused_port();
    // given a user who may have another port cleaned
    let agent = Agent::watching(&[(gateway.port(), ""), (other, "clean = { users = [\"nobody\"] }")]);
    let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
    assert_eq!(answer.status, 6, "{answer:?}");
    assert!(answer.err.contains("may not have port"), "{answer:?}");
    let reply = agent.as_nobody("POST", &format!("/v1/ports/{}/clean", gateway.port()), "{}");
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.head.contains("application/problem+json"));
    assert!(gateway.is_alive());
    assert!(agent.log().contains("a clean is refused"));
}

fn refuses_readers() {
    let port = unused_port();
    let agent = Agent::with(&format!("[agent]\ngroup = \"daemon\"\n{}", config(&[(port, "")])));
    let paths =
        ["/v1/ports".to_owned(), format!("/v1/ports/{port}"), "/v1/status".to_owned(), "/metrics".to_owned()];
    for path in paths.iter().map(String::as_str).chain(["/v1/events"]) {
        let reply = agent.as_nobody("GET", path, "");
        assert_eq!((reply.status, reply.json()["title"].as_str()), (403, Some("Forbidden")), "{path}");
        assert!(reply.json()["mend"].as_str().unwrap().contains("group"));
    }
    let waiting = agent.as_nobody("GET", &format!("/v1/ports/{port}/wait?until=free&timeout_ms=1"), "");
    assert_eq!(waiting.status, 403);
    // and answers those inside of it
    let open = Agent::with(&format!("[agent]\ngroup = \"65534\"\n{}", config(&[(port, "")])));
    assert_eq!(open.as_nobody("GET", "/v1/ports", "").status, 200);
    assert_eq!(open.ask(&["owners"], port).as_nobody().run().status, 0);
}

fn goes_on_without() {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let socket = agent.socket();
    let answer = Gatewatch::new(&["clean", "--format", "json", "-p", &gateway.port().to_string()])
        .with(&["--socket", socket.to_str().unwrap()])
        .as_nobody()
        .run();
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "poll");
    assert!(answer.err.contains("going on without it"), "{answer:?}");
}

fn cannot_widen() {
    let other = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(other.port(), "clean = { users = [\"nobody\"] }")]);
    for body in [
        "{\"identity\":\"any\"}",
        "{\"match_argv\":\".\"}",
        "{\"include_init\":true}",
        "{\"dry_run\":1}",
        "[]",
    ] {
        let reply = agent.as_nobody("POST", &format!("/v1/ports/{}/clean", other.port()), body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
    }
    let answer = agent.ask(&["clean", "--identity", "any"], other.port()).as_nobody().run();
    assert_eq!(answer.status, 2, "{answer:?}");
    assert!(other.is_alive());
}

fn left_alone() {
    let other = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(other.port(), "")]);
    let answer = agent.answer(&["clean"], other.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(other.is_alive());
}

fn not_watched() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(unused_port(), "")]);
    let reply = agent.post(&format!("/v1/ports/{}/clean", gateway.port()), "");
    assert_eq!(reply.status, 404, "{reply:?}");
    let answer = agent.answer(&["clean"], gateway.port());
    assert_eq!(answer.status, 6, "{answer:?}");
    assert!(gateway.is_alive());
}

fn ancestors() {
    // given a sidecar of the gateway that asks the agent to clean its port
    for hops in ["0", "5"] {
        let port = unused_port();
        let agent = Agent::watching(&[(port, "")]);
        let mut words = agent.ask(&["clean"], port).words();
        words.insert(0, "--".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut gateway = Part::gateway().on_port(port).with(&["--hops", hops]).with(&words).start();
        let answer: Value = serde_json::from_str(&gateway.line()).unwrap();
        assert_eq!(answer["outcome"], "held_by_protected", "{answer}");
        assert_eq!(answer["owners"][0]["relation"], "requester");
        assert!(gateway.is_alive());
    }
}

fn protected() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean", "--protect", &gateway.pid().to_string()], gateway.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"));
    let reply = agent.post(
        &format!("/v1/ports/{}/clean", gateway.port()),
        &format!("{{\"protect\":[{}],\"term_timeout_ms\":5}}", gateway.pid()),
    );
    assert_eq!(reply.json()["outcome"], "held_by_protected");
    assert!(gateway.is_alive());
}

fn dry_run() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean", "--dry-run"], gateway.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"));
    assert!(gateway.is_alive());
}

fn own_namespace() {
    let port = unused_port();
    let here = Part::gateway().on_port(port).start();
    let elsewhere = Part::gateway().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let agent = Agent::watching(&[(port, "")]);
    // the agent sees both, and says which is where
    let owners = agent.get(&format!("/v1/ports/{port}")).json();
    let namespaces: std::collections::BTreeSet<u64> = owners["owners"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|owner| owner["sockets"][0]["netns"].as_u64())
        .collect();
    assert_eq!(namespaces.len(), 2, "{owners}");
    // a caller sees and cleans its own
    let answer = agent.ask(&["clean"], port).in_network_of(elsewhere.pid()).run();
    assert_eq!(answer.killed(), [u64::from(elsewhere.pid())], "{answer:?}");
    assert!(elsewhere.is_gone());
    assert!(here.is_alive());
    assert_eq!(agent.answer(&["owners"], port).owner(here.pid())["pid"], here.pid());
}

fn bad_requests() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let long = "x".repeat(20_000);
    for (method, path, body, status) in [
        ("GET", "/v1/ports/0".to_owned(), "", 400),
        ("GET", "/v1/ports/70000".to_owned(), "", 400),
        ("GET", "/v1/ports/abc".to_owned(), "", 400),
        ("GET", format!("/v1/ports/{port}?nets=1"), "", 400),
        ("GET", format!("/v1/ports/{port}?netns=x"), "", 400),
        ("GET", format!("/v1/ports/{port}/wait"), "", 400),
        ("GET", format!("/v1/ports/{port}/wait?until=never"), "", 400),
        ("GET", format!("/v1/ports/{port}/wait?until=free&timeout_ms=-1"), "", 400),
        ("GET", "/v1/events?after=x".to_owned(), "", 400),
        ("GET", "/v1/events?port=1".to_owned(), "", 404),
        ("GET", "/v1/nothing".to_owned(), "", 404),
        ("POST", "/v1/ports".to_owned(), "", 405),
        ("GET", format!("/v1/ports/{port}/clean"), "", 405),
        ("POST", format!("/v1/ports/{port}/clean"), "{", 400),
        ("POST", format!("/v1/ports/{port}/clean"), &long, 413),
    ] {
        let reply = if method == "GET" { agent.get(&path) } else { agent.post(&path, body) };
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert!(!reply.json()["mend"].as_str().unwrap().is_empty(), "{reply:?}");
    }
    assert!(gateway.is_alive());
}

fn rate() {
    let gateway = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "clean = { users = [\"nobody\"] }")]);
    let path = format!("/v1/ports/{}/clean", gateway.port());
    let statuses: Vec<u16> =
        (0..40).map(|_| agent.as_nobody("POST", &path, "{\"dry_run\":true}").status).collect();
    assert_eq!(statuses[0], 200);
    assert!(statuses.contains(&429), "{statuses:?}");
    // and another user is served all the same
    assert_eq!(agent.post(&path, "{\"dry_run\":true}").status, 200);
}

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

fn described() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    assert_eq!(agent.answer(&["clean"], gateway.port()).status, 0);
    let api = agent.get("/v1/openapi.json").json();
    for path in ["/v1/ports", "/v1/ports/{port}/clean", "/v1/events", "/v1/status", "/metrics", "/healthz"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    assert!(api["components"]["schemas"]["CleanReport"]["properties"]["outcome"].is_object());
    let metrics = agent.get("/metrics");
    assert!(metrics.head.contains("application/openmetrics-text"));
    for part in ["gatewatch_cleans_total{outcome=\"cleaned\"", "gatewatch_ended_processes_total 1", "# EOF"] {
        assert!(metrics.body.contains(part), "{part}: {}", metrics.body);
    }
    let status = agent.get("/v1/status").json();
    assert_eq!(status["backend"], "ebpf");
    assert_eq!(status["ports"][0], gateway.port());
    assert_eq!(status["degraded"], Value::Array(Vec::new()));
}

fn privileges() {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let status = agent.get("/v1/status").json();
    assert_eq!(status["no_new_privileges"], true);
    let said = status["capabilities"].as_array().unwrap().len();
    let text = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
    assert_eq!(set("CapEff:").count_ones(), u32::try_from(said).unwrap());
    assert_eq!((set("CapEff:"), set("CapInh:"), set("CapAmb:")), (set("CapPrm:"), 0, 0));
    assert_eq!(field("NoNewPrivs:"), "1");
    // CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_DAC_OVERRIDE, CAP_SETUID
    for gone in [16, 17, 1, 7] {
        assert_eq!((set("CapEff:") | set("CapBnd:")) >> gone & 1, 0, "capability {gone}");
    }
}

fn reload() {
    let [first, second] = [(); 2].map(|()| Part::gateway().on_port(unused_port()).start());
    let agent = Agent::watching(&[(first.port(), "")]);
    assert_eq!(agent.get(&format!("/v1/ports/{}", second.port())).status, 404);
    agent.reconfigure(&config(&[(second.port(), "")]));
    until("the new port is watched", || agent.get(&format!("/v1/ports/{}", second.port())).status == 200);
    assert_eq!(agent.answer(&["owners"], second.port()).owner(second.pid())["identity"], "match");
    assert_eq!(agent.post(&format!("/v1/ports/{}/clean", first.port()), "").status, 404);
    assert!(first.is_alive());
    let mut events = agent.events("");
    events.up_to("ready");
    second.ask_to_end();
    assert_eq!(events.line()["event"], "release");
    // given a configuration that is wrong, the old one goes on
    agent.reconfigure("[[watch]]\nport = 0\n");
    until("the agent has said so", || agent.log().contains("the old one goes on"));
    assert_eq!(agent.get(&format!("/v1/ports/{}", second.port())).status, 200);
}

fn finishes() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:400"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "10s"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    agent.signal(Signal::SIGTERM);
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(agent.end(), Some(0));
    assert!(gateway.is_gone());
}

fn death() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "1m"], gateway.port()).spawn();
    let mut watching = agent.ask(&["watch"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    assert!(watching.goes_on());
    agent.signal(Signal::SIGKILL);
    agent.end();
    for running in [waiting, watching] {
        let answer = running.finish();
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.err.contains("went away"), "{answer:?}");
    }
    assert!(gateway.is_alive());
}

fn second() {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let answer = Gatewatch::plain(&["agent", "--socket", agent.socket().to_str().unwrap()]);
    assert_eq!(answer.status, 1);
    assert!(answer.err.contains("another agent answers there"), "{answer:?}");
    assert_eq!(agent.get("/healthz").status, 200);
}

fn leftover() {
    let mut agent = Agent::watching(&[(unused_port(), "")]);
    agent.replace();
    assert_eq!(agent.get("/healthz").status, 200);
    // but a file of that name is somebody's
    let file = tempfile::NamedTempFile::new().unwrap();
    let answer = Gatewatch::plain(&["agent", "--socket", file.path().to_str().unwrap()]);
    assert_eq!(answer.status, 1, "{answer:?}");
    assert!(file.path().exists());
}

fn managed() {
    let port = unused_port();
    let managed = Managed::start(&config(&[(port, "")]));
    let ready = managed.notice("READY=1");
    assert!(ready.contains(&format!("STATUS=watching {port} by ebpf")), "{ready}");
    assert_eq!(managed.get("/healthz").status, 200);
    managed.notice("WATCHDOG=1");
    managed.notice("WATCHDOG=1");
    managed.signal(Signal::SIGHUP);
    managed.notice("RELOADING=1");
    managed.notice("READY=1");
    managed.signal(Signal::SIGTERM);
    managed.notice("STOPPING=1");
}

fn own_agent() {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let roots = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::as_nobody_with(&config(&[(gateway.port(), ""), (roots.port(), "")]));
    let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
    crate::clean::assert_cleaned(&answer, &gateway);
    // but it can do no more than the user could
    let answer = agent.ask(&["clean"], roots.port()).as_nobody().run();
    assert_ne!(answer.status, 0, "{answer:?}");
    assert!(roots.is_alive());
}

fn bad_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (text, said) in [
        ("[[watch]]\nprot = 1\n", "did you mean `port`?"),
        ("[agent]\nsokcet = \"/x\"\n", "did you mean `socket`?"),
        ("[agent]\ngroup = \"no-such-group\"\n", "no-such-group"),
        ("[[watch]]\nport = 5\nclean = { users = [\"no-such-user\"] }\n", "no-such-user"),
        ("[[watch]]\nport = 5\nclean = { user = [\"root\"] }\n", "did you mean `users`?"),
        ("[[watch]]\nport = 5\nidentity = \"nothing\"\n", "nothing"),
    ] {
        std::fs::write(&file, text).unwrap();
        for more in [&["--check-config"][..], &[]] {
            let answer = Gatewatch::new(&["agent", "--config", file.to_str().unwrap()]).with(more).run();
            assert_eq!(answer.status, 2, "{text}: {answer:?}");
            assert!(answer.err.contains(said), "{text}: {answer:?}");
        }
    }
    std::fs::write(&file, "[[watch]]\nport = 5\n").unwrap();
    let answer = Gatewatch::plain(&["agent", "--check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(answer.status, 0, "{answer:?}");
}

fn absent() {
    let port = unused_port().to_string();
    for command in [&["owners"][..], &["clean"], &["watch"], &["wait", "free"]] {
        let answer = Gatewatch::new(command).with(&[
            "-p",
            &port,
            "--agent",
            "only",
            "--socket",
            "/nowhere/agent.sock",
        ]);
        let answer = answer.run();
        assert_eq!(answer.status, 6, "{answer:?}");
        assert!(answer.err.contains("no agent answers at /nowhere/agent.sock"), "{answer:?}");
    }
}
