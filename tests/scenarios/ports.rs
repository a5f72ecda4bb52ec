//! Ports as people write them, and what to type next.

use gatewatch_tests::{Gatewatch, Part, can_bind, run, unused_port};
use serde_json::Value;

/// The answers of a command in JSON, one a port.
fn answers(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The command that an answer in text ends with.
fn next(out: &str) -> String {
    let line =
        out.lines().find(|line| line.trim_start().starts_with("to ")).expect("an answer ends with a command");
    line.split_once(":  ").unwrap().1.to_owned()
}

scenario!(ports_are_read_as_people_write_them, || {
    let port = unused_port();
    let owner = Part::other().on_port(port).start();
    for (text, holds) in [
        (format!("{port}"), &[true][..]),
        (format!(":{port}"), &[true]),
        (format!("{port}/tcp"), &[true]),
        (format!("127.0.0.1:{port}"), &[true]),
        (format!("localhost:{port}"), &[true]),
        (format!("0.0.0.0:{port}"), &[true]),
        (format!("127.0.0.2:{port}"), &[false]),
        (format!("[::1]:{port}"), &[false]),
        (format!("{port}-{}", port + 2), &[true, false, false]),
        (format!("{},{port}", port + 1), &[false, true]),
    ] {
        for words in [&["owners", &text][..], &["owners", "-p", &text], &[&text]] {
            let answer = Gatewatch::new(words).with(&["--format", "json"]).run();
            assert_eq!(answer.status, 0, "{words:?}: {answer:?}");
            let held: Vec<bool> = answers(&answer.out)
                .iter()
                .map(|answer| {
                    answer["owners"].as_array().unwrap().iter().any(|one| one["pid"] == owner.pid())
                })
                .collect();
            assert_eq!(held, holds, "{words:?}: {answer:?}");
        }
    }
});

scenario!(a_port_that_nobody_holds_on_an_address_may_be_held_on_another, || {
    let owner = Part::other().on_port(unused_port()).start();
    let elsewhere = format!("127.0.0.2:{}", owner.port());
    let answer = Gatewatch::plain(&["owners", &elsewhere]);
    assert!(answer.out.starts_with(&format!("no process holds {elsewhere}  (")), "{answer:?}");
});

scenario!(list_has_every_port_that_is_held_in_order, |backend| {
    let mut owners = [(); 3].map(|()| Part::other().on_port(unused_port()).start());
    let flags = ["--backend", run().flag(backend), "--format", "json"];
    for name in ["list", "ls"] {
        let answer = Gatewatch::new(&[name]).with(&flags).run();
        let all = answers(&answer.out);
        let ports: Vec<u64> = all.iter().map(|one| one["port"].as_u64().unwrap()).collect();
        assert!(ports.is_sorted(), "{ports:?}");
        for owner in &owners {
            let one = all.iter().find(|one| one["port"] == owner.port()).expect("it is listed");
            let holder = one["owners"].as_array().unwrap().iter().find(|one| one["pid"] == owner.pid());
            assert_eq!(holder.unwrap()["listeners"][0], owner.address().to_string(), "{one}");
        }
    }
    let text = Gatewatch::new(&["list"]).with(&flags[..2]).run().out;
    assert!(text.contains(&owners[0].port().to_string()) && text.starts_with(" PORT"), "{text}");
    // and a port that was given back is not there
    let gone = owners[0].port();
    owners[0].end();
    gatewatch_tests::until("it has ended", || owners[0].is_gone());
    let answer = Gatewatch::new(&["list"]).with(&flags).run();
    assert!(answers(&answer.out).iter().all(|one| one["port"] != gone), "{answer:?}");
});

scenario!(many_ports_are_asked_for_by_one_look, || {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::plain(&["owners", "1-65535", "--format", "json"]);
    let all = answers(&answer.out);
    assert_eq!((answer.status, all.len()), (0, 65_535), "{}", answer.err);
    let one = &all[usize::from(owner.port()) - 1];
    assert_eq!((&one["port"], &one["owners"][0]["pid"]), (&owner.port().into(), &owner.pid().into()));
});

scenario!(each_port_that_is_asked_for_is_ready, |backend| {
    let ports = [(); 3].map(|()| unused_port());
    let words = ports.map(|port| port.to_string());
    let flags = ["--backend", run().flag(backend), "--format", "json", "--for", "10ms"];
    let answer = Gatewatch::new(&["watch", &words[0], &words[1], &words[2]]).with(&flags).run();
    let ready: Vec<u64> = answers(&answer.out)
        .iter()
        .filter(|line| line["event"] == "ready")
        .map(|line| line["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ready, ports.map(u64::from), "{answer:?}");
});

scenario!(all_ports_can_be_watched, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let flags = ["--all", "--backend", run().flag(backend), "--format", "json"];
    let mut watch = Gatewatch::new(&["watch"]).with(&flags).watch();
    assert!(watch.held.iter().any(|line| line["pid"] == owner.pid()), "{:?}", watch.held);
    let next = Part::other().on_port(unused_port()).start();
    loop {
        let line = watch.line();
        assert_ne!(line["event"], "ready", "{line}");
        if line["event"] == "listen" && line["port"] == next.port() {
            break;
        }
    }
});

scenario!(what_is_no_port_says_what_one_looks_like, || {
    for (text, fix) in [
        ("http", "a number from 1 to 65535"),
        ("3005-3000", "goes up"),
        ("example.org:80", "127.0.0.1:3000"),
        ("::1:80", "[::1]:3000"),
        ("53/sctp", "3000/tcp"),
    ] {
        for command in ["owners", "clean", "watch"] {
            let answer = Gatewatch::plain(&[command, text]);
            assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{text}: {answer:?}");
            assert!(answer.err.contains(fix), "{text}: {answer:?}");
        }
    }
});

scenario!(an_address_limits_a_clean_to_its_sockets, |backend| {
    let port = unused_port();
    let here = Part::other().on_port(port).start();
    let there = Part::other().on(([127, 0, 0, 2], port).into()).start();
    let flags = ["--any", "--backend", run().flag(backend), "--format", "json"];
    let answer = Gatewatch::new(&["clean", &format!("127.0.0.1:{port}")]).with(&flags).run();
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(here.pid())], "{answer:?}");
    assert!(here.is_gone() && there.is_alive());
    assert!(can_bind(here.address()));
});

