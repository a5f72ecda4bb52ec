//! The host agent among clients that mean it harm, most of them other users: it goes on, and serves the rest.

use gatewatch_tests::{
    Agent, Connection, Gatewatch, Part, as_user, config, in_own_user_namespace, patience, send, until,
    unused_port,
};
use nix::sys::signal::Signal;

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// A clean of a port.
fn cleaning(port: u16) -> String {
    format!("/v1/ports/{port}/clean")
}

/// Lets the user `nobody` have the port cleaned.
const FOR_NOBODY: &str = "clean = { users = [\"nobody\"] }";

/// A clean whose answer is not waited for.
fn begin_clean(connection: &mut Connection, port: u16, body: &str) {
    let (path, length) = (cleaning(port), body.len());
    assert!(connection.write(&format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )));
}

scenario!(a_refusal_does_not_wait_for_the_body, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    // also for a port that is not watched: the answers do not differ
    for port in [port, unused_port()] {
        let mut connection = agent.connect_as(NOBODY);
        assert!(connection.withhold_body(&cleaning(port)));
        let reply = connection.rest();
        assert_eq!(reply.status, 403, "{reply:?}");
    }
});

scenario!(a_body_that_never_comes_is_waited_for_but_not_for_long, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), FOR_NOBODY)]);
    let mut connection = agent.connect_as(NOBODY);
    assert!(connection.withhold_body(&cleaning(gateway.port())));
    let reply = connection.rest();
    assert_eq!(reply.status, 408, "{reply:?}");
    assert!(reply.head.contains("application/problem+json"), "{reply:?}");
    assert!(gateway.is_alive());
});

scenario!(connections_of_many_users_do_not_keep_root_out, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let named: Vec<String> = (2001..2009).map(|uid| format!("\"{uid}\"")).collect();
    let may = format!("clean = {{ users = [{}] }}", named.join(", "));
    let agent = Agent::watching(&[(gateway.port(), &may)]);
    let mut open = Vec::new();
    for (uids, each) in [(2001..2009, 130), (3001..3041, 10)] {
        for uid in uids.flat_map(|uid| (0..each).map(move |_| uid)) {
            let mut connection = agent.connect_as(uid);
            connection.withhold_body(&cleaning(gateway.port()));
            open.push(connection);
        }
    }
    // On a busy machine it takes a while to turn them all away.
    agent.wait_until_ready();
    let answer = agent.answer(&["clean"], gateway.port());
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "agent");
});

scenario!(users_without_rights_do_not_keep_others_out, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), FOR_NOBODY)]);
    let mut open: Vec<Connection> = Vec::new();
    for uid in 3001..3100 {
        open.extend((0..20).map(|_| agent.connect_as(uid)));
    }
    agent.wait_until_ready();
    let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
    crate::clean::assert_cleaned(&answer, &gateway);
});

scenario!(a_look_that_fails_is_told_and_taken_again, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut known = agent.connect_as(0);
    assert_eq!(known.ask_and_stay("/healthz").status, 200);
    // given that events are lost, and that no descriptor is left for the look that stands in for them
    send(agent.pid(), Signal::SIGSTOP);
    let _churner = Part::other().on_port(port).with(&["--churn", "5000"]).start();
    agent.limit_descriptors(4);
    send(agent.pid(), Signal::SIGCONT);
    // then it goes on, and says so
    let mut degraded = || known.ask_and_stay("/v1/status").json()["degraded"].clone();
    until("it says that it is blind", || degraded().to_string().contains("may be out of date"));
    assert!(agent.log().contains("can't be looked at"), "{}", agent.log());
    // and what it can't know, it does not answer
    let reply = known.ask_and_stay(&format!("/v1/ports/{port}"));
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.head.to_lowercase().contains("retry-after"), "{reply:?}");
    // and it looks again once it can
    agent.limit_descriptors(1024);
    until("it sees again", || {
        agent.get("/v1/status").json()["degraded"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(!agent.answer(&["owners"], port).json()["owners"].as_array().unwrap().is_empty());
});

scenario!(root_is_served_when_descriptors_are_used_up, needs(Bpf), || {
    let named: Vec<String> = (2001..2005).map(|uid| format!("\"{uid}\"")).collect();
    let may = format!("clean = {{ users = [{}] }}", named.join(", "));
    for lower_before in [true, false] {
        let gateway = Part::gateway().on_port(unused_port()).start();
        let agent = Agent::watching(&[(gateway.port(), &may)]);
        if lower_before {
            agent.limit_descriptors(160);
        }
        let open: Vec<Connection> = (2001..2005)
            .flat_map(|uid| (0..100).map(move |_| uid))
            .map(|uid| agent.connect_as(uid))
            .collect();
        // also when the limit is lowered to less than are in use
        agent.limit_descriptors(160);
        agent.wait_until_ready();
        let answer = agent.answer(&["clean"], gateway.port());
        crate::clean::assert_cleaned(&answer, &gateway);
        assert_eq!(answer.json()["backend"], "agent");
        drop(open);
    }
});

scenario!(it_raises_the_limit_of_descriptors_at_its_start, needs(Bpf), || {
    let agent = Agent::with_descriptors(300, 2000, &config(&[(unused_port(), "")]));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers, [2000, 2000], "{line}");
});

