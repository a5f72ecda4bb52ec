//! The host agent's answers: what it knows, whom it serves, and what it refuses.

use gatewatch_tests::{Agent, Answer, Backend, Gatewatch, Part, config, unused_port};
use serde_json::Value;

scenario!(it_answers_who_owns_a_port, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["owners"], gateway.port());
    assert_eq!(answer.json()["backend"], "agent");
    let own = Gatewatch::on(Backend::Ebpf, &["owners"], gateway.port()).run();
    let owner = |answer: &Answer| {
        let mut owner = answer.owner(gateway.pid()).clone();
        // It is older at the second answer.
        assert!(owner.as_object_mut().unwrap().remove("age_ms").unwrap().is_u64());
        owner
    };
    assert_eq!(owner(&answer), owner(&own));
    let ports = agent.get("/v1/ports").json();
    assert_eq!(ports["ports"][0]["port"], gateway.port());
    assert_eq!(ports["ports"][0]["held"], true);
});

scenario!(it_lists_every_port_that_is_held, needs(Bpf), || {
    // given a watched port, one that is not watched, and a UDP port
    let [watched, other] = [(); 2].map(|()| Part::other().on_port(unused_port()).start());
    let udp = Part::other().with(&["--udp"]).on_port(unused_port()).start();
    let agent = Agent::watching(&[(watched.port(), "")]);
    // then all are told as `list` tells them
    let answer = agent.get("/v1/sockets");
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (actor, protocol) in [(&watched, "tcp"), (&other, "tcp"), (&udp, "udp")] {
        let is_it = |line: &&Value| line["port"] == actor.port() && line["protocol"] == protocol;
        let line = lines.iter().find(is_it).unwrap();
        assert_eq!(line["owners"][0]["pid"], actor.pid(), "{line}");
        assert_eq!(line["backend"], "agent");
    }
});

scenario!(list_asks_the_agent_as_the_other_commands_do, needs(Bpf), || {
    // given an owner whom a user can't see, and an agent that this user may ask
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::with(&format!("[agent]\ngroup = \"65534\"\n{}", config(&[(unused_port(), "")])));
    let socket = agent.socket();
    let list = |socket: &str, choice: &str| {
        Gatewatch::new(&["list", "--format", "json", "--socket", socket, "--agent", choice]).as_nobody().run()
    };
    let socket = socket.to_str().unwrap();
    let pid_in = |answer: &Answer| {
        let lines = answer.lines();
        let line = lines.iter().find(|line| line["port"] == owner.port());
        line.map(|line| (line["backend"].clone(), line["owners"][0]["pid"].clone()))
    };
    // then the list has what the agent sees
    for choice in ["auto", "only"] {
        let answer = list(socket, choice);
        assert_eq!(pid_in(&answer), Some(("agent".into(), owner.pid().into())), "{answer:?}");
        assert!(answer.err.is_empty(), "{answer:?}");
    }
    assert_eq!(pid_in(&list(socket, "never")), Some(("poll".into(), Value::Null)));
    // and where the agent must answer and does not, there is none
    let answer = list("/nonexistent/agent.sock", "only");
    assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
    assert!(answer.err.contains("no agent answers"), "{answer:?}");
});

scenario!(the_agents_list_is_no_answer_for_another_namespace, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), "")]);
    let socket = agent.socket();
    // when `list` runs in another network namespace
    let list = |choice: &str| {
        let words = ["list", "--format", "json", "--socket", socket.to_str().unwrap(), "--agent", choice];
        let words = Gatewatch::new(&words).words();
        std::process::Command::new("unshare").arg("--net").args(words).output().unwrap()
    };
    // then it has what is held there, which is nothing
    let auto = list("auto");
    assert!(auto.status.success() && auto.stdout.is_empty(), "{auto:?}");
    let only = list("only");
    assert_eq!((only.status.code(), only.stdout.is_empty()), (Some(6), true), "{only:?}");
    assert!(String::from_utf8_lossy(&only.stderr).contains("its own network namespace alone"), "{only:?}");
});

scenario!(nothing_is_said_of_an_agent_that_has_no_part_in_the_answer, needs(Bpf), || {
    // given an agent that watches another port, and reads for root alone
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(unused_port(), "")]);
    // then a command does without it, as if there were none
    let (socket, port) = (agent.socket(), owner.port().to_string());
    let socket = socket.to_str().unwrap();
    let answer = Gatewatch::new(&["owners", "--format", "json", "--socket", socket, "-p", &port]).run();
    assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{answer:?}");
    assert_eq!(answer.owner(owner.pid())["pid"], owner.pid());
    // and a user who may not read hears what polling loses, and no more
    let list = Gatewatch::new(&["list", "--socket", socket]).as_nobody().run();
    assert_eq!((list.status, list.err.lines().count()), (0, 1), "{list:?}");
    assert!(list.err.contains("ports are polled, so"), "{list:?}");
    // unless details are asked for
    let verbose = Gatewatch::new(&["owners", "-v", "--socket", socket, "-p", &port]).run();
    assert!(verbose.err.contains("is not watched"), "{verbose:?}");
});

scenario!(it_sees_who_came_later_and_who_inherited, needs(Bpf), || {
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
});

