//! `restart` and `exec` as only a system with a shell, signals and inherited descriptors shows them.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gatewatch_tests::{
    Actor, Backend, Flood, Gatewatch, Life, Part, Running, Unit, can_bind, install, install_script, program,
    send, until, unused_port,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::restart::{
    actor, assert_released_before_the_start, end, gateway_command, listens, restart, server_command,
};

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}

fn quiet(command: &[String]) -> String {
    format!("{} > /dev/null 2>&1", command.join(" "))
}

scenario!(a_server_that_tries_its_bind_again_is_waited_for, |backend| {
    // given a port that another socket, which does not listen, keeps for another second
    let port = unused_port();
    let address = format!("127.0.0.1:{port}");
    let blocker = ["--on", &address, "--bound", "--no-reuse", "--stay", "--live-for", "1200"];
    let blocker = actor("actor", &blocker);
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said").display().to_string();
    let script = format!(
        "{} > {said} & until grep -q ready {said}; do :; done; exec {}",
        blocker.join(" "),
        quiet(&server_command(port, &["--retries", "60"])),
    );
    let answer = restart(backend, port, &["--listen-timeout", "15s"], &shell(&script));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    end(backend, port);
});

scenario!(who_lets_go_of_another_address_after_the_start_has_not_released_the_port, |backend| {
    // given an owner on another address, which the command ends before it takes the port
    let old = Part::gateway().on_port(unused_port()).start();
    let other = Part::other().on(([127, 0, 0, 2], old.port()).into()).start();
    let script = format!("kill -9 {} && exec {}", other.pid(), quiet(&gateway_command(old.port(), "60000")));
    let answer = restart(backend, old.port(), &["--settle", "500ms"], &shell(&script));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let json = answer.json();
    assert_released_before_the_start(&json);
    assert!(json["downtime_us"].as_u64() > Some(0), "{json}");
    end(backend, old.port());
});

scenario!(a_server_that_leaves_its_starter_is_still_the_commands, |backend| {
    // given a server that is not a match, whose parents have ended, in a session of its own
    let port = unused_port();
    let script = format!(
        "setsid -f {} < /dev/null",
        quiet(&server_command(port, &["--churn", "1", "--churn-pause", "200"]))
    );
    let answer = restart(backend, port, &[], &shell(&script));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
    end(backend, port);
});

scenario!(a_match_that_a_front_end_has_started_elsewhere_is_the_new_owner, |backend| {
    // given a command that has another process start the gateway, and ends well
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let port = unused_port();
    let command = shell(&format!("touch {}; sleep 0.2", asked.display()));
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let running = Gatewatch::on(backend, &["restart"], port).with(&["--"]).with(&words).spawn();
    until("it is asked", || asked.exists());
    let gateway = Part::gateway().on_port(port).start();
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let json = answer.json();
    assert_eq!(
        (&json["new_owner"]["pid"], &json["new_owner"]["by"]),
        (&gateway.pid().into(), &"rules".into())
    );
});

/// A gateway of which no second one gets as far as `listen`.
///
/// Two sockets that have bound with `SO_REUSEADDR` and listen at the same moment are both refused: the kernel's
/// `inet_csk_listen_start` makes each a listener before it looks for others.
fn exclusive_gateway_command(port: u16) -> Vec<String> {
    let mut command = gateway_command(port, "60000");
    command.push("--no-reuse".to_owned());
    command
}

scenario!(of_two_restarts_at_once_one_is_told_by_whom_it_was_overtaken, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let port = unused_port();
    let spawn = |name: &str| -> Running {
        let wait = format!(
            "touch {}; until [ -e {} ]; do sleep 0.01; done",
            file(name).display(),
            file("go").display()
        );
        let command = shell(&format!("{wait}; exec {}", quiet(&exclusive_gateway_command(port))));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        Gatewatch::on(backend, &["restart", "--poll-interval", "2ms"], port)
            .with(&["--"])
            .with(&words)
            .spawn()
    };
    let both = ["one", "other"].map(spawn);
    until("both run their commands", || ["one", "other"].iter().all(|name| file(name).exists()));
    std::fs::File::create(file("go")).unwrap();
    let mut answers = both.map(Running::finish);
    answers.sort_by_key(|answer| answer.status);
    let [winner, loser] = &answers;
    assert_eq!((winner.status, winner.outcome().as_str()), (0, "restarted"), "{answers:?}");
    assert_eq!((loser.status, loser.outcome().as_str()), (8, "respawned"), "{answers:?}");
    assert_eq!(loser.json()["new_owner"]["pid"], winner.json()["new_owner"]["pid"], "{answers:?}");
    end(backend, port);
});

