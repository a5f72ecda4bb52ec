//! `clean`: the stale owner is ended, and the port can be bound at the answer.

use gatewatch_tests::{ASKED, Actor, Answer, Backend, FORCED, Gatewatch, Part, can_bind, unused_port, user};

pub(crate) fn clean(backend: Backend, port: u16, arguments: &[&str]) -> Answer {
    Gatewatch::on(backend, &["clean"], port).with(arguments).run()
}

/// The actor is gone, and a server can take its place at once.
pub(crate) fn assert_cleaned(answer: &Answer, actor: &Actor) {
    assert_ended(answer, actor);
    assert!(can_bind(actor.address()), "{answer:?}");
}

/// The clean says that it ended these processes, all of them and no other, and they are gone.
pub(crate) fn assert_ended(answer: &Answer, actor: &Actor) {
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert!(actor.is_gone(), "{answer:?}");
    let mut pids: Vec<u64> = actor.pids.iter().map(|&pid| pid.into()).collect();
    pids.sort_unstable();
    assert_eq!(answer.killed(), pids);
}

/// The clean says that the port is free of the actor, which has let go of it and lives on: nobody has killed it.
pub(crate) fn assert_lives_on(answer: &Answer, actor: &mut Actor) {
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    let owner = answer.owner(actor.pid());
    assert_eq!((&owner["action"], &owner["ended_by"]), (&"survived".into(), &serde_json::Value::Null));
    assert!(answer.killed().is_empty(), "{answer:?}");
    // A signal that was sent just before the answer would still end it.
    assert!(actor.is_alive() && actor.ends_by_itself(), "{answer:?}");
}

scenario!(a_gateway_that_obeys_is_asked_to_end, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = clean(backend, gateway.port(), &["--term-timeout", "15s"]);
    assert_cleaned(&answer, &gateway);
    let owner = answer.owner(gateway.pid());
    assert_eq!(owner["action"], "killed");
    assert_eq!(owner["ended_by"], ASKED);
    assert!(owner["ended_after_us"].is_u64());
    let json = answer.json();
    assert_eq!(json["backend"], backend.name());
    assert_eq!(json["released"]["proof"], "bind");
    assert_eq!(json["released"]["plain_bind"], true);
    assert!(json["released"]["after_us"].as_u64() <= json["elapsed_us"].as_u64());
});

scenario!(a_gateway_that_does_not_obey_is_ended_by_force, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let answer = clean(backend, gateway.port(), &["--term-timeout", "50ms"]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], FORCED);
});

scenario!(a_drain_within_the_grace_is_not_cut_off, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:900"]).start();
    let answer = clean(backend, gateway.port(), &["--term-timeout", "15s"]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], ASKED);
});

