//! UDP ports as only Linux shows them: shared, connected, inherited, and by which means they are seen.

use std::net::SocketAddr;

use gatewatch_tests::{Backend, Gatewatch, Part, can_bind_udp, send, until, unused_port};
use nix::sys::signal::Signal;

use crate::differ;
use crate::udp::{assert_udp_cleaned, clean_udp, owners_udp, restart_udp, udp, udp_command, watch_udp};
use crate::watch::events;

scenario!(a_udp_port_that_is_shared_is_not_free_while_one_owner_is_left, |backend| {
    // given two owners of one address, which UDP allows to those that set SO_REUSEADDR
    for share in [&["--shared"][..], &["--reuse-port"], &["--shared", "--reuse-port"]] {
        let gateway = udp(Part::gateway()).on_port(unused_port()).with(share).start();
        let other = udp(Part::other()).on_port(gateway.port()).with(share).start();
        let answer = clean_udp(backend, gateway.port(), &[]);
        // then the one that matches is ended, and the port is not called free
        assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{share:?} {answer:?}");
        assert!(gateway.is_gone() && other.is_alive(), "{answer:?}");
        assert!(answer.json()["released"].is_null(), "{answer:?}");
        let waited = Gatewatch::on_udp(backend, &["wait", "free", "--timeout", "100ms"], other.port()).run();
        assert_eq!(waited.outcome(), "timed_out", "{waited:?}");
        assert_udp_cleaned(&clean_udp(backend, other.port(), &["--any"]), &other);
    }
});

scenario!(nobody_is_ended_for_a_restart_where_a_sharer_of_the_udp_port_would_stay, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).with(&["--shared"]).start();
    let other = udp(Part::other()).on_port(gateway.port()).with(&["--shared"]).start();
    let answer = restart_udp(backend, gateway.port(), &[], &udp_command("openclaw-gateway", gateway.port()));
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(gateway.is_alive() && other.is_alive());
});

scenario!(a_connected_udp_socket_is_left_alone_and_keeps_the_port, |backend| {
    // given a client whose local port is the one to be cleaned
    let server = udp(Part::other()).on_port(unused_port()).start();
    let peer = server.address().to_string();
    for share in [&[][..], &["--shared"]] {
        let client =
            udp(Part::gateway()).on_port(unused_port()).with(&["--connect", &peer]).with(share).start();
        let json = owners_udp(backend, client.port()).json();
        assert_eq!(json["owners"].as_array().unwrap().len(), 0, "{json}");
        assert_eq!(
            (&json["reason"], &json["clients"][0]["pid"]),
            (&"bound_client".into(), &client.pid().into())
        );
        let answer = clean_udp(backend, client.port(), &["--any", "--free-timeout", "100ms"]);
        assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
        assert_eq!(answer.json()["reason"], "bound_client", "{answer:?}");
        assert!(client.is_alive() && !can_bind_udp(client.address()));
        // and to wait for an owner is not to wait for a client
        let waited =
            Gatewatch::on_udp(backend, &["wait", "bound", "--timeout", "100ms"], client.port()).run();
        assert_eq!(waited.outcome(), "timed_out", "{waited:?}");
    }
    // and its server is ended without it
    let client = udp(Part::other()).on_port(unused_port()).with(&["--connect", &peer]).start();
    assert_udp_cleaned(&clean_udp(backend, server.port(), &["--any"]), &server);
    assert!(client.is_alive());
});

scenario!(a_udp_port_is_waited_for_while_a_client_has_it, |backend| {
    let mut client = udp(Part::other()).on_port(unused_port()).with(&["--connect", "127.0.0.1:9"]).start();
    let mut waiting = Gatewatch::on_udp(backend, &["wait", "free"], client.port()).spawn();
    assert!(waiting.is_running());
    client.end();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
});

scenario!(the_workers_of_a_udp_server_are_ended_with_it, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).with(&["--workers", "3"]).start();
    assert_eq!(gateway.pids.len(), 4);
    assert_udp_cleaned(&clean_udp(backend, gateway.port(), &[]), &gateway);
});