scenario!(a_user_has_few_cleans_under_way_at_once, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let agent = Agent::watching(&[(gateway.port(), FOR_NOBODY)]);
    let slow = "{\"term_timeout_ms\":50000}";
    let mut first = agent.connect_as(NOBODY);
    begin_clean(&mut first, gateway.port(), slow);
    until("the first clean has signalled", || agent.log().contains("asked to end"));
    let mut waiting: Vec<Connection> = (0..3).map(|_| agent.connect_as(NOBODY)).collect();
    waiting.iter_mut().for_each(|connection| begin_clean(connection, gateway.port(), slow));
    let dry_run = || {
        agent.as_nobody(
            "POST",
            &cleaning(gateway.port()),
            "{\"dry_run\":true,\"term_timeout_ms\":0,\"kill_timeout_ms\":0,\"free_timeout_ms\":0}",
        )
    };
    until("a fifth is refused", || dry_run().status == 429);
    // another user's are not
    let root = agent.answer(&["clean", "--dry-run", "--term-timeout", "1ms"], gateway.port());
    assert_eq!(root.outcome(), "timed_out", "{root:?}");
    // when the clients of those that have signalled nobody go, their cleans end
    drop(waiting);
    std::thread::sleep(std::time::Duration::from_millis(200));
    until("there is room for others", || {
        let status = dry_run().status;
        if status != 200 {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        status == 200
    });
    // and the one that has signalled goes on without its client
    drop(first);
    assert!(gateway.is_alive());
    let again = agent.answer(
        &["clean", "--term-timeout", "1ms", "--kill-timeout", "1ms", "--free-timeout", "1ms"],
        gateway.port(),
    );
    assert_eq!(again.outcome(), "timed_out", "{again:?}");
});

scenario!(a_clean_of_a_user_waits_for_a_minute_at_most, needs(Bpf), || {
    const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
    let stubborn = || Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let (users, roots) = (stubborn(), stubborn());
    let agent = Agent::watching(&[(users.port(), FOR_NOBODY), (roots.port(), "")]);
    // given a user, and root, who want their cleans to wait for ten
    let ten = "{\"term_timeout_ms\":600000}";
    let begun = std::time::Instant::now();
    let (mut of_user, mut of_root) = (agent.connect_as(NOBODY), agent.connect_as(0));
    begin_clean(&mut of_user, users.port(), ten);
    begin_clean(&mut of_root, roots.port(), ten);
    until("both have signalled", || agent.log().matches("asked to end").count() == 2);
    // then the user's goes on after one, as it would if nobody waited for it
    assert!(users.end_within(MINUTE + gatewatch_tests::PATIENCE), "{}", agent.log());
    assert!(begun.elapsed() >= MINUTE, "{:?}", begun.elapsed());
    let reply = of_user.rest();
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"cleaned".into()), "{reply:?}");
    // and root's does not
    assert!(roots.is_alive());
});

