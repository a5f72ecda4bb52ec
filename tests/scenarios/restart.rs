//! `restart`: the port is cleaned, the command is run, and a new owner listens.

use std::net::{Ipv4Addr, TcpStream};

use gatewatch_tests::{Actor, Answer, Backend, Gatewatch, Part, can_bind, program, until, unused_port};
use serde_json::Value;

pub(crate) const RESTART: &[&str] = &["restart", "--poll-interval", "2ms"];

/// A command that is a gateway on the port for this many milliseconds.
pub(crate) fn gateway_command(port: u16, milliseconds: &str) -> Vec<String> {
    let mut command = actor("openclaw-gateway", &["--on"]);
    command.push(format!("127.0.0.1:{port}"));
    // A command gets no input of its own, and an actor that does not stay ends with its input.
    command.extend(["--stay", "--live-for", milliseconds].map(str::to_owned));
    command
}

/// A command that is a server on the port, and is not a gateway.
pub(crate) fn server_command(port: u16, more: &[&str]) -> Vec<String> {
    let address = format!("127.0.0.1:{port}");
    let mut command = actor("some-server", &["--on", &address, "--stay", "--live-for", "60000"]);
    command.extend(more.iter().map(|&word| word.to_owned()));
    command
}

/// The actor, by this name, as a command.
pub(crate) fn actor(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = vec![program(name).display().to_string()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    command
}

pub(crate) fn restart(backend: Backend, port: u16, arguments: &[&str], command: &[String]) -> Answer {
    run(Gatewatch::on(backend, RESTART, port).with(arguments), command)
}

/// Runs it with the command, if there is one.
pub(crate) fn run(restart: Gatewatch, command: &[String]) -> Answer {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    if command.is_empty() { restart.run() } else { restart.with(&["--"]).with(&command).run() }
}

/// Whether somebody listens there. A bind would answer that as well, and could be in the way of the one that is to come.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ends what a restart has started.
pub(crate) fn end(backend: Backend, port: u16) {
    assert_eq!(crate::clean::clean(backend, port, &["--identity", "any"]).status, 0);
}

/// That a restart's timeline has the release before the command's start.
pub(crate) fn assert_released_before_the_start(json: &Value) {
    let steps = json["timeline"].as_array().unwrap();
    let at = |step: &str| steps.iter().find(|at| at["step"] == step).and_then(|at| at["at_us"].as_i64());
    let (released, started) = (at("released"), at("command_started"));
    assert!(released.is_some() && released <= started, "{json}");
}

scenario!(the_new_owner_is_waited_for, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = restart(backend, old.port(), &[], &gateway_command(old.port(), "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(old.pid())]);
    assert!(old.is_gone());
    let json = answer.json();
    assert_eq!(json["command"]["argv"][1], "--on");
    assert!(json["downtime_us"].is_u64(), "{json}");
    let new = u32::try_from(json["new_owner"]["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(Gatewatch::on(backend, &["owners"], old.port()).run().owner(new)["identity"], "match");
    end(backend, old.port());
});

scenario!(the_new_owner_of_several_ports_is_waited_for_on_each, |backend| {
    // given an owner of two ports
    let ports = [unused_port(), unused_port()];
    let [first, second] = ports.map(|port| format!("127.0.0.1:{port}"));
    let old = Part::gateway().with(&["--on", &first, "--on", &second]).start();
    // when both are asked for
    let one = gateway_command(ports[0], "60000");
    let words = [&ports[1].to_string(), "--"].map(str::to_owned).into_iter().chain(one);
    let words: Vec<String> = words.chain(["--on".to_owned(), second]).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let answer = Gatewatch::on(backend, &["restart"], ports[0]).with(&words).run();
    // then each has an answer, and the same new owner
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(old.is_gone());
    let lines = answer.lines();
    let owners: Vec<&Value> = lines.iter().map(|line| &line["new_owner"]["pid"]).collect();
    assert_eq!(lines.iter().map(|line| &line["outcome"]).collect::<Vec<_>>(), ["restarted"; 2], "{answer:?}");
    assert_eq!(lines.iter().map(|line| &line["port"]).collect::<Vec<_>>(), ports, "{answer:?}");
    assert_eq!(owners[0], owners[1]);
    assert!(owners[0].is_u64(), "{answer:?}");
    end(backend, ports[0]);
});

scenario!(a_restart_of_several_ports_is_not_done_while_one_has_no_owner, |backend| {
    let ports = [unused_port(), unused_port()];
    let only_one = gateway_command(ports[0], "60000");
    let words: Vec<&str> = only_one.iter().map(String::as_str).collect();
    let second = ports[1].to_string();
    let answer = Gatewatch::on(backend, &["restart"], ports[0])
        .with(&[&second, "--listen-timeout", "3s", "--kill-on-failure", "--"])
        .with(&words)
        .run();
    assert_eq!(answer.status, 7, "{answer:?}");
    let lines = answer.lines();
    let outcomes: Vec<&Value> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["restarted", "timed_out"], "{answer:?}");
});

scenario!(where_one_of_several_ports_stays_held_a_restart_ends_nobody, |backend| {
    // given a gateway on one port, and another program on the other
    let gateway = Part::gateway().on_port(unused_port()).start();
    let other = Part::other().on_port(unused_port()).start();
    let answer =
        restart(backend, gateway.port(), &[&other.port().to_string()], &actor("never-run", &["--stay"]));
    assert_eq!(answer.status, 3, "{answer:?}");
    let lines = answer.lines();
    let outcomes: Vec<&Value> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["would_clean", "held_by_other"], "{answer:?}");
    assert!(lines.iter().all(|line| line["command"].is_null()), "{answer:?}");
    assert!(gateway.is_alive() && other.is_alive());
});

scenario!(the_commands_output_is_no_part_of_the_json, |backend| {
    let port = unused_port();
    let command = gateway_command(port, "60000");
    let answer = restart(backend, port, &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.out.lines().count(), 1, "{answer:?}");
    assert!(answer.err.contains("ready {"), "{answer:?}");
    end(backend, port);
    // for a person it stays where the command puts it
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = Gatewatch::in_text(backend, &["restart"], port).with(&["--"]).with(&words).run();
    assert!(text.out.contains("ready {") && !text.err.contains("ready {"), "{text:?}");
    end(backend, port);
});

scenario!(the_port_is_released_before_the_command_is_started, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = restart(backend, old.port(), &[], &gateway_command(old.port(), "60000"));
    assert_released_before_the_start(&answer.json());
    end(backend, old.port());
});

scenario!(a_command_that_fails_is_told, |backend| {
    let answer = restart(backend, unused_port(), &[], &actor("actor", &["--exit", "3"]));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "command_failed"), "{answer:?}");
    assert_eq!(answer.json()["command"]["status"], 3);
});

