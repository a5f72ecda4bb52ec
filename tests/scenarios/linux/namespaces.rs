//! The same port in another network namespace is another port.

use std::process::Command;

use gatewatch_tests::{Agent, Gatewatch, Part, can_bind, config, unused_port};
use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::clean::clean;

scenario!(another_namespaces_gateway_is_not_seen_from_here, needs(Root), |backend| {
    let port = unused_port();
    let elsewhere = Part::gateway().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let answer = clean(backend, port, &[]);
    assert_eq!(answer.outcome(), "free", "{answer:?}");
    assert!(elsewhere.is_alive());
    // nor is it one that listens on another port
    let answer = clean(backend, unused_port(), &[]);
    let pid = format!("\"pid\":{},", elsewhere.pid());
    assert!(!answer.out.contains(&pid), "{answer:?}");
    let answer = clean(backend, unused_port(), &["--netns", &elsewhere.netns()]);
    assert!(answer.out.contains(&pid), "{answer:?}");
});

scenario!(a_gateway_is_cleaned_in_its_own_namespace_alone, needs(Root), |backend| {
    let port = unused_port();
    let elsewhere = Part::gateway().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let here = Part::gateway().on_port(port).start();
    let answer = clean(backend, port, &["--netns", &elsewhere.netns()]);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(elsewhere.is_gone());
    assert!(here.is_alive());
    assert!(!can_bind(here.address()));
});

scenario!(an_agent_that_sees_its_own_namespace_alone_ends_nobody_there_for_another_one, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    // given an agent whose looks are those of an old kernel
    let agent = Agent::with_and_without(&config(&[(port, "")]), "iter");
    // when a caller from a network namespace of its own asks
    let elsewhere = |command: &[&str]| {
        let asked =
            Command::new("unshare").arg("--net").args(agent.ask(command, port).words()).output().unwrap();
        String::from_utf8(asked.stdout).unwrap()
    };
    // then it is told nothing of the port here, and nobody is ended for it
    let owners = elsewhere(&["owners"]);
    assert!(owners.contains("\"owners\":[]"), "{owners}");
    let cleaned = elsewhere(&["clean"]);
    assert!(cleaned.contains("\"outcome\":\"free\""), "{cleaned}");
    assert!(gateway.is_alive());
});

scenario!(the_other_ports_are_those_in_the_owners_own_namespace, needs(Root), |backend| {
    let [port, second, foreign] = [(); 3].map(|()| unused_port());
    let _here = Part::other().on_port(foreign).start();
    let elsewhere = Part::other().on_port(port).on_port(second).in_own_network().start();
    let answer = Gatewatch::on(backend, &["owners"], port).with(&["--netns", &elsewhere.netns()]).run();
    assert_eq!(answer.owner(elsewhere.pid())["other_ports"], serde_json::json!([second]), "{answer:?}");
});

scenario!(a_watch_in_a_namespace_sees_that_one_alone, needs(Root), |backend| {
    let port = unused_port();
    let elsewhere = Part::other().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let mut watch = Gatewatch::on(backend, &["watch", "--poll-interval", "2ms"], port)
        .with(&["--netns", &elsewhere.netns()])
        .watch();
    assert_eq!(watch.held.len(), 1);
    // what happens to the port here is no event there
    let here = Part::other().on_port(port).start();
    here.ask_to_end();
    gatewatch_tests::until("the one here has ended", || here.is_gone());
    elsewhere.ask_to_end();
    let release = watch.expect("release");
    assert_eq!(release["address"], format!("0.0.0.0:{port}"));
    watch.expect("free");
});

scenario!(from_a_pid_namespace_pids_are_those_seen_there, needs(Root), |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["owners"], gateway.port()).inside(gateway.pid()).run();
    assert_eq!(answer.owner(1)["identity"], "match", "{answer:?}");
    // and an owner outside of the namespace is a process that can't be seen
    let outside = Part::gateway().on_port(unused_port()).start();
    let answer = Gatewatch::on(backend, &["clean"], outside.port()).inside(gateway.pid()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "other_namespace", "{answer:?}");
    assert!(outside.is_alive());
    let ask = |command: &[&str]| Gatewatch::on(backend, command, outside.port()).inside(gateway.pid()).run();
    let owners = ask(&["owners"]).json();
    assert_eq!((&owners["reason"], &owners["owners"][0]["pid"]), (&"other_namespace".into(), &Value::Null));
    let waited = ask(&["wait", "free", "--timeout", "100ms"]);
    assert_eq!((waited.status, &waited.json()["reason"]), (7, &"other_namespace".into()), "{waited:?}");
    for command in [&["owners"][..], &["clean"], &["wait", "free", "--timeout", "100ms"], &["restart"]] {
        let text = Gatewatch::in_text(backend, command, outside.port()).inside(gateway.pid()).run();
        assert!(text.out.contains("outside of this pid namespace"), "{text:?}");
        // root is not told that root could see it
        assert!(!text.out.contains("this user") && !text.out.contains("sudo"), "{text:?}");
    }
    assert!(outside.is_alive());
});

scenario!(
    a_socket_on_its_way_inside_a_pid_namespace_is_not_called_one_from_outside,
    needs(Root),
    |backend| {
        let sender = Part::gateway().on_port(unused_port()).with(&["--in-flight"]).start_as_init();
        let answer = Gatewatch::on(backend, &["clean"], sender.port()).inside(sender.pid()).run();
        assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
        assert_eq!(answer.json()["reason"], Value::Null, "{answer:?}");
        assert!(sender.is_alive());
    }
);

scenario!(a_bad_namespace_is_status_2, || {
    for path in ["/no/such/namespace", "/etc/passwd", "/proc/self/ns/pid"] {
        assert_refused(&["clean", "--netns", path], path);
    }
});