scenario!(a_clean_waits_for_its_turn_within_its_own_time, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let agent = Agent::watching(&[(gateway.port(), FOR_NOBODY)]);
    let mut slow = agent.connect_as(NOBODY);
    begin_clean(&mut slow, gateway.port(), "{\"term_timeout_ms\":60000}");
    until("the slow clean has signalled", || agent.log().contains("asked to end"));
    let short = ["--term-timeout", "50ms", "--kill-timeout", "50ms", "--free-timeout", "50ms"];
    let answer = agent.ask(&["clean"], gateway.port()).with(&short).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert!(gateway.is_alive(), "neither clean has come to an end");
});

scenario!(a_clean_that_has_signalled_nobody_ends_with_its_client, needs(Bpf), || {
    // given a port that only connections in TIME_WAIT keep, for a minute
    let mut server = Part::other().on_port(unused_port()).with(&["--no-reuse", "--accept-and-close"]).start();
    let port = server.port();
    let mut client = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Read::read_to_end(&mut client, &mut Vec::new()).unwrap();
    drop(client);
    assert_eq!(server.line(), "closed");
    server.end();
    until("the server has ended", || server.is_gone());
    let agent = Agent::watching(&[(port, FOR_NOBODY)]);
    let short = ["--term-timeout", "20ms", "--kill-timeout", "20ms", "--free-timeout", "20ms"];
    let reason = || agent.ask(&["clean"], port).with(&short).run().json()["reason"].clone();
    until("only those keep it", || reason() == "time_wait");
    // and a clean that waits for it, whose client then goes
    let mut waiting = agent.connect_as(NOBODY);
    begin_clean(&mut waiting, port, "{\"free_timeout_ms\":60000}");
    until("another does not get its turn", || reason().is_null());
    drop(waiting);
    until("another gets its turn", || reason() == "time_wait");
});

scenario!(an_unknown_parameter_is_refused_and_not_ignored, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let reply = agent.post(&format!("{}?dry_run=true", cleaning(port)), "");
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(gateway.is_alive());
    for path in [
        "/v1/ports".to_owned(),
        format!("/v1/ports/{port}"),
        format!("/v1/ports/{port}/wait"),
        "/v1/events".to_owned(),
        "/v1/history".to_owned(),
        "/v1/status".to_owned(),
        "/v1/openapi.json".to_owned(),
        "/metrics".to_owned(),
        "/healthz".to_owned(),
    ] {
        let reply = agent.get(&format!("{path}?verbose=1"));
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
    }
});

scenario!(more_than_64_processes_can_be_protected_by_the_command_alone, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let pids = |count: u32| -> Vec<String> {
        std::iter::once(gateway.pid())
            .chain((1..count).map(|other| 4_000_000 + other))
            .map(|pid| pid.to_string())
            .collect()
    };
    let body = |count| format!("{{\"protect\":[{}]}}", pids(count).join(","));
    let reply = agent.post(&cleaning(gateway.port()), &body(65));
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(agent.post(&cleaning(gateway.port()), &body(64)).json()["outcome"], "held_by_protected");
    let pids = pids(65);
    let protect: Vec<&str> = pids.iter().flat_map(|pid| ["--protect", pid.as_str()]).collect();
    let only = agent.ask(&["clean"], gateway.port()).with(&protect).run();
    assert_eq!(only.status, 2, "{only:?}");
    assert!(only.err.contains("64"), "{only:?}");
    let port = gateway.port().to_string();
    let socket = agent.socket();
    let auto =
        Gatewatch::new(&["clean", "--format", "json", "-p", &port, "--socket", socket.to_str().unwrap()]);
    let auto = auto.with(&protect).run();
    assert_eq!((auto.status, auto.outcome().as_str()), (4, "held_by_protected"), "{auto:?}");
    assert!(auto.err.contains("the agent is not asked"), "{auto:?}");
    assert!(gateway.is_alive());
});

scenario!(refusals_do_not_fill_the_log, needs(Bpf), || {
    const TIMES: usize = 2000;
    let agent = Agent::watching(&[(unused_port(), "")]);
    // given a user who connects again and again, and keeps as many connections as there may be
    let mut open = Vec::new();
    for _ in 0..TIMES {
        open.push(agent.connect_as(NOBODY));
        if open.len() > 20 {
            open.pop();
        }
    }
    until("the rest is counted", || agent.log().contains("left out"));
    let told = agent.log().lines().filter(|line| line.contains("too many connections")).count();
    assert!(told > 0 && told < TIMES / 2, "{told} lines for {TIMES} connections");
});

