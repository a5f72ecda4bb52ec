//! All holders of a socket count, however they got it: by fork, by a message, as a thread.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use gatewatch_tests::{Gatewatch, Part, as_user, can_bind, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::differ;

use crate::holders::assert_keeps_the_port;

scenario!(forked_workers_are_all_ended, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "4"]).start();
    assert_eq!(gateway.pids.len(), 5);
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(a_group_that_reuses_the_port_is_ended_whole, |backend| {
    let port = unused_port();
    let first = Part::gateway().on_port(port).with(&["--reuse-port"]).start();
    let second = Part::gateway().on_port(port).with(&["--reuse-port", "--on-term", "ignore"]).start();
    let answer = clean(backend, port, &["--term-timeout", "50ms"]);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(first.is_gone() && second.is_gone());
    assert!(can_bind(first.address()));
});

scenario!(an_orphan_that_inherited_the_socket_is_ended, |backend| {
    let orphan = Part::gateway().on_port(unused_port()).with(&["--orphan"]).start();
    assert_ne!(orphan.pid(), orphan.started_pid());
    assert_cleaned(&clean(backend, orphan.port(), &[]), &orphan);
});

scenario!(a_process_that_was_passed_the_socket_is_ended, |backend| {
    let receiver = Part::gateway().on_port(unused_port()).with(&["--pass"]).start();
    assert_ne!(receiver.pid(), receiver.started_pid());
    assert_cleaned(&clean(backend, receiver.port(), &[]), &receiver);
});

scenario!(a_process_that_was_handed_another_users_socket_is_never_ended, needs(Root), |backend| {
    // given a listener of an ordinary user's in a process of root's, as a daemon that takes messages may get one
    let listener = as_user(65_534, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut daemon =
        Command::new("sleep").arg("60").stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
    for arguments in [&["--any"][..], &["--match-comm", "sleep"], &["--any", "--inherited"], &[]] {
        let answer = clean(backend, port, arguments);
        assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
        let owner = answer.owner(daemon.id());
        assert_eq!((&owner["identity"], &owner["action"]), (&"unclassified".into(), &"spared".into()));
        assert!(owner["why"].as_str().unwrap().contains("user 65534 made its socket"), "{owner}");
        assert!(daemon.try_wait().unwrap().is_none());
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
});

scenario!(a_socket_on_its_way_to_nobody_is_never_free, |backend| {
    let sender = Part::gateway().on_port(unused_port()).with(&["--in-flight"]).start();
    let answer = clean(backend, sender.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.json()["reason"], differ::of_a_socket_on_its_way(backend), "{answer:?}");
    assert!(sender.is_alive(), "it holds no descriptor of the socket");
    let owners = Gatewatch::on(backend, &["owners"], sender.port()).run().json();
    assert_eq!(owners["owners"][0]["pid"], serde_json::Value::Null);
    assert_eq!(owners["owners"][0]["identity"], "unclassified");
    assert_eq!(owners["owners"][0]["other_ports"], serde_json::Value::Null);
    assert_eq!(owners["reason"], differ::of_a_socket_on_its_way(backend));
    let waited = Gatewatch::on(backend, &["wait", "free", "--timeout", "100ms"], sender.port()).run();
    assert_eq!(waited.status, 7, "{waited:?}");
    assert_eq!(waited.json()["reason"], differ::of_a_socket_on_its_way(backend), "{waited:?}");
});

scenario!(a_thread_of_a_dead_leader_is_an_owner, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--dead-leader"]).start();
    let owners = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    assert_eq!(owners.owner(gateway.pid())["identity"], "match", "{owners:?}");
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(people_are_told_who_holds_what_by_which_descriptor_and_from_where, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let other = Part::other().on_port(unused_port()).within(folder.path()).start();
    let port = other.port().to_string();
    let ask = |command: &str| {
        Gatewatch::new(&[command, "--backend", gatewatch_tests::run().flag(backend), "-p", &port]).run()
    };
    let descriptor = std::fs::read_dir(format!("/proc/{}/fd", other.pid())).unwrap().flatten();
    let descriptor = descriptor.map(|entry| (entry.file_name(), std::fs::read_link(entry.path()).unwrap()));
    let is_socket = |target: &std::path::Path| target.to_string_lossy().starts_with("socket:");
    let (number, _) = descriptor.into_iter().find(|(_, target)| is_socket(target)).unwrap();
    let place = folder.path().display().to_string();
    let parent = format!("(pid {})", std::process::id());
    let owners = ask("owners");
    let fd = format!("{} (fd {})", other.address(), number.to_str().unwrap());
    for part in [&fd, &place, &parent] {
        assert!(owners.out.contains(part), "{part} is not in {owners:?}");
    }
    // and so they are where it is left alone
    let answer = ask("clean");
    assert_eq!(answer.status, 3);
    for part in [&place, &parent] {
        assert!(answer.out.contains(part), "{part} is not in {answer:?}");
    }
});

scenario!(an_heir_of_another_name_keeps_the_port, |backend| {
    // given a gateway's child of another command line that alone holds the listener
    let gateway = Part::gateway().on_port(unused_port()).with(&["--heir", "some-tool"]).start();
    let heir = gateway.pids[1];
    let answer = clean(backend, gateway.port(), &[]);
    // then the answer is not "free", as it is not, and the child lives
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.owner(heir)["action"], "spared");
    assert!(gateway.is_alive());
    assert!(!can_bind(gateway.address()));
});

scenario!(a_listener_that_was_shut_down_still_holds_the_port, |backend| {
    let other = Part::other().on_port(unused_port()).with(&["--shut-down"]).start();
    assert_keeps_the_port(backend, &other);
});

scenario!(a_multipath_gateway_is_ended, needs(Multipath), |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--multipath"]).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});