scenario!(nobody_there_is_free, |backend| {
    let answer = clean(backend, unused_port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"));
    assert!(answer.killed().is_empty());
    assert_eq!(answer.json()["owners"].as_array().unwrap().len(), 0);
});

scenario!(a_gateway_on_another_port_is_named_where_the_port_is_free, |backend| {
    // given a gateway whose configured port was changed
    let [old, new] = [unused_port(), unused_port()];
    let gateway = Part::gateway().on_port(old).start();
    let other = Part::other().on_port(unused_port()).start();
    let answer = clean(backend, new, &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    let elsewhere = |pid: u32| {
        let json = answer.json();
        let found = json["gateways_elsewhere"].as_array().unwrap().iter().find(|found| found["pid"] == pid);
        found.map(|found| found["ports"].clone())
    };
    assert_eq!(elsewhere(gateway.pid()), Some(serde_json::json!([old])), "{answer:?}");
    assert_eq!(elsewhere(other.pid()), None, "{answer:?}");
    // it is left alone, and not named to who asks for others
    assert!(gateway.is_alive());
    assert!(clean(backend, new, &["--any"]).json()["gateways_elsewhere"].is_null());
});

scenario!(a_dual_stack_gateway_counts_once, needs(Ipv6Owners), |backend| {
    let port = unused_port();
    let gateway = Part::gateway().on_port(port).with(&["--on", &format!("[::1]:{port}")]).start();
    let answer = clean(backend, port, &[]);
    assert_cleaned(&answer, &gateway);
    assert!(can_bind(([0, 0, 0, 0, 0, 0, 0, 1], port).into()));
    let mut listeners: Vec<String> = answer.owner(gateway.pid())["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap().into())
        .collect();
    listeners.sort_unstable();
    assert_eq!(listeners, [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
});

scenario!(a_dry_run_signals_nobody, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = clean(backend, gateway.port(), &["--dry-run"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"));
    assert_eq!(answer.owner(gateway.pid())["action"], "would_kill");
    assert!(answer.killed().is_empty());
    assert!(gateway.is_alive());
});

scenario!(a_dry_run_says_what_would_stay, |backend| {
    let other = Part::other().on_port(unused_port()).start();
    let answer = clean(backend, other.port(), &["--dry-run"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"));
    assert_eq!(answer.owner(other.pid())["action"], "spared");
    assert!(other.is_alive());
});

scenario!(a_gateway_that_lets_go_and_lives_is_not_killed, |backend| {
    let mut gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "close"]).start();
    let answer = clean(backend, gateway.port(), &["--term-timeout", "2s"]);
    assert_lives_on(&answer, &mut gateway);
    assert!(can_bind(gateway.address()));
});

scenario!(a_gateway_with_much_memory_is_gone_at_the_answer, |backend| {
    let gateway =
        Part::gateway().on_port(unused_port()).with(&["--memory", "512", "--on-term", "ignore"]).start();
    let answer = clean(backend, gateway.port(), &["--term-timeout", "1ms", "--kill-timeout", "10s"]);
    assert_cleaned(&answer, &gateway);
});

scenario!(a_supervisors_new_gateway_is_not_fought, |backend| {
    // given a supervisor that starts a new gateway as soon as the old one has ended
    let mut gateway =
        Part::gateway().on_port(unused_port()).with(&["--respawn", "--on-term", "drain:1"]).start();
    // when the old one is ended; the new one may be there before the proof or after it
    let answer = clean(backend, gateway.port(), &[]);
    let line = gateway.line();
    let new: u32 = line.strip_prefix("respawned ").unwrap().parse().unwrap();
    // then nobody but the old one was signalled
    assert_eq!(answer.killed(), [u64::from(gateway.pid())]);
    if answer.outcome() == "respawned" {
        assert_eq!(answer.status, 8);
        assert_eq!(answer.owner(new)["action"], "spared");
    } else {
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    }
    let now = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    assert_eq!(now.owner(new)["pid"], new);
});

scenario!(the_answer_for_people_names_the_process_and_the_proof, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port().to_string();
    let answer = Gatewatch::plain(&["clean", "--backend", backend.name(), "-p", &port]);
    assert_eq!(answer.status, 0);
    for part in [&port, &gateway.pid().to_string(), ASKED, "proof", "openclaw-gateway"] {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
    assert!(!answer.out.contains('\u{1b}'), "no colours where there is no terminal");
});

scenario!(each_owner_is_described, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    let owner = answer.owner(gateway.pid());
    assert_eq!(owner["identity"], "match");
    assert_eq!(owner["relation"], serde_json::Value::Null);
    assert!(owner["argv"][0].as_str().unwrap().contains("openclaw-gateway"));
    assert_eq!(owner["argv"][1], "--on");
    assert_eq!(owner["uid"], user());
    assert_eq!(owner["comm"], gateway.file_name());
    assert!(owner["exe"].as_str().unwrap().ends_with(&gateway.file_name()));
    assert!(owner["start_time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(owner["listeners"], serde_json::json!([gateway.address().to_string()]));
    assert!(owner.get("action").is_none(), "owners says nothing of actions");
});

scenario!(thirty_restarts_in_a_row_never_find_the_port_taken, |backend| {
    let port = unused_port();
    for _ in 0..30 {
        // The actor panics, and is never ready, if its bind fails.
        let gateway = Part::gateway().on_port(port).start();
        assert_cleaned(&clean(backend, port, &[]), &gateway);
    }
});