scenario!(what_a_client_chose_is_not_in_the_log, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, FOR_NOBODY)]);
    let long = "9".repeat(50_000);
    let unknown = format!("{}?{long}=1", cleaning(port));
    for path in [format!("/v1/ports/{long}/clean"), unknown] {
        assert_eq!(agent.as_nobody("POST", &path, "").status, 400);
    }
    let key = format!("{{\"{}\":1}}", "9".repeat(10_000));
    assert_eq!(agent.as_nobody("POST", &cleaning(port), &key).status, 400);
    let log = agent.log();
    assert_eq!(log.matches("a clean is refused").count(), 3, "{log}");
    assert!(log.lines().all(|line| line.len() < 1000), "{log}");
    // and of what the limits refuse, nothing is
    let more = (0..50).filter(|_| agent.as_nobody("POST", "/v1/ports/0/clean", "").status == 429).count();
    assert!(more > 0);
    assert!(!agent.log().contains("too many requests"));
});

scenario!(a_port_that_is_named_again_is_sent_once, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let query = format!("port={}&", gateway.port()).repeat(2000);
    let lines = agent.events(&query).up_to("ready");
    assert_eq!(lines.len(), 2, "{lines:?}");
});

scenario!(a_connection_counts_as_long_as_the_process_that_made_it_runs, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let ask = |connection: &mut Connection, path: &str| as_user(NOBODY, || connection.ask_and_stay(path));
    let of_port = format!("/v1/ports/{port}");
    // given a connection of root's that another user has
    let (mut connection, mut root) = agent.connect_by_child(|_| {});
    assert_eq!(ask(&mut connection, &of_port).status, 200);
    // when the process that made it has ended
    root.kill().unwrap();
    root.wait().unwrap();
    // then it is nobody's
    let wait = format!("{of_port}/wait?until=listening");
    for path in
        [&of_port, &wait, "/v1/ports", "/v1/sockets", "/v1/events", "/v1/history", "/v1/status", "/metrics"]
    {
        let reply = ask(&mut connection, path);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        assert!(reply.head.contains("application/problem+json"), "{path}: {reply:?}");
    }
    begin_clean(&mut connection, port, "");
    assert_eq!(connection.rest().status, 403);
    // also where it had ended before the agent took the connection
    send(agent.pid(), Signal::SIGSTOP);
    let (mut connection, mut root) = agent.connect_by_child(|_| {});
    root.kill().unwrap();
    root.wait().unwrap();
    send(agent.pid(), Signal::SIGCONT);
    assert_eq!(ask(&mut connection, &of_port).status, 403);
    assert!(gateway.is_alive());
});

scenario!(root_of_an_own_user_namespace_is_its_outer_user, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    // given a connection that such a root has made
    let (mut connection, _root) = agent.connect_by_child(in_own_user_namespace);
    let reply = connection.ask_and_stay(&format!("/v1/ports/{}", gateway.port()));
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("user 65534 may not read"), "{reply:?}");
    begin_clean(&mut connection, gateway.port(), "");
    let reply = connection.rest();
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("user 65534 may not have port"), "{reply:?}");
    assert!(gateway.is_alive());
});

scenario!(what_is_no_http_is_no_failure_of_the_agent, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let clean = cleaning(gateway.port());
    let long = "x".repeat(1_000_000);
    let many = "a: b\r\n".repeat(1000);
    let chunked = format!("POST {clean} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for text in [
        "\r\n\r\n\r\n\r\n \r\n\r\n",
        "\0\u{1}\u{2}\u{3}\r\n\r\n",
        "GET\r\n\r\n",
        "GET /v1/ports\r\n\r\n",
        "GET /v1/ports HTTP/9.9\r\n\r\n",
        "GET v1/ports HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /v1/po rts HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /\u{fe} HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /v1/ports HTTP/1.1\r\nho st: x\r\n\r\n",
        "GET /v1/ports HTTP/1.1\r\nhost\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        &format!("GET /v1/ports HTTP/1.1\r\nhost: {long}\r\n\r\n"),
        &format!("GET /v1/ports HTTP/1.1\r\n{many}\r\n"),
        &format!("{chunked}zz\r\n\r\n"),
        &format!("{chunked}ffffffffffffffffff\r\n{{}}"),
        &format!("{chunked}5\r\n{{}}\r\n0\r\n\r\n"),
        &format!("POST {clean} HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"),
        &format!("POST {clean} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{{}}"),
        &format!("POST {clean} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n"),
    ] {
        let mut connection = agent.connect_as(0);
        connection.write(text);
        connection.say_no_more();
        let reply = connection.rest();
        // One that was closed without an answer has no status.
        assert!(matches!(reply.status, 0 | 400 | 404 | 413 | 414 | 431), "{text:.80}: {reply:?}");
    }
    // then it lives, and has ended nobody
    assert_eq!(agent.get("/healthz").status, 200);
    assert!(gateway.is_alive());
});