scenario!(it_cleans_for_root, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean"], gateway.port());
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "agent");
    assert_eq!(answer.json()["released"]["proof"], "ebpf");
    // and it says who asked, what was decided, and why
    for said in [&gateway.pid().to_string(), "uid=0", "cleaned", "its title is openclaw-gateway"] {
        assert!(agent.log().contains(said), "{said}: {}", agent.log());
    }
});

scenario!(it_cleans_for_a_user_whom_the_configuration_names, needs(Bpf), || {
    for allowed in ["users = [\"nobody\"]", "users = [\"65534\"]", "groups = [\"65534\"]"] {
        let gateway = Part::gateway().on_port(unused_port()).start();
        let agent = Agent::watching(&[(gateway.port(), &format!("clean = {{ {allowed} }}"))]);
        let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
        crate::clean::assert_cleaned(&answer, &gateway);
    }
});

scenario!(it_cleans_for_no_other_user, needs(Bpf), || {
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
});

scenario!(it_answers_nobody_outside_of_its_group, needs(Bpf), || {
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
});

scenario!(a_command_that_need_not_ask_goes_on_without_it, needs(Bpf), || {
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
});

scenario!(a_caller_cannot_widen_what_may_be_ended, needs(Bpf), || {
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
});

scenario!(an_owner_that_does_not_match_is_left_alone, needs(Bpf), || {
    let other = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(other.port(), "")]);
    let answer = agent.answer(&["clean"], other.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(other.is_alive());
});

scenario!(a_port_that_is_not_watched_is_left_alone, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(unused_port(), "")]);
    let reply = agent.post(&format!("/v1/ports/{}/clean", gateway.port()), "");
    assert_eq!(reply.status, 404, "{reply:?}");
    let answer = agent.answer(&["clean"], gateway.port());
    assert_eq!(answer.status, 6, "{answer:?}");
    assert!(gateway.is_alive());
});

scenario!(the_callers_ancestors_are_never_ended, needs(Bpf), || {
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
});

scenario!(the_callers_ancestors_outside_of_its_pid_namespace_are_never_ended, needs(Bpf), || {
    // given a gateway below which root, or a user who may ask, asks from a new pid namespace, where the gateway has no number, with
    // the /proc of before or one of its own
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
    for more in ["", "--mount-proc", as_nobody] {
        let port = unused_port();
        let agent = Agent::watching(&[(port, "clean = { users = [\"nobody\"] }")]);
        // and another one beside it
        let stale = Part::gateway().on(([127, 0, 0, 2], port).into()).start();
        let outer = format!("unshare --pid --fork --kill-child {more}");
        let mut words: Vec<String> = outer.split_whitespace().map(str::to_owned).collect();
        words.extend(agent.ask(&["clean"], port).words());
        let mut gateway = Part::gateway().on_port(port).with(&["--hops", "2"]).running(&words).start();
        let lines = [gateway.line(), gateway.line()];
        crate::exclusion::assert_spared_as(&lines, gateway.pid(), "requester");
        // then the other one alone is ended
        assert!(gateway.is_alive());
        assert!(stale.is_gone(), "{lines:?}");
    }
});

scenario!(a_protected_process_is_never_ended, needs(Bpf), || {
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
});

scenario!(a_dry_run_signals_nobody, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean", "--dry-run"], gateway.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"));
    assert!(gateway.is_alive());
});

scenario!(a_caller_in_a_network_namespace_has_its_own_port_cleaned, needs(Bpf), || {
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
});

scenario!(bad_requests_are_refused_with_the_mend, needs(Bpf), || {
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
        ("GET", "/v1/ports/%ff".to_owned(), "", 400),
        ("GET", "/v1/ports/%ff/wait?until=free".to_owned(), "", 400),
        ("POST", "/v1/ports/%ff/clean".to_owned(), "", 400),
        ("GET", format!("/v1/ports/{port}?netns=1&netns=1"), "", 400),
        ("GET", "/v1/sockets?netns=1&netns=2".to_owned(), "", 400),
        ("GET", format!("/v1/ports/{port}/wait?until=free&until=listening"), "", 400),
        ("GET", format!("/v1/ports/{port}/wait?until=free&timeout_ms=1&timeout_ms=1"), "", 400),
        ("GET", "/v1/events?after=1-1&after=1-2".to_owned(), "", 400),
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
        assert!(reply.head.contains("application/problem+json"), "{method} {path}: {reply:?}");
        assert!(!reply.json()["mend"].as_str().unwrap().is_empty(), "{reply:?}");
    }
    assert!(gateway.is_alive());
});

scenario!(cleans_without_end_are_refused, needs(Bpf), || {
    let gateway = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "clean = { users = [\"nobody\"] }")]);
    let path = format!("/v1/ports/{}/clean", gateway.port());
    assert_eq!(agent.as_nobody("POST", &path, "{\"dry_run\":true}").status, 200);
    // All at once, because the limit is one of so many a second.
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n[");
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut connection = agent.connect_as(65_534);
    assert!(connection.write(&(request.repeat(100) + last)));
    let replies = connection.rest().body;
    assert!(replies.contains("HTTP/1.1 429 "), "{replies}");
    // and another user is served all the same
    assert_eq!(agent.post(&path, "{\"dry_run\":true}").status, 200);
});