scenario!(two_restarts_of_an_old_owner_at_once_see_no_unknown_one, |backend| {
    for _ in 0..10 {
        // given an old owner whose exit takes a while, because the kernel takes its memory back first
        let old = Part::gateway().on_port(unused_port()).with(&["--memory", "60"]).start();
        let port = old.port();
        let command = shell(&format!("exec {}", quiet(&exclusive_gateway_command(port))));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let flags = ["restart", "--poll-interval", "2ms", "--kill-on-failure"];
        let spawn = |()| Gatewatch::on(backend, &flags, port).with(&["--"]).with(&words).spawn();
        let answers = [(), ()].map(spawn).map(Running::finish);
        // then one of them has its server there, and the other one knows what came between
        assert!(answers.iter().any(|answer| answer.status == 0), "{answers:?}");
        assert!(answers.iter().all(|answer| answer.outcome() != "unknown"), "{answers:?}");
        assert!(old.is_gone());
        end(backend, port);
    }
});

/// Addresses that a server on 127.0.0.1 does not need.
const ELSEWHERE: [&str; 3] = ["127.0.0.2", "[::1]", "[::]"];

/// Another program on such an address.
fn elsewhere(address: &str, port: u16) -> Actor {
    Part::other().on(format!("{address}:{port}").parse().unwrap()).with(&["--v6-only"]).start()
}

scenario!(a_stranger_on_another_address_is_no_end_of_a_restart, |backend| {
    for address in ELSEWHERE {
        // given a command that takes its time, and somebody who takes another address of the port meanwhile
        let old = Part::gateway().on_port(unused_port()).start();
        let port = old.port();
        let folder = tempfile::tempdir().unwrap();
        let [ready, go] = ["ready", "go"].map(|name| folder.path().join(name));
        let wait = format!("touch {}; until [ -e {} ]; do sleep 0.01; done", ready.display(), go.display());
        let command = shell(&format!("{wait}; exec {}", quiet(&server_command(port, &[]))));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let running = Gatewatch::on(backend, &["restart", "--poll-interval", "2ms"], port);
        let running = running.with(&["--"]).with(&words).spawn();
        until("the command runs", || ready.exists());
        let stranger = elsewhere(address, port);
        // when it has been seen
        let watch = Gatewatch::on(backend, &["watch"], port).watch();
        assert_eq!(watch.held[0]["pid"], stranger.pid());
        std::fs::File::create(go).unwrap();
        let answer = running.finish();
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{address}: {answer:?}");
        let owner = &answer.json()["new_owner"];
        assert_eq!(
            (&owner["by"], owner["pid"] == stranger.pid()),
            (&"command".into(), false),
            "{address}: {answer:?}"
        );
        assert!(stranger.is_alive());
        end_at(backend, port);
    }
});

scenario!(an_owner_of_ipv6_alone_is_no_obstacle_to_a_restart_of_ipv4s, |backend| {
    for address in ELSEWHERE {
        let old = Part::gateway().on_port(unused_port()).start();
        let port = old.port();
        let other = elsewhere(address, port);
        let answer = restart(backend, port, &[], &gateway_command(port, "60000"));
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{address}: {answer:?}");
        assert_eq!(answer.killed(), [u64::from(old.pid())], "{address}: {answer:?}");
        assert_eq!(answer.owner(other.pid())["action"], "spared", "{address}: {answer:?}");
        assert!(other.is_alive());
        end_at(backend, port);
    }
});

/// Ends what listens on 127.0.0.1, and nobody else.
fn end_at(backend: Backend, port: u16) {
    let address = format!("127.0.0.1:{port}");
    let words = ["clean", "--any", "--backend", gatewatch_tests::run().flag(backend), &address];
    assert_eq!(Gatewatch::plain(&words).status, 0);
}