scenario!(who_does_not_read_or_send_is_not_waited_for_at_the_end, needs(Bpf), || {
    // given a clean that takes its time
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:3000"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let mut cleaning_up = agent.connect_as(0);
    begin_clean(&mut cleaning_up, gateway.port(), "{\"term_timeout_ms\":15000}");
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    // and clients that do not read their answers, send no body, and no more than half of a head
    let [mut unread, mut bodiless, mut headless] = [(); 3].map(|()| agent.connect_as(0));
    let many = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    assert!(unread.write(&many) && bodiless.withhold_body(&cleaning(gateway.port())));
    assert!(headless.write("GET /healthz HTT"));
    until("the answers have begun", || unread.has_answered());
    // when the agent is told to end
    agent.signal(Signal::SIGTERM);
    // then their connections end while the clean goes on
    for connection in [&unread, &bodiless, &headless] {
        until("the connection is closed", || connection.is_closed());
    }
    assert!(gateway.is_alive() && !cleaning_up.has_answered());
    // and that is answered
    let reply = cleaning_up.rest();
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"cleaned".into()), "{reply:?}");
    assert_eq!(agent.end(), Some(0));
});

scenario!(waits_end_when_the_agent_is_told_to_end, needs(Bpf), || {
    let held = Part::other().on_port(unused_port()).start();
    let mut agent = Agent::watching(&[(held.port(), FOR_NOBODY)]);
    let mut waiting = agent.connect_as(0);
    let wait = format!("/v1/ports/{}/wait?until=free", held.port());
    assert!(waiting.write(&format!("GET {wait} HTTP/1.1\r\nhost: x\r\n\r\n")));
    // given others that are slow to send a body, a head, and nothing
    let mut slow: Vec<Connection> = (0..3).map(|_| agent.connect_as(NOBODY)).collect();
    slow[0].withhold_body(&cleaning(held.port()));
    slow[1].write("GET /healthz HTT");
    // The agent reads in the order of arrival, and has read the wait once it has answered others.
    (0..5).for_each(|_| assert_eq!(agent.get("/healthz").status, 200));
    agent.signal(Signal::SIGTERM);
    let reply = waiting.rest();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.head.to_lowercase().contains("retry-after"), "{reply:?}");
    let begun = std::time::Instant::now();
    assert_eq!(agent.end(), Some(0));
    // 6 s, or more on a machine that is emulated; a client has 10 s for its head.
    assert!(begun.elapsed() < patience() * 3 / 10, "slow clients held it up");
});

scenario!(a_waiting_command_goes_on_when_its_agent_ends, needs(Bpf), || {
    for only in [false, true] {
        let mut held = Part::other().on_port(unused_port()).start();
        let mut agent = Agent::watching(&[(held.port(), "")]);
        let mut wait = agent.ask(&["wait", "free"], held.port());
        if !only {
            let port = held.port().to_string();
            let socket = agent.socket();
            wait = Gatewatch::new(&["wait", "free", "--format", "json", "-p", &port])
                .with(&["--socket", socket.to_str().unwrap()]);
        }
        let mut wait = wait.spawn();
        agent.wait_for_client(wait.pid());
        agent.signal(Signal::SIGTERM);
        agent.end();
        if only {
            // the next one is asked, if it comes in time
            agent.replace();
        }
        assert!(wait.is_running());
        held.end();
        let answer = wait.finish();
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
        let expected = if only { "agent" } else { "ebpf" };
        assert_eq!(answer.json()["backend"], expected, "{answer:?}");
    }
});

