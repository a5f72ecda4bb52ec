//! Who is ended, how, and when the answer comes: as the caller says.

use std::process::Stdio;

use gatewatch_tests::{Gatewatch, Part, can_bind, unused_port};

use crate::clean::{assert_cleaned, assert_lives_on, clean};
use crate::wait::wait;

scenario!(an_owner_on_another_address_does_not_spoil_the_outcome, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let other = Part::other().on(([127, 0, 0, 2], gateway.port()).into()).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(other.pid())["action"], "spared");
    assert!(other.is_alive());
});

scenario!(a_young_owner_is_spared, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = clean(backend, gateway.port(), &["--min-age", "60m"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "too_young");
    assert!(gateway.is_alive());
    // a person is told when it will be old enough, and what to run then
    let text = Gatewatch::in_text(backend, &["clean"], gateway.port()).with(&["--min-age", "60m"]).run();
    let next = text.out.lines().last().unwrap();
    let seconds = next.split_once("old enough in ").and_then(|(_, rest)| rest.split_once(" s;")).unwrap().0;
    assert!((1..=3600).contains(&seconds.parse::<u32>().unwrap()), "{text:?}");
    assert!(next.ends_with("--min-age 60m"), "{text:?}");
    assert_cleaned(&clean(backend, gateway.port(), &["--min-age", "0s"]), &gateway);
});

scenario!(without_force_an_owner_that_does_not_obey_survives, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let answer = clean(backend, gateway.port(), &["--no-kill", "--term-timeout", "50ms"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.owner(gateway.pid())["action"], "survived");
    // a person is told who it is, and the very command that forces it
    let told = |command: &[&str], more: &[&str]| {
        let text = Gatewatch::in_text(backend, command, gateway.port())
            .with(&["--no-kill", "--term-timeout", "50ms"])
            .with(more)
            .run();
        assert_eq!(text.status, 7, "{text:?}");
        let who = format!("(pid {}), which was asked to end and lives on", gateway.pid());
        assert!(text.out.lines().next().unwrap().contains(&who), "{text:?}");
        text.out.lines().last().unwrap().to_owned()
    };
    let next = told(&["clean"], &[]);
    assert!(next.contains("to end it by force:") && !next.contains("--no-kill"), "{next}");
    let actor = gatewatch_tests::program("actor");
    let next = told(&["restart"], &["--", actor.to_str().unwrap(), "--no-kill"]);
    assert!(next.ends_with(" --no-kill") && next.matches("--no-kill").count() == 1, "{next}");
    assert!(gateway.is_alive());
});

scenario!(the_answer_can_wait_for_the_port_alone, |backend| {
    // given an owner that closes its listener when asked, and lives on for longer than anybody waits
    let mut gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "close"]).start();
    let answer = clean(backend, gateway.port(), &["--until", "released", "--term-timeout", "10m"]);
    assert_lives_on(&answer, &mut gateway);
    assert!(can_bind(gateway.address()));
});

scenario!(any_is_short_for_the_rule_set_of_that_name, |backend| {
    let other = Part::other().on_port(unused_port()).start();
    assert_cleaned(&clean(backend, other.port(), &["--any"]), &other);
});

scenario!(the_status_is_the_outcomes_though_nobody_reads_the_answer, |backend| {
    let other = Part::other().on_port(unused_port()).start();
    let mut command = Gatewatch::on(backend, &["clean"], other.port()).into_quiet_command();
    let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
    // given a reader that goes before the answer comes
    drop(running.stdout.take());
    assert_eq!(running.wait().unwrap().code(), Some(3));
});

scenario!(owners_can_be_asked_by_status_and_by_pid, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let ask = |port: u16, arguments: &[&str]| Gatewatch::on(backend, &["owners"], port).with(arguments).run();
    assert_eq!(ask(owner.port(), &["--exit-code"]).status, 3);
    assert_eq!(ask(owner.port(), &[]).status, 0);
    assert_eq!(ask(owner.port(), &["--pids"]).out, format!("{}\n", owner.pid()));
    let nobody = ask(unused_port(), &["--exit-code", "--pids"]);
    assert_eq!((nobody.status, nobody.out.as_str()), (0, ""));
});