scenario!(a_server_that_tries_again_to_the_end_is_not_served_by_who_overtook_it, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let [ready, go] = ["ready", "go"].map(|name| folder.path().join(name));
    let mut command = gateway_command(port, "60000");
    command.extend(["--retries", "600"].map(str::to_owned));
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.01; done; {}",
        ready.display(),
        go.display(),
        quiet(&command)
    );
    let command = shell(&script);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let restart = ["restart", "--listen-timeout", "4s", "--kill-on-failure"];
    let running = Gatewatch::on(backend, &restart, port).with(&["--"]).with(&words).spawn();
    until("the command runs", || ready.exists());
    let winner = Part::gateway().on_port(port).start();
    std::fs::File::create(go).unwrap();
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["reason"], &json["new_owner"]["pid"]), (&"stranger".into(), &winner.pid().into()));
    assert!(winner.is_alive());
});

scenario!(a_command_that_starts_its_server_again_is_not_served_by_who_overtook_it, |backend| {
    // given a command that is no server itself, starts one twice, and rests when the time is over
    let port = unused_port();
    let folder = tempfile::tempdir().unwrap();
    let [ready, go, rests] = ["ready", "go", "rests"].map(|name| folder.path().join(name));
    let mut server = gateway_command(port, "60000");
    server.extend(["--retries", "5"].map(str::to_owned));
    let wait = format!("touch {}; until [ -e {} ]; do sleep 0.01; done", ready.display(), go.display());
    let server = quiet(&server);
    let command =
        shell(&format!("{wait}; {server}; {server}; touch {}; exec sleep 60 > /dev/null", rests.display()));
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let restart = ["restart", "--listen-timeout", "6s", "--kill-on-failure"];
    let running = Gatewatch::on(backend, &restart, port).with(&["--"]).with(&words).spawn();
    until("the command runs", || ready.exists());
    let winner = Part::gateway().on_port(port).start();
    std::fs::File::create(go).unwrap();
    let answer = running.finish();
    assert!(rests.exists(), "{answer:?}");
    assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["reason"], &json["new_owner"]["pid"]), (&"stranger".into(), &winner.pid().into()));
    assert!(winner.is_alive());
});

scenario!(an_overtaken_restart_tells_a_person_by_whom, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let [ready, go] = ["ready", "go"].map(|name| folder.path().join(name));
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.01; done; exec {}",
        ready.display(),
        go.display(),
        quiet(&gateway_command(port, "60000"))
    );
    let command = shell(&script);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let running = Gatewatch::in_text(backend, &["restart", "--poll-interval", "2ms"], port);
    let running = running.with(&["--"]).with(&words).spawn();
    until("the command runs", || ready.exists());
    let winner = Part::gateway().on_port(port).start();
    std::fs::File::create(go).unwrap();
    let answer = running.finish();
    assert_eq!(answer.status, 8, "{answer:?}");
    let by = format!("port {port} was taken by {} (pid {})", winner.file_name(), winner.pid());
    assert!(answer.out.lines().next().unwrap().contains(&by), "{answer:?}");
    assert!(winner.is_alive());
});

/// Restarts a port by a server that comes up elsewhere, interrupts that by each signal, and hands the answer on.
fn interrupted(backend: Backend, restart: &[&str], elsewhere: u16, then: impl Fn(&serde_json::Value)) {
    let port = unused_port();
    let command = server_command(elsewhere, &[]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let running = Gatewatch::on(backend, restart, port).with(&["--"]).with(&words).spawn();
        until("the command runs", || listens(elsewhere));
        send(running.pid(), signal);
        let answer = running.finish();
        assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
        then(&answer.json());
    }
}