scenario!(nobody_is_ended_whose_udp_socket_another_process_holds, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).with(&["--sharer", "other"]).start();
    let answer = clean_udp(backend, gateway.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "inherited", "{answer:?}");
    assert!(gateway.is_alive());
});

scenario!(a_udp_socket_on_its_way_to_nobody_keeps_the_port, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).with(&["--in-flight"]).start();
    let answer = clean_udp(backend, gateway.port(), &["--any", "--free-timeout", "100ms"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.json()["reason"], differ::of_a_socket_on_its_way(backend), "{answer:?}");
    assert!(gateway.is_alive());
});

scenario!(a_udp_port_is_proved_on_the_addresses_that_were_held, |backend| {
    for place in ["0.0.0.0", "[::1]", "[::]"] {
        let address = format!("{place}:{}", unused_port()).parse().unwrap();
        let gateway = udp(Part::gateway()).on(address).start();
        assert_udp_cleaned(&clean_udp(backend, gateway.port(), &[]), &gateway);
    }
    // and an owner of another address is neither ended nor in the way
    let gateway = udp(Part::gateway()).on_port(unused_port()).start();
    let other = udp(Part::other()).on(([127, 0, 0, 2], gateway.port()).into()).start();
    assert_udp_cleaned(&clean_udp(backend, gateway.port(), &[]), &gateway);
    assert!(other.is_alive());
    let on_one = format!("127.0.0.1:{}/udp", other.port());
    let flags =
        ["clean", &on_one, "--any", "--format", "json", "--backend", gatewatch_tests::run().flag(backend)];
    assert_eq!(Gatewatch::plain(&flags).outcome(), "free");
    assert!(other.is_alive());
});

scenario!(a_udp_port_can_be_bound_at_its_release, |backend| {
    let port = unused_port();
    let mut watch = watch_udp(backend, port);
    for _ in 0..10 {
        let mut owner = udp(Part::other()).on_port(port).start();
        watch.expect("bind");
        owner.end();
        watch.expect("release");
        assert!(can_bind_udp(owner.address()));
        watch.expect("free");
        // That bind may be told of as well; by polling only if it happens to be looked at.
        if backend == Backend::Ebpf {
            assert_eq!(events(&watch.up_to("free")), ["bind", "release", "free"]);
        } else {
            watch = watch_udp(backend, port);
        }
    }
});