scenario!(listening_says_who_listens, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = wait(backend, "listening", owner.port()).run();
    assert_eq!(answer.json()["owner"]["pid"], owner.pid());
    // then another is waited for, where another is wanted
    for wanted in [&["--match-comm", "no-such-name"], &["--pid", "1"]] {
        let answer = wait(backend, "listening", owner.port()).with(wanted).with(&["--timeout", "50ms"]).run();
        assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
        assert_eq!(answer.json()["owner"]["pid"], owner.pid());
    }
    let pid = owner.pid().to_string();
    assert_eq!(wait(backend, "listening", owner.port()).with(&["--pid", &pid]).run().status, 0);
});

scenario!(a_wait_judges_who_it_names_as_owners_does, |backend| {
    for (owner, identity) in [(Part::other(), "other"), (Part::gateway(), "match")] {
        let owner = owner.on_port(unused_port()).start();
        for state in ["listening", "free"] {
            let answer = wait(backend, state, owner.port()).with(&["--timeout", "50ms"]).run().json();
            assert_eq!(answer["owner"]["identity"], identity, "{answer}");
        }
    }
});

scenario!(a_listener_that_has_not_settled_in_time_is_not_called_another, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let waiting = ["--settle", "60s", "--timeout", "50ms"];
    let answer = wait(backend, "listening", owner.port()).with(&waiting).run();
    assert_eq!((answer.status, &answer.json()["reason"]), (7, &"not_settled".into()), "{answer:?}");
    let text = Gatewatch::in_text(backend, &["wait", "listening"], owner.port()).with(&waiting).run();
    let who = format!("(pid {}) listens on port {}, but not yet", owner.pid(), owner.port());
    assert!(text.out.contains(&who), "{text:?}");
});

scenario!(listening_waits_until_the_listener_has_settled, |backend| {
    let port = unused_port();
    let waiting = wait(backend, "listening", port).with(&["--settle", "300ms"]).spawn();
    let owner = Part::other().on_port(port).start();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "listening"), "{answer:?}");
    assert_eq!(answer.json()["owner"]["pid"], owner.pid());
    assert!(answer.json()["elapsed_us"].as_u64() >= Some(300_000));
});

scenario!(the_grace_of_others_than_the_gateway_is_longer, |backend| {
    // given an owner that needs more than the gateway's grace to end by itself
    let other = Part::other().on_port(unused_port()).with(&["--on-term", "drain:900"]).start();
    let answer = clean(backend, other.port(), &["--any"]);
    assert_cleaned(&answer, &other);
    assert_ne!(answer.owner(other.pid())["ended_by"], gatewatch_tests::FORCED);
});

scenario!(a_rule_set_says_how_its_owners_are_ended, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let text = "[identity.stubborn]\nargv = \"--on-term ignore\"\nkill = false\nterm_timeout = \"50ms\"\nsignal = \"TERM\"\n";
    std::fs::write(&config, text).unwrap();
    let owner = Part::other().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let config = config.to_str().unwrap();
    let answer = clean(backend, owner.port(), &["--config", config, "--identity", "stubborn"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert!(owner.is_alive());
});

scenario!(a_rule_set_with_a_wrong_key_is_refused, || {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    for (wrong, said) in [
        ("sygnal = \"INT\"", "signal"),
        ("signal = \"KILL\"", "TERM, INT"),
        ("term_timeout = \"5\"", "600ms, 2s, 1m"),
    ] {
        std::fs::write(&config, format!("[identity.mine]\ncomm = \"a\"\n{wrong}\n")).unwrap();
        let answer = Gatewatch::plain(&["owners", "-p", "1", "--config", config.to_str().unwrap()]);
        assert_eq!(answer.status, 2, "{answer:?}");
        assert!(answer.err.contains(said), "{said:?} is not in {answer:?}");
    }
});