scenario!(an_interrupt_ends_a_restart_that_is_never_without_an_event, needs(Bpf), || {
    // given a command that does not listen there, and binds that come faster than they are followed
    let (port, elsewhere) = (unused_port(), unused_port());
    let command = server_command(elsewhere, &[]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let restart = ["restart", "--listen-timeout", "10m", "--kill-on-failure"];
    let running = Gatewatch::on(Backend::Ebpf, &restart, port).with(&["--"]).with(&words).spawn();
    until("the command runs", || listens(elsewhere));
    let flood = Flood::without_listening(port);
    until("there is always an event", || flood.count() > 20_000);
    send(running.pid(), Signal::SIGTERM);
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
});

scenario!(an_interrupted_restart_says_what_runs_on, |backend| {
    let elsewhere = unused_port();
    interrupted(backend, &["restart"], elsewhere, |json| {
        let why = json["why"].as_str().unwrap();
        assert!(why.contains("interrupted") && why.contains(&format!("listens on {elsewhere}")), "{json}");
        end(backend, elsewhere);
    });
});

scenario!(a_command_that_the_interrupt_ends_too_does_not_run_on, |backend| {
    // given a terminal's process group: gatewatch, and a command that comes up elsewhere
    let (port, elsewhere) = (unused_port(), unused_port());
    let words = Gatewatch::on(backend, &["restart"], port).with(&["--"]).words();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(server_command(elsewhere, &[]));
        command.env("GATEWATCH_SOCKET", "/nonexistent/agent.sock").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let running = command.spawn().unwrap();
        until("the command runs", || listens(elsewhere));
        // when the whole group is interrupted
        killpg(Pid::from_raw(running.id().try_into().unwrap()), signal).unwrap();
        let answer = running.wait_with_output().unwrap();
        assert_eq!(answer.status.code(), Some(7), "{answer:?}");
        let json: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        let why = json["why"].as_str().unwrap();
        assert!(why.contains("interrupted") && !why.contains("still runs"), "{json}");
        assert_eq!(json["command"]["running"], serde_json::Value::Null, "{json}");
    }
});

scenario!(an_interrupt_ends_the_command_where_a_failure_does, |backend| {
    let elsewhere = unused_port();
    interrupted(backend, &["restart", "--kill-on-failure"], elsewhere, |json| {
        let why = json["why"].as_str().unwrap();
        assert!(why.contains("interrupted") && why.contains("was ended"), "{json}");
        assert!(can_bind(([127, 0, 0, 1], elsewhere).into()), "{json}");
    });
});

scenario!(a_script_that_can_not_be_executed_costs_nobody_anything, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str, mode| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file.display().to_string()
    };
    for (command, why) in [
        (script("plain", "#!/bin/sh\n", 0o644), "may not be executed"),
        (script("lost", "#!/no/such/shell\n", 0o755), "/no/such/shell is missing"),
    ] {
        let answer = restart(backend, old.port(), &[], &[command]);
        assert_eq!((answer.status, &answer.json()["reason"]), (2, &"no_such_command".into()), "{answer:?}");
        assert!(answer.err.contains(why), "{answer:?}");
    }
    assert!(old.is_alive());
});

/// The actor's program, changed by this.
fn changed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut program = std::fs::read(program("actor")).unwrap();
    change(&mut program);
    program
}

scenario!(an_interrupt_while_an_owner_is_waited_for_is_answered, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let touch = actor("actor", &["--touch", &mark.display().to_string()]);
    for (verb, signal) in [
        ("clean", Signal::SIGINT),
        ("restart", Signal::SIGINT),
        ("exec", Signal::SIGINT),
        ("restart", Signal::SIGTERM),
    ] {
        // given an owner that closes its listener when it is asked to end, and takes its time
        let owner = Part::gateway().on_port(unused_port()).with(&["--on-term", "close"]).start();
        let running = Gatewatch::on(backend, &[verb, "--term-timeout", "10m"], owner.port());
        let words: Vec<&str> = touch.iter().map(String::as_str).collect();
        let running = if verb == "clean" { running } else { running.with(&["--"]).with(&words) }.spawn();
        until("it was asked to end", || !listens(owner.port()));
        send(running.pid(), signal);
        // then the answer tells whom that has been asked, and that it was all
        let answer = running.finish();
        assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{verb}: {answer:?}");
        let json = answer.json();
        assert_eq!(json["reason"], "interrupted", "{verb}: {answer:?}");
        let told = answer.owner(owner.pid());
        assert_eq!(
            (&told["action"], &told["asked_by"]),
            (&"survived".into(), &"SIGTERM".into()),
            "{verb}: {answer:?}"
        );
        if verb != "clean" {
            assert_eq!(json["command"], serde_json::Value::Null, "{verb}: {answer:?}");
            assert!(json["why"].as_str().unwrap().contains("the command was not run"), "{verb}: {answer:?}");
        }
        assert!(owner.is_alive() && !mark.exists(), "{verb}: {answer:?}");
    }
});