scenario!(a_udp_socket_that_connects_keeps_its_port_in_a_watch, |backend| {
    // given a server on all addresses
    let address = SocketAddr::from(([0, 0, 0, 0], unused_port()));
    let mut watch = watch_udp(backend, address.port());
    let server = udp(Part::gateway()).on(address).with(&["--on-term", "connect:127.0.0.1:9"]).start();
    assert_eq!(watch.expect("bind")["address"], address.to_string());
    // when it connects, which gives its socket another address
    send(server.pid(), Signal::SIGTERM);
    let clients = || owners_udp(backend, address.port()).json()["clients"].as_array().map_or(0, Vec::len);
    until("it is connected", || clients() == 1);
    // then it has the port as before, and is no server to be ended
    let answer = clean_udp(backend, address.port(), &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(server.is_alive());
    // and to a watch nothing has happened before another comes, nor is the port free when that one goes
    let mut other = udp(Part::other()).on(([127, 0, 0, 2], address.port()).into()).start();
    assert_eq!(watch.expect("bind")["pid"], other.pid());
    other.end();
    assert_eq!(watch.expect("release")["pid"], other.pid());
    drop(server);
    assert_eq!(events(&watch.up_to("free")), ["release", "free"]);
});

scenario!(a_udp_bind_that_fails_is_a_conflict_of_the_udp_port, needs(Bpf), || {
    let port = unused_port();
    let _tcp = Part::other().on_port(port).start();
    let owner = udp(Part::other()).on_port(port).start();
    let mut watch = watch_udp(Backend::Ebpf, port);
    assert!(udp(Part::other()).on_port(port).try_to_start().is_none());
    let conflict = watch.expect("conflict");
    assert_eq!(conflict["protocol"], "udp", "{conflict}");
    let holders = conflict["holders"].as_array().unwrap();
    assert_eq!((holders.len(), &holders[0]["pid"]), (1, &owner.pid().into()), "{conflict}");
});

scenario!(without_sock_diag_udp_sockets_are_read_from_proc, || {
    let gateway = udp(Part::gateway()).on_port(unused_port()).start();
    let client = udp(Part::other()).on_port(unused_port()).with(&["--connect", "127.0.0.1:9"]).start();
    let poll = |command: &[&str], port| {
        Gatewatch::on_udp(Backend::Poll, command, port).env("GATEWATCH_WITHOUT", "diag").run()
    };
    assert_eq!(poll(&["owners"], gateway.port()).owner(gateway.pid())["identity"], "match");
    let json = poll(&["owners"], client.port()).json();
    assert_eq!(json["clients"][0]["pid"], client.pid(), "{json}");
    assert_udp_cleaned(&poll(&["clean"], gateway.port()), &gateway);
});

scenario!(without_sock_diag_a_socket_that_nobody_holds_is_seen_all_the_same, |backend| {
    let sender = |part: Part| part.on_port(unused_port()).with(&["--in-flight"]).start();
    let (tcp, datagrams) = (sender(Part::gateway()), sender(udp(Part::gateway())));
    let owners = |gatewatch: Gatewatch| gatewatch.env("GATEWATCH_WITHOUT", "diag").run().json();
    for json in [
        owners(Gatewatch::on(backend, &["owners"], tcp.port())),
        owners(Gatewatch::on_udp(backend, &["owners"], datagrams.port())),
    ] {
        assert_eq!(json["owners"][0]["identity"], "unclassified", "{json}");
        assert_eq!(json["reason"], differ::of_a_socket_on_its_way(backend), "{json}");
    }
});

scenario!(without_release_events_udp_ports_are_polled, needs(Bpf), || {
    let port = unused_port();
    let watched = |backend: &str, port: u16| {
        let port = format!("{port}/udp");
        let command = ["watch", &port, "--for", "10ms", "--format", "json", "-v", "--backend", backend];
        Gatewatch::new(&command).env("GATEWATCH_WITHOUT", "udp").run()
    };
    let answer = watched("auto", port);
    assert_eq!((&answer.json()["backend"], answer.status), (&"poll".into(), 0), "{answer:?}");
    assert!(answer.err.contains("cgroup/sock_release"), "{answer:?}");
    assert_eq!(watched("ebpf", port).status, 6);
    // TCP ports are followed all the same
    let answer = Gatewatch::on(Backend::Ebpf, &["wait", "free"], port).env("GATEWATCH_WITHOUT", "udp").run();
    assert_eq!(answer.json()["backend"], "ebpf", "{answer:?}");
});

scenario!(many_udp_sockets_that_come_and_go_leave_a_watch_right, |backend| {
    let port = unused_port();
    let mut watch = watch_udp(backend, port);
    let mut owner = udp(Part::other()).on_port(port).with(&["--churn", "300"]).start();
    owner.end();
    until("the owner has ended", || owner.is_gone());
    let last = udp(Part::other()).on_port(port).start();
    // then whatever was told, each release has its bind, and in the end the last owner has the port
    let mut held = 0;
    let line = loop {
        let line = watch.line();
        match line["event"].as_str().unwrap() {
            "bind" | "held" => held += 1,
            "release" => held -= 1,
            "free" => assert_eq!(held, 0),
            // What was held before is told anew.
            "lost" => held = 0,
            _ => {}
        }
        assert!((0..=1).contains(&held), "{line}");
        if line["pid"] == last.pid() {
            break line;
        }
    };
    assert!(line["event"] == "bind" || line["event"] == "held", "{line}");
});