scenario!(what_is_asked_for_is_proved_whole, |backend| {
    // given a match on one of the asked addresses, and another program on another of them
    let port = unused_port();
    let mine = Part::gateway().on_port(port).start();
    let other = Part::other().on(([127, 0, 0, 2], port).into()).start();
    let flags = ["--backend", run().flag(backend), "--format", "json"];
    let all = format!("0.0.0.0:{port}");
    // then nobody is ended for a server that could not bind them all
    for command in [&["restart", &all][..], &["exec", &all]] {
        let actor = gatewatch_tests::program("actor");
        let server = ["--", actor.to_str().unwrap(), "--exit", "0"];
        let answer = Gatewatch::new(command).with(&flags).with(&server).run();
        assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
        assert!(mine.is_alive() && other.is_alive(), "{answer:?}");
    }
    // and a clean does not call the port free
    let answer = Gatewatch::new(&["clean", &all]).with(&flags).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(other.is_alive());
});

scenario!(an_address_that_a_wildcard_covers_is_cleaned, |backend| {
    let port = unused_port();
    let owner = Part::other().on(([0, 0, 0, 0], port).into()).start();
    let flags = ["--any", "--backend", run().flag(backend), "--format", "json"];
    let answer = Gatewatch::new(&["clean", &format!("127.0.0.1:{port}")]).with(&flags).run();
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(owner.is_gone());
});

scenario!(several_ports_are_answered_in_order_with_the_worst_status, |backend| {
    let (held, free, gateways) = (unused_port(), unused_port(), unused_port());
    let other = Part::other().on_port(held).start();
    let gateway = Part::gateway().on_port(gateways).start();
    let flags = ["--backend", run().flag(backend), "--format", "json"];
    let words = [free, held, gateways].map(|port| port.to_string());
    let answer = Gatewatch::new(&["clean", &words[0], &words[1], &words[2]]).with(&flags).run();
    let outcomes: Vec<Value> = answers(&answer.out).iter().map(|answer| answer["outcome"].clone()).collect();
    assert_eq!(outcomes, ["free", "held_by_other", "cleaned"], "{answer:?}");
    assert_eq!(answer.status, 3, "{answer:?}");
    assert!(other.is_alive() && gateway.is_gone());
});