/// What the kernel refuses, each as a file in the folder, and a word of the reason that is told.
fn refused_by_the_kernel(folder: &Path) -> Vec<(String, &'static str)> {
    let file = |name: &str, content: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file.display().to_string()
    };
    let mut refused = vec![
        (file("empty", b""), "neither a program nor a script"),
        (file("text", b"echo hi\n"), "neither a program nor a script"),
        (file("nameless", b"#! \n"), "neither a program nor a script"),
        (file("begun", &changed(|it| it.truncate(7))), "is cut short"),
        (file("part", &changed(|it| it.truncate(64 * 1024))), "is cut short"),
        (file("split", b"#!/usr/bin/env -S no-such-node -y\n"), "no-such-node is missing"),
        (file("unsplit", b"#!/usr/bin/env sh -e\n"), "env -S"),
    ];
    refused.push((file("by-part", format!("#!{}/part\n", folder.display()).as_bytes()), "is cut short"));
    // A static program has no loader that could be missing.
    let loader = b"/ld-linux";
    let at = |program: &[u8]| program.windows(loader.len()).position(|part| part == loader);
    if at(&changed(|_| ())).is_some() {
        let lost = changed(|program| {
            let at = at(program).unwrap();
            program[at + 1] = b'_';
        });
        refused.push((file("lost", &lost), "is missing"));
    }
    refused
}

scenario!(what_the_kernel_would_not_execute_costs_nobody_anything, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let folder = tempfile::tempdir().unwrap();
    for (command, why) in refused_by_the_kernel(folder.path()) {
        for verb in ["restart", "exec"] {
            let answer = Gatewatch::on(backend, &[verb], old.port()).with(&["--", &command]).run();
            assert_eq!(answer.status, 2, "{verb} {command}: {answer:?}");
            let json = answer.json();
            assert_eq!(json["reason"], "no_such_command", "{verb} {command}: {answer:?}");
            assert!(json["why"].as_str().unwrap().contains(why), "{verb} {command}: {answer:?}");
        }
    }
    assert!(old.is_alive());
});

scenario!(a_command_that_is_being_written_costs_nobody_anything_without_a_word, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let busy = folder.path().join("busy");
    install(&program("actor"), &busy);
    let _writer = std::fs::File::options().append(true).open(&busy).unwrap();
    if Command::new(&busy).args(["--exit", "0"]).status().is_ok() {
        // Linux 6.11 and 6.12 run it.
        return;
    }
    for verb in ["restart", "exec"] {
        let old = Part::gateway().on_port(unused_port()).start();
        let flags = ["--", busy.to_str().unwrap(), "--exit", "0"];
        let answer = Gatewatch::on(backend, &[verb], old.port()).with(&flags).run();
        // then it is refused; a kernel that does not tell beforehand makes it an answer with all that was done
        if answer.status == 2 {
            assert_eq!(answer.json()["reason"], "no_such_command", "{verb}: {answer:?}");
            assert!(old.is_alive(), "{verb}: {answer:?}");
        } else {
            assert_eq!(
                (answer.status, answer.outcome().as_str()),
                (1, "command_failed"),
                "{verb}: {answer:?}"
            );
            assert_eq!(answer.killed(), [u64::from(old.pid())], "{verb}: {answer:?}");
        }
    }
});