scenario!(a_watching_command_goes_on_when_its_agent_ends, needs(Bpf), || {
    let mut held = Part::other().on_port(unused_port()).start();
    let mut agent = Agent::watching(&[(held.port(), "")]);
    let port = held.port().to_string();
    let socket = agent.socket();
    let mut watch = Gatewatch::new(&["watch", "--format", "json", "-p", &port])
        .with(&["--socket", socket.to_str().unwrap()])
        .watch();
    assert_eq!(watch.held[0]["backend"], "ebpf");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(), Some(0));
    let lines = watch.up_to("ready");
    assert_eq!(crate::watch::events(&lines), ["lost", "held", "ready"], "{lines:?}");
    held.end();
    assert_eq!(crate::watch::events(&watch.up_to("free")), ["release", "free"]);
});

scenario!(it_is_described_as_it_is, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let api = agent.get("/v1/openapi.json").json();
    let kind = |path: &str| match path {
        "/v1/events" | "/v1/history" | "/v1/sockets" => "application/x-ndjson",
        "/metrics" => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "/healthz" => "text/plain; charset=utf-8",
        _ => "application/json",
    };
    for (path, operations) in api["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let kinds = response["content"].as_object().unwrap();
                let expected = if status == "200" { kind(path) } else { "application/problem+json" };
                assert!(kinds.contains_key(expected), "{path} {status}: {response}");
            }
        }
        // and what is said of a refusal is what comes
        let method = if operations["post"].is_object() { "POST" } else { "GET" };
        let real = path.replace("{port}", &port.to_string());
        let reply = agent.as_user(0, method, &format!("{real}?no-such=1"), "");
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(operations[method.to_lowercase()]["responses"]["400"].is_object(), "{path}");
    }
    let clean = &api["paths"]["/v1/ports/{port}/clean"]["post"];
    for status in ["403", "404", "408", "413", "429", "503"] {
        assert!(clean["responses"][status].is_object(), "{status}");
    }
    // a body may be missing, and is not null
    assert_ne!(clean["requestBody"]["required"], true);
    let body = clean["requestBody"]["content"]["application/json"]["schema"].to_string();
    assert!(!body.contains("null"), "{body}");
    assert_eq!(agent.post(&cleaning(unused_port()), "null").status, 404);
    assert_eq!(agent.post(&cleaning(port), "null").status, 400);
    let port = &clean["parameters"][0]["schema"]["anyOf"];
    assert_eq!((&port[0]["minimum"], &port[0]["maximum"]), (&1.into(), &65535.into()), "{port}");
    assert_eq!(port[1]["type"], "string", "{port}");
    let protect = &api["components"]["schemas"]["CleanRequest"]["properties"]["protect"];
    assert_eq!(protect["maxItems"], 64, "{protect}");
    assert!(gateway.is_alive());
});

scenario!(an_ancestor_that_has_ended_is_forgotten, needs(Bpf), || {
    // given an agent in a pid namespace of its own, whose parent has ended, and a gateway with that parent's pid
    let port = unused_port();
    let folder = gatewatch_tests::folder();
    let at = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("config.toml"), config(&[(port, "")])).unwrap();
    let program = gatewatch_tests::programs();
    let script = format!(
        "cd {at}; G={program}/gatewatch; \
         bash -c '\"$0\" agent --config config.toml --socket agent.sock 2>log & echo $$ >parent; \
         until \"$0\" owners -p {port} --agent only --socket agent.sock >/dev/null 2>&1; do :; done' \"$G\"; \
         parent=$(cat parent); mkfifo stdin; \
         echo $((parent - 1)) >/proc/sys/kernel/ns_last_pid; \
         (exec -a openclaw-gateway {program}/actor --on 127.0.0.1:{port} >ready <>stdin) & \
         echo $! >gateway; until grep -q ready ready; do :; done; \
         \"$G\" clean -p {port} --format json --agent only --socket agent.sock >answer; kill $(cat gateway) 2>/dev/null",
        program = program.display(),
    );
    let status = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", &script])
        .status()
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(read("parent"), read("gateway"), "the pid was not used again: {status}");
    let answer: serde_json::Value = serde_json::from_str(&read("answer")).unwrap();
    assert_eq!(answer["outcome"], "cleaned", "{answer} {}", read("log"));
});