scenario!(a_command_that_can_not_be_run_costs_nobody_anything, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    for command in ["/no/such/program", "no-such-program"] {
        let answer = restart(backend, old.port(), &[], &[command.to_owned()]);
        assert_eq!(answer.status, 2, "{answer:?}");
        assert!(answer.err.contains(&format!("{command} can't be run")), "{answer:?}");
        let json = answer.json();
        assert_eq!(
            (&json["reason"], &json["command"]["argv"][0]),
            (&"no_such_command".into(), &command.into())
        );
    }
    assert!(old.is_alive());
});

scenario!(a_check_that_fails_costs_nobody_anything, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let command = gateway_command(old.port(), "60000");
    let answer = restart(backend, old.port(), &["--check", "echo wrong && exit 3"], &command);
    assert_eq!((answer.status, &answer.json()["reason"]), (1, &"check_failed".into()), "{answer:?}");
    assert!(answer.err.contains("status 3") && answer.err.contains("wrong"), "{answer:?}");
    assert!(old.is_alive());
    // and one that succeeds stands in nobody's way
    let answer = restart(backend, old.port(), &["--check", "exit 0"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    end(backend, old.port());
});

scenario!(a_server_that_tries_its_port_first_is_waited_for, |backend| {
    for pause in ["0", "5", "50", "500"] {
        let port = unused_port();
        let probing = server_command(port, &["--churn", "1", "--churn-pause", pause]);
        let answer = restart(backend, port, &[], &probing);
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{pause}: {answer:?}");
        assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
        until("it listens", || listens(port));
        end(backend, port);
    }
});

scenario!(a_command_that_listens_elsewhere_is_said_to_run_on, |backend| {
    let (port, elsewhere) = (unused_port(), unused_port());
    let command = server_command(elsewhere, &[]);
    let answer = restart(backend, port, &["--listen-timeout", "1s"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let json = answer.json();
    let why = json["why"].as_str().unwrap();
    assert!(why.contains(&format!("still runs, and listens on {elsewhere}")), "{json}");
    assert_eq!(json["command"]["listeners"][0], format!("127.0.0.1:{elsewhere}"));
    end(backend, elsewhere);
    // and is ended where that was asked for
    let answer = restart(backend, port, &["--listen-timeout", "1s", "--kill-on-failure"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("was ended"), "{answer:?}");
    until("the command has ended", || can_bind(([127, 0, 0, 1], elsewhere).into()));
});

scenario!(a_command_that_listens_on_another_address_is_said_to, |backend| {
    // given that 127.0.0.1 is asked for, and the command's server comes up beside it
    let port = unused_port();
    let asked = format!("127.0.0.1:{port}");
    let address = format!("127.0.0.2:{port}");
    let command = actor("some-server", &["--on", &address, "--stay", "--live-for", "60000"]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let restart = ["restart", &asked, "--format", "json", "--listen-timeout", "2s"];
    let restart = Gatewatch::new(&restart).with(&["--backend", gatewatch_tests::run().flag(backend), "--"]);
    let answer = restart.with(&words).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let json = answer.json();
    assert!(json["why"].as_str().unwrap().contains(&format!("listens on {address}")), "{json}");
    end(backend, port);
});

/// A restart whose command runs on for this long, does not want the port, and ends with this status; and a gateway that
/// takes the port meanwhile.
fn a_match_beside_a_command(backend: Backend, patience: &str, runs: &str, status: &str) -> (Answer, Actor) {
    let (port, elsewhere) = (unused_port(), unused_port());
    let address = format!("127.0.0.1:{elsewhere}");
    let command = ["--on", &address, "--stay", "--live-for", runs, "--status", status];
    let command = actor("some-server", &command);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let running = Gatewatch::on(backend, &["restart", "--listen-timeout", patience], port);
    let running = running.with(&["--"]).with(&words).spawn();
    until("the command runs", || listens(elsewhere));
    let gateway = Part::gateway().on_port(port).start();
    let answer = running.finish();
    if listens(elsewhere) {
        end(backend, elsewhere);
    }
    assert!(gateway.is_alive());
    (answer, gateway)
}

scenario!(a_match_is_the_new_owner_beside_a_command_that_runs_on, |backend| {
    let (answer, gateway) = a_match_beside_a_command(backend, "4s", "60000", "0");
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let owner = &answer.json()["new_owner"];
    assert_eq!((&owner["pid"], &owner["by"]), (&gateway.pid().into(), &"rules".into()));
    // and it is told that the command is another process, which runs on
    let running = &answer.json()["command"]["running"];
    assert!(running.is_u64() && running != &owner["pid"], "{answer:?}");
});

scenario!(a_match_is_not_the_success_of_a_command_that_fails, |backend| {
    let (answer, gateway) = a_match_beside_a_command(backend, "15s", "3000", "1");
    assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["reason"], &json["new_owner"]["pid"]), (&"stranger".into(), &gateway.pid().into()));
});

scenario!(a_stranger_is_nobodys_success, |backend| {
    let (port, elsewhere) = (unused_port(), unused_port());
    let command = server_command(elsewhere, &[]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let running = Gatewatch::on(backend, &["restart", "--kill-on-failure"], port);
    let running = running.with(&["--"]).with(&words).spawn();
    until("the command runs", || listens(elsewhere));
    let stranger = Part::other().on_port(port).start();
    let answer = running.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["reason"], &json["new_owner"]["pid"]), (&"stranger".into(), &stranger.pid().into()));
    assert_eq!(json["new_owner"]["by"], Value::Null);
    assert!(json["why"].as_str().unwrap().contains(&format!("(pid {})", stranger.pid())), "{json}");
    assert!(stranger.is_alive());
});

scenario!(nobody_new_is_a_timeout, |backend| {
    let answer =
        restart(backend, unused_port(), &["--listen-timeout", "2s"], &actor("actor", &["--exit", "0"]));
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.json()["command"]["status"], 0);
    // and people are told that no new owner came, not that the port is held
    let port = unused_port().to_string();
    let text =
        Gatewatch::plain(&["restart", "--backend", backend.name(), "-p", &port, "--listen-timeout", "1ms"]);
    assert_eq!(text.status, 7, "{text:?}");
    assert!(text.out.contains(&format!("nobody new listens on port {port} yet")), "{text:?}");
});

scenario!(another_owner_keeps_the_command_from_running, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let other = Part::other().on_port(unused_port()).start();
    let command = actor("actor", &["--touch", &mark.display().to_string()]);
    let answer = restart(backend, other.port(), &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["command"], Value::Null);
    assert!(other.is_alive());
    assert!(!mark.exists());
});