scenario!(a_command_that_can_not_be_started_after_all_is_told_with_all_that_was_done, |backend| {
    // given a command that is gone once it has been looked up
    let folder = tempfile::tempdir().unwrap();
    let command = folder.path().join("command");
    for verb in ["restart", "exec"] {
        let old = Part::gateway().on_port(unused_port()).start();
        install(&program("actor"), &command);
        let check = format!("rm {}", command.display());
        let flags = ["--check", &check, "--", command.to_str().unwrap(), "--exit", "0"];
        let answer = Gatewatch::on(backend, &[verb], old.port()).with(&flags).run();
        // then the answer names whom that has cost its port
        assert_eq!((answer.status, answer.outcome().as_str()), (1, "command_failed"), "{verb}: {answer:?}");
        assert_eq!(answer.killed(), [u64::from(old.pid())], "{verb}: {answer:?}");
        let json = answer.json();
        assert!(json["why"].as_str().unwrap().contains("can't be run"), "{verb}: {answer:?}");
        assert_eq!(json["command"], serde_json::Value::Null, "{verb}: {answer:?}");
        // and a person reads it too
        let old = Part::gateway().on_port(unused_port()).start();
        install(&program("actor"), &command);
        let answer = Gatewatch::in_text(backend, &[verb], old.port()).with(&flags).run();
        assert_eq!(answer.status, 1, "{verb}: {answer:?}");
        assert!(answer.out.contains("can't be run"), "{verb}: {answer:?}");
        assert!(answer.out.contains(&format!("(pid {})", old.pid())), "{verb}: {answer:?}");
    }
});