scenario!(ports_are_answered_in_the_order_of_the_command_line, || {
    let [one, two, three] = [(); 3].map(|()| unused_port());
    let [first, second, third] = [one, two, three].map(|port| port.to_string());
    let both = format!("{first},{second}");
    for (words, order) in [
        (&[&first, "-p", &second, &third][..], [one, two, three]),
        (&["-p", &third, &first, "--port", &second], [three, one, two]),
        (&[&second, "-p", &third, &first, "-p", &second], [two, three, one]),
        (&["-p", &third, &both], [three, one, two]),
    ] {
        let answer = Gatewatch::new(&["owners", "--format", "json"]).with(words).run();
        let ports: Vec<Value> = answers(&answer.out).iter().map(|answer| answer["port"].clone()).collect();
        assert_eq!(ports, order, "{words:?}: {answer:?}");
    }
});

scenario!(wait_waits_for_each_of_several_ports, |backend| {
    let (first, second) = (unused_port(), unused_port());
    let mut owners = [first, second].map(|port| Part::other().on_port(port).start());
    let flags = ["--backend", run().flag(backend), "--format", "json", "--timeout", "20s"];
    let words = [first, second].map(|port| port.to_string());
    let mut wait = Gatewatch::new(&["wait", "free", &words[0], &words[1]]).with(&flags).spawn();
    assert!(wait.is_running());
    owners.iter_mut().for_each(gatewatch_tests::Actor::end);
    let answer = wait.finish();
    assert_eq!(answer.status, 0, "{answer:?}");
    assert_eq!(answers(&answer.out).len(), 2, "{answer:?}");
});

scenario!(exec_ends_nobody_where_one_of_its_ports_stays_held, |backend| {
    let (first, second) = (unused_port(), unused_port());
    let gateway = Part::gateway().on_port(first).start();
    let other = Part::other().on_port(second).start();
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("ran");
    let actor = gatewatch_tests::program("actor");
    let (first, second) = (first.to_string(), second.to_string());
    let words = ["exec", &first, &second, "--backend", run().flag(backend), "--"];
    let command = [actor.to_str().unwrap(), "--touch", file.to_str().unwrap()];
    let answer = Gatewatch::new(&words).with(&command).run();
    assert_eq!(answer.status, 3, "{answer:?}");
    assert!(gateway.is_alive() && other.is_alive() && !file.exists());
});

scenario!(a_port_alone_says_who_owns_it_and_what_would_free_it, || {
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::plain(&[&owner.port().to_string()]);
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(answer.out.contains(&format!("(pid {})", owner.pid())), "{answer:?}");
    // then the command that it ends with works as it is printed
    assert_runs(&next(&answer.out));
    assert!(owner.is_gone() && can_bind(owner.address()));
    // and it means no more than what was asked about
    let asked = Part::other().on_port(unused_port()).start();
    let beside = Part::other().on(([127, 0, 0, 2], asked.port()).into()).start();
    let answer = Gatewatch::plain(&[&asked.address().to_string()]);
    assert_runs(&next(&answer.out));
    assert!(asked.is_gone() && beside.is_alive());
});

scenario!(a_refusal_ends_with_the_command_that_goes_on, || {
    let owner = Part::other().on_port(unused_port()).start();
    let port = owner.port().to_string();
    let answer = Gatewatch::plain(&["clean", &port, "--match-comm", "no such name", "--kill-timeout", "1s"]);
    assert_eq!(answer.status, 3, "{answer:?}");
    assert!(owner.is_alive());
    let next = next(&answer.out);
    assert!(next.contains("--kill-timeout 1s") && !next.contains("no such name"), "{next}");
    assert_runs(&next);
    assert!(owner.is_gone());
});

scenario!(exec_ends_by_yes_what_holds_several_ports, |backend| {
    let owners = [(); 2].map(|()| Part::other().on_port(unused_port()).start());
    let words = [&owners[0], &owners[1]].map(|owner| owner.port().to_string());
    let flags = ["exec", &words[0], &words[1], "--yes", "--backend", run().flag(backend), "--"];
    let actor = gatewatch_tests::program("actor");
    let answer = Gatewatch::new(&flags).with(&[actor.to_str().unwrap(), "--exit", "9"]).run();
    assert_eq!(answer.status, 9, "{answer:?}");
    assert!(owners.iter().all(gatewatch_tests::Actor::is_gone));
});