scenario!(an_owner_on_another_address_is_no_obstacle_to_a_restart, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let other = Part::other().on(([127, 0, 0, 2], old.port()).into()).start();
    let answer = restart(backend, old.port(), &[], &gateway_command(old.port(), "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(old.pid())]);
    assert_eq!(answer.owner(other.pid())["action"], "spared");
    assert!(other.is_alive());
    crate::clean::clean(backend, old.port(), &[]);
});

scenario!(a_dry_run_runs_nothing, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let gateway = Part::gateway().on_port(unused_port()).start();
    let command = actor("actor", &["--touch", &mark.display().to_string()]);
    for port in [gateway.port(), unused_port()] {
        let answer = restart(backend, port, &["--dry-run"], &command);
        assert_eq!(answer.status, 0, "{answer:?}");
    }
    assert!(gateway.is_alive());
    assert!(!mark.exists());
});

scenario!(a_new_owner_that_ends_again_is_a_crash, |backend| {
    let port = unused_port();
    // given a new gateway that ends soon after it has begun to listen
    let answer = restart(backend, port, &["--settle", "10s"], &gateway_command(port, "500"));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "crashed"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("ended again"));
});

scenario!(an_old_owners_sockets_are_not_the_new_ones, |backend| {
    // given an old gateway with more sockets than a new one may fail to keep
    let port = unused_port();
    let old =
        (2..5).fold(Part::gateway().on_port(port), |part, last| part.on(([127, 0, 0, last], port).into()));
    let old = old.start();
    let answer = restart(backend, port, &[], &gateway_command(port, "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(old.is_gone());
    // then their release is reported as the old one's, in order
    let json = answer.json();
    let steps = json["timeline"].as_array().unwrap();
    assert!(steps.iter().all(|at| at["step"] != "lost"), "{json}");
    let times: Vec<i64> = steps.iter().filter_map(|at| at["at_us"].as_i64()).collect();
    assert!(times.is_sorted() && times[0] == 0, "{json}");
    end(backend, port);
});

scenario!(a_restart_is_drawn_into_a_file, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("restart.svg");
    // what was in the file before is gone, however long it was
    std::fs::write(&file, "before ".repeat(10_000)).unwrap();
    let old = Part::gateway().on_port(unused_port()).start();
    let flags = ["--svg", file.to_str().unwrap()];
    let answer = restart(backend, old.port(), &flags, &gateway_command(old.port(), "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let picture = std::fs::read_to_string(&file).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>"), "{picture}");
    assert!(!picture.contains("before"));
    let title = format!("port {}: restarted, down for ", old.port());
    for part in [&title, "port released", "command started", "listening", "prefers-color-scheme: dark"] {
        assert!(picture.contains(part), "{part} is not in {picture}");
    }
    assert!(picture.contains(&format!("old, pid {}", old.pid())));
    end(backend, old.port());
});

scenario!(a_picture_that_can_not_be_written_is_refused_before_a_signal, |backend| {
    let owner = Part::gateway().on_port(unused_port()).start();
    let flags = ["--svg", "/nonexistent/folder/restart.svg"];
    let answer = restart(backend, owner.port(), &flags, &gateway_command(owner.port(), "60000"));
    assert_eq!(answer.status, 2, "{answer:?}");
    assert!(answer.err.contains("--svg /nonexistent/folder/restart.svg"), "{answer:?}");
    assert!(owner.is_alive());
});