scenario!(who_has_started_an_ended_owner_and_lives_on_is_named, |backend| {
    // given a shell that goes on after its server's end, or ends with it
    for (then, lives_on) in [("; cat", true), ("; exit", false)] {
        let port = unused_port();
        let address = format!("127.0.0.1:{port}");
        let server = actor("openclaw-gateway", &["--on", &address, "--stay", "--live-for", "60000"]);
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{} < /dev/null{then}", quiet(&server))])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        until("it listens", || listens(port));
        let answer = Gatewatch::in_text(backend, &["clean"], port).run();
        assert_eq!(answer.status, 0, "{answer:?}");
        let said = format!("started by sh (pid {}), which lives on", shell.id());
        assert_eq!(answer.out.contains(&said), lives_on, "{answer:?}");
        assert_eq!(answer.out.contains("which lives on"), lives_on, "{answer:?}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
});

scenario!(exec_is_the_new_owner_itself, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let command = server_command(old.port(), &[]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let running = Gatewatch::on(backend, &["exec"], old.port()).with(&["--"]).with(&words).spawn();
    let pid = running.pid();
    until("it listens", || {
        let owners = Gatewatch::on(backend, &["owners"], old.port()).run().json();
        owners["owners"]
            .as_array()
            .unwrap()
            .iter()
            .any(|owner| owner["pid"] == pid && owner["comm"] == "some-server")
    });
    assert!(old.is_gone());
    send(pid, Signal::SIGTERM);
    assert_eq!(running.finish().status, 0);
});

/// Whether a process has a socket.
fn has_sockets(pid: u32) -> bool {
    let Ok(entries) = Path::new(&format!("/proc/{pid}/fd")).read_dir() else { return false };
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    entries.flatten().filter_map(target).any(|target| target.to_string_lossy().starts_with("socket:"))
}

scenario!(a_listener_that_gatewatch_has_inherited_does_not_make_it_an_owner, |backend| {
    // given a server that lets its children inherit its listener, and restarts itself through a detached gatewatch
    let port = unused_port();
    let folder = tempfile::tempdir().unwrap();
    let (out, pid) = (folder.path().join("out"), folder.path().join("pid"));
    let command = format!("echo $$ > {}; exec sleep 60 > /dev/null 2>&1", pid.display());
    let gatewatch = Gatewatch::on(backend, &["restart", "--listen-timeout", "500ms"], port).words().join(" ");
    // Until its parent has ended, the server is its ancestor.
    let detach = "while [ \"$(cat /proc/$PPID/comm 2> /dev/null)\" = setsid ]; do :; done";
    let script = format!("{detach}; exec {gatewatch} -- sh -c '{command}' > {}", out.display());
    let detached = ["setsid", "-f", "sh", "-c", &script].map(str::to_owned);
    let server = Part::gateway().on_port(port).with(&["--leak"]).running(&detached).start();
    until("it answers", || std::fs::read_to_string(&out).is_ok_and(|text| text.ends_with('\n')));
    let answer: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(answer["killed"][0], server.pid(), "{answer}");
    assert_eq!(answer["outcome"], "timed_out", "{answer}");
    assert!(can_bind(server.address()));
    // and what it has run has no socket of anybody
    let pid: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(!has_sockets(pid));
    let life = Life::of(pid);
    send(pid, Signal::SIGKILL);
    assert!(life.ends_within(gatewatch_tests::PATIENCE));
});

scenario!(a_stranger_is_no_success_of_a_restart_by_any, |backend| {
    // given a command that ends well and starts nothing
    let port = unused_port();
    let restart = Gatewatch::on(backend, &["restart", "--any", "--listen-timeout", "20s"], port);
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let actor = program("actor");
    let running = restart.with(&["--", actor.to_str().unwrap(), "--touch", ran.to_str().unwrap()]).spawn();
    until("the command has run", || ran.exists());
    // when somebody else takes the port
    let stranger = Part::other().on_port(port).start();
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    assert_eq!((&answer.json()["reason"], stranger.is_alive()), (&"stranger".into(), true), "{answer:?}");
});

scenario!(a_units_own_process_is_left_to_systemctl, |backend| {
    // given a systemctl that knows one unit, whose main process it ends and replaces itself
    let old = Part::gateway().on_port(unused_port()).start();
    let folder = tempfile::tempdir().unwrap();
    let systemctl = folder.path().join("systemctl");
    let again = quiet(&gateway_command(old.port(), "60000"));
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = show ]; then echo LoadState=loaded; echo MainPID={0}; exit; fi\n\
         kill {0}; while kill -0 {0} 2> /dev/null && ! grep -q '^State:.Z' /proc/{0}/status; do sleep 0.01; done\n\
         setsid -f {again} < /dev/null\n",
        old.pid()
    );
    install_script(&script, &systemctl);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let restart = Gatewatch::on(backend, &["restart"], old.port()).env("PATH", &path);
    let answer = restart.with(&["--", "systemctl", "restart", "my-gateway"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(answer.err.contains("--unit my-gateway"), "{answer:?}");
    // then gatewatch has ended nobody
    assert_eq!(answer.killed(), [0; 0]);
    assert!(old.is_gone());
    end(backend, old.port());
});

scenario!(whoever_is_of_the_unit_is_the_new_owner, needs(Root), |backend| {
    // given a systemctl that has the service manager start another process of the unit, which matches no rule
    let name = format!("gatewatch-tests-{}.service", unused_port());
    let unit = Unit::new(&name);
    let old = Part::gateway().on_port(unused_port()).start();
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let show = format!("echo LoadState=loaded; echo MainPID={}", old.pid());
    let script =
        format!("#!/bin/sh\nif [ \"$1\" = show ]; then {show}; else touch {}; fi\n", asked.display());
    let systemctl = folder.path().join("systemctl");
    install_script(&script, &systemctl);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let restart = Gatewatch::on(backend, &["restart", "--unit", &name], old.port()).env("PATH", &path);
    let running = restart.spawn();
    until("systemctl has been asked", || asked.exists());
    // when a stranger would have been refused, and the unit's process is not
    let begin = folder.path().join("begin");
    let server = shell(&format!(
        "until [ -e {} ]; do sleep 0.01; done; exec {}",
        begin.display(),
        quiet(&server_command(old.port(), &[]))
    ));
    let server = Command::new(&server[0]).args(&server[1..]).spawn().unwrap();
    unit.add(server.id());
    let mut server = crate::linux::field::Server(server);
    drop(old);
    std::fs::File::create(begin).unwrap();
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let owner = &answer.json()["new_owner"];
    assert_eq!((&owner["by"], &owner["pid"]), (&"unit".into(), &server.0.id().into()), "{answer:?}");
    assert!(server.0.try_wait().unwrap().is_none());
});

scenario!(what_was_to_be_ignored_is_ignored_by_the_executed_command, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    // given a gatewatch that nohup(1) has started
    let mut words = Gatewatch::on(backend, &["exec"], old.port()).words();
    words.extend(["--", "grep", "SigIgn", "/proc/self/status"].map(str::to_owned));
    let output =
        Command::new("sh").args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).args(words).output().unwrap();
    assert!(old.is_gone());
    // then the server that it becomes outlives its terminal
    let out = String::from_utf8(output.stdout).unwrap();
    let mask = u64::from_str_radix(out.split_whitespace().next_back().unwrap(), 16).unwrap();
    assert_eq!(mask & 1, 1, "{out}");
});