scenario!(yes_ends_what_matches_no_rule_and_nothing_else, |backend| {
    let port = unused_port();
    let other = Part::other().on_port(port).start();
    let answer = crate::clean::clean(backend, port, &["--yes"]);
    assert_eq!(answer.killed(), [u64::from(other.pid())], "{answer:?}");
    // and a protected process is not asked about
    let protected = Part::other().on_port(port).start();
    let pid = protected.pid().to_string();
    let answer = crate::clean::clean(backend, port, &["--yes", "--protect", &pid]);
    assert_eq!(answer.outcome(), "held_by_protected", "{answer:?}");
    assert!(protected.is_alive());
});

scenario!(words_of_other_tools_get_a_sensible_hint_or_none, || {
    for (words, hint) in [
        (&["kill", "3000"][..], "gatewatch clean 3000"),
        (&["free", ":3000", "3001"], "gatewatch clean :3000 3001"),
        (&["lsof", "3000"], "gatewatch owners 3000"),
        (&["ps"], "gatewatch list"),
        (&["status"], "gatewatch doctor"),
        (&["cleen"], "clean"),
        (&["clean", "3000", "--force"], "--term-timeout"),
        (&["clean", "--prot", "3000"], "--port"),
        (&["wait", "3000"], "gatewatch wait free 3000"),
        (&["wait", "-p", "3000"], "gatewatch wait listening 3000"),
    ] {
        let answer = Gatewatch::plain(words);
        assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{words:?}");
        assert!(answer.err.contains("tip:") && answer.err.contains(hint), "{words:?}: {answer:?}");
        // nor does the usage name a flag that was not meant
        assert!(!answer.err.contains("--socket"), "{words:?}: {answer:?}");
    }
    for words in
        [&["frobnicate"][..], &["clean", "3000", "--frobnicate"], &["wait", "never", "3000"], &["wait"]]
    {
        let answer = Gatewatch::plain(words);
        assert!(answer.status == 2 && !answer.err.contains("tip:"), "{words:?}: {answer:?}");
    }
});

scenario!(colours_are_for_terminals_unless_a_flag_or_a_variable_says_so, || {
    let port = unused_port().to_string();
    let is_coloured = |flags: &[&str], variables: &[&str]| {
        let gatewatch = Gatewatch::new(&["owners", &port]).with(flags);
        let gatewatch = variables.iter().fold(gatewatch, |gatewatch, name| gatewatch.env(name, "1"));
        gatewatch.run().out.contains('\x1b')
    };
    assert!(!is_coloured(&[], &[]));
    assert!(is_coloured(&["--color", "always"], &[]));
    assert!(is_coloured(&[], &["CLICOLOR_FORCE"]));
    // and the flag wins
    assert!(is_coloured(&["--color", "always"], &["NO_COLOR"]));
    assert!(!is_coloured(&["--color", "never"], &["CLICOLOR_FORCE"]));
    // and help and errors heed it as well
    let said = |words: &[&str]| Gatewatch::new(words).env("CLICOLOR_FORCE", "1").run();
    assert!(said(&["--help"]).out.contains('\x1b') && said(&["frobnicate"]).err.contains('\x1b'));
    assert!(!said(&["--color", "never", "--help"]).out.contains('\x1b'));
    assert!(!said(&["frobnicate", "--color=never"]).err.contains('\x1b'));
    // and JSON has none
    assert!(!is_coloured(&["--color", "always", "--format", "json"], &[]));
});

scenario!(a_port_that_nobody_named_is_named_in_the_answer, || {
    let port = unused_port().to_string();
    let answer = Gatewatch::new(&["clean", "--dry-run"]).env("OPENCLAW_GATEWAY_PORT", &port).run();
    assert!(answer.err.contains(&format!("port {port} is meant: OPENCLAW_GATEWAY_PORT")), "{answer:?}");
    let answer = Gatewatch::plain(&["clean", &port, "--dry-run"]);
    assert!(!answer.err.contains("is meant"), "{answer:?}");
});

/// Runs a command line as a person would paste it.
fn assert_runs(line: &str) {
    let words: Vec<String> = if cfg!(windows) {
        // Wine's shell takes no quoted program; none of these words has a space.
        line.replace('"', "").split_whitespace().map(str::to_owned).collect()
    } else {
        ["sh", "-c", line].map(str::to_owned).into()
    };
    let ran = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
    assert!(ran.status.success(), "{line}: {ran:?}");
}
