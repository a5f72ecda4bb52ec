//! What keeps a port though no process holds it: connections in TIME_WAIT, and clients whose local port it is.

use std::io::Read;
use std::net::TcpStream;

use gatewatch_tests::{Actor, Agent, Backend, Gatewatch, Part, can_bind, unused_port};
use serde_json::Value;

use crate::clean::clean;
use crate::differ;
use crate::restart::{end, gateway_command, restart};
use crate::wait::wait;

/// A port of a server that did not set `SO_REUSEADDR` and has ended after it closed a connection.
pub(super) fn lingers_without_reuse() -> std::net::SocketAddr {
    has_closed_a_connection(&["--no-reuse"]).address()
}

/// A server that goes on after it has closed a connection.
fn has_closed_a_connection(options: &[&str]) -> Actor {
    let server = Part::gateway().on_port(unused_port()).with(&["--accept-and-close"]);
    let mut server = server.with(options).start();
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    assert_eq!(server.line(), "closed");
    server
}

/// The reason, and how long the port stays taken.
fn why(json: &Value) -> (Value, u64) {
    (json["reason"].clone(), json["free_in_ms"].as_u64().unwrap())
}

scenario!(connections_in_time_wait_are_named_and_not_waited_for, |backend| {
    let address = lingers_without_reuse();
    let owners = Gatewatch::on(backend, &["owners"], address.port()).run().json();
    assert_eq!(owners["owners"], Value::from([0; 0]));
    let (reason, free_in) = why(&owners);
    assert!(reason == "time_wait" && free_in > 0, "{owners}");
    // where the kernel's timer takes longer than the time for the port
    let answer = clean(backend, address.port(), &["--free-timeout", "2s"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let (reason, free_in) = why(&answer.json());
    assert!(reason == "time_wait" && free_in > 2000, "{answer:?}");
    assert!(answer.json()["elapsed_us"].as_u64() < Some(2_000_000), "{answer:?}");
    // and people are told what takes them away
    let text = Gatewatch::plain(&["clean", "--backend", backend.name(), "-p", &address.port().to_string()]);
    assert!(text.out.contains("--drop-time-wait"), "{text:?}");
});

scenario!(a_restart_ends_no_server_whose_connections_would_keep_the_port, needs(Root), |backend| {
    let server = has_closed_a_connection(&["--no-reuse"]);
    let command = gateway_command(server.port(), "60000");
    let answers = [
        restart(backend, server.port(), &[], &command),
        restart(backend, server.port(), &["--dry-run"], &command),
        // however long it could take to end: it may end at once
        restart(backend, server.port(), &["--term-timeout", "5m"], &command),
        clean(backend, server.port(), &["--dry-run"]),
    ];
    for answer in answers {
        assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
        let (reason, free_in) = why(&answer.json());
        assert!(reason == "time_wait" && free_in > 3000, "{answer:?}");
        assert_eq!(answer.owner(server.pid())["action"], "would_kill", "{answer:?}");
        assert!(server.is_alive());
    }
    // and one that set SO_REUSEADDR is restarted
    let server = has_closed_a_connection(&[]);
    let answer = restart(backend, server.port(), &[], &gateway_command(server.port(), "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    end(backend, server.port());
    // and one on another address than the connections have
    let lingering = lingers_without_reuse();
    let beside = Part::gateway().on(([127, 0, 0, 2], lingering.port()).into()).with(&["--no-reuse"]).start();
    let answer = clean(backend, beside.port(), &["--dry-run"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"), "{answer:?}");
});

scenario!(the_agent_names_what_keeps_a_port_that_nobody_owns, needs(Bpf), || {
    let server = Part::other().on_port(unused_port()).start();
    let to = server.address().to_string();
    let (lingering, client) = (lingers_without_reuse().port(), unused_port());
    let agent = Agent::watching(&[(lingering, ""), (client, "")]);
    let owners = agent.answer(&["owners"], lingering).json();
    let (reason, free_in) = why(&owners);
    assert!(reason == "time_wait" && free_in > 0, "{owners}");
    // and a client that the agent has seen bind
    let client = Part::other().on_port(client).with(&["--no-reuse", "--connect", &to]).start();
    let answer = agent.ask(&["owners", "--exit-code"], client.port()).run();
    assert_eq!((answer.status, &answer.json()["reason"]), (0, &"bound_client".into()), "{answer:?}");
    assert!(client.is_alive());
});

scenario!(connections_in_time_wait_are_taken_away_where_asked, needs(Root), |backend| {
    let address = lingers_without_reuse();
    assert!(!can_bind(address));
    let answer = clean(backend, address.port(), &["--drop-time-wait"]);
    if answer.status == 6 && !differ::surely_drops_time_wait() {
        assert!(answer.err.contains("it takes Linux 6.5 or later"), "{answer:?}");
        return;
    }
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    assert!(can_bind(address));
});

scenario!(a_dry_run_takes_no_connection_in_time_wait_away_and_waits_for_none, |backend| {
    let address = lingers_without_reuse();
    for (arguments, would_be) in [
        (&["--drop-time-wait"][..], (0, "would_clean")),
        (&["--free-timeout", "5m"], (0, "would_clean")),
        (&["--free-timeout", "10ms"], (7, "timed_out")),
    ] {
        let answer = clean(backend, address.port(), &[arguments, &["--dry-run"]].concat());
        assert_eq!((answer.status, answer.outcome().as_str()), would_be, "{answer:?}");
        let (reason, free_in) = why(&answer.json());
        assert_eq!(reason, "time_wait", "{answer:?}");
        // then it did not wait for them, nor are they gone
        assert!(answer.json()["elapsed_us"].as_u64().unwrap() < free_in * 1000, "{answer:?}");
        assert!(!can_bind(address), "{arguments:?}");
        let text = Gatewatch::in_text(backend, &["clean", "--dry-run"], address.port()).with(arguments).run();
        assert!(text.out.contains("TIME_WAIT"), "{text:?}");
        assert!(!can_bind(address), "{arguments:?}");
    }
});

scenario!(another_users_client_is_named_to_an_ordinary_user, needs(Root), |backend| {
    let server = Part::other().on_port(unused_port()).start();
    let to = server.address().to_string();
    let client = Part::other().on_port(unused_port()).with(&["--no-reuse", "--connect", &to]).start();
    let ask = |words: &[&str]| {
        let asked = Gatewatch::on(backend, words, client.port());
        match backend {
            Backend::Ebpf => asked.as_nobody_with_kernel_events().run(),
            Backend::Poll => asked.as_nobody().run(),
        }
    };
    // The socket tables show everybody the state and the user, and the iterator also the process.
    let pid = match backend {
        Backend::Ebpf => Value::from(client.pid()),
        Backend::Poll => Value::Null,
    };
    let owners = ask(&["owners"]).json();
    assert_eq!((&owners["owners"], &owners["reason"]), (&Value::from([0; 0]), &"bound_client".into()));
    let named = &owners["clients"][0];
    assert_eq!((&named["pid"], &named["uid"], &named["identity"]), (&pid, &0.into(), &"other".into()));
    let answer = ask(&["clean", "--any", "--free-timeout", "5m"]);
    assert_eq!((answer.status, &answer.json()["reason"]), (3, &"bound_client".into()), "{answer:?}");
    assert_eq!((&answer.json()["owners"][0]["pid"], &answer.json()["owners"][0]["uid"]), (&pid, &0.into()));
    let answer = ask(&["wait", "free", "--timeout", "100ms"]);
    assert_eq!((answer.status, &answer.json()["reason"]), (7, &"bound_client".into()), "{answer:?}");
    assert_eq!((&answer.json()["owner"]["pid"], &answer.json()["owner"]["uid"]), (&pid, &0.into()));
    // and in words
    if backend == Backend::Poll {
        for command in [&["owners"][..], &["clean"], &["wait", "free", "--timeout", "100ms"]] {
            let text = Gatewatch::in_text(backend, command, client.port()).as_nobody().run();
            assert!(text.out.contains("an unseen process of user 0"), "{text:?}");
        }
    }
    assert!(client.is_alive());
    // Connections to a listener that this user can't see are the listener's.
    let owners = Gatewatch::on(backend, &["owners"], server.port()).as_nobody();
    let owners = if backend == Backend::Poll { owners.run() } else { return };
    assert_eq!(owners.json()["owners"].as_array().unwrap().len(), 1, "{owners:?}");
    assert_eq!(owners.json().get("clients"), None, "{owners:?}");
});

scenario!(a_client_whose_local_port_it_is_is_named, needs(Root), |backend| {
    let server = Part::other().on_port(unused_port()).start();
    let to = server.address().to_string();
    let client = Part::other().on_port(unused_port()).with(&["--no-reuse", "--connect", &to]).start();
    let owners = Gatewatch::on(backend, &["owners"], client.port()).run().json();
    assert_eq!(owners["reason"], "bound_client", "{owners}");
    assert!(owners.to_string().contains(&format!("\"pid\":{}", client.pid())), "{owners}");
    let answer = clean(backend, client.port(), &["--free-timeout", "100ms"]);
    assert_eq!((answer.status, &answer.json()["reason"]), (3, &"bound_client".into()), "{answer:?}");
    let answer = wait(backend, "free", client.port()).with(&["--timeout", "100ms"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.json()["owner"]["pid"], client.pid(), "{answer:?}");
    // and in words
    for command in [&["owners"][..], &["wait", "free", "--timeout", "100ms"]] {
        let port = client.port().to_string();
        let backend = backend.name();
        let text = Gatewatch::new(command).with(&["--backend", backend, "-p", &port]).run();
        assert!(text.out.contains(&format!("pid {}", client.pid())), "{text:?}");
    }
    assert!(client.is_alive());
});

// While the proof holds the port plainly, another server's bind fails.
scenario!(a_plain_bind_is_tried_only_where_its_answer_is_given, needs(Root, Strace), |backend| {
    let binds = |command: &Gatewatch, port: u16| {
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=bind", "-o"]).arg(trace.path()).args(command.words());
        assert!(strace.env("GATEWATCH_SOCKET", "/nonexistent").output().unwrap().status.success());
        let text = std::fs::read_to_string(trace.path()).unwrap();
        text.lines().filter(|line| line.contains(&format!("htons({port})"))).count()
    };
    let by = |text: bool, command: &[&str]| {
        let port = unused_port();
        let command = if text { Gatewatch::in_text } else { Gatewatch::on }(backend, command, port);
        binds(&command, port)
    };
    let without = by(true, &["clean"]);
    assert!(without > 0);
    // The plain ones are as many again.
    assert_eq!(by(false, &["clean"]), 2 * without);
    assert_eq!(by(true, &["wait", "free"]), without);
    assert_eq!(by(false, &["wait", "free"]), without);
    assert_eq!(by(true, &["wait", "free", "--plain"]), 2 * without);
});
