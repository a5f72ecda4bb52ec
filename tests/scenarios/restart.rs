//! `restart`: the port is cleaned, the command is run, and a new owner listens.

use gatewatch_tests::{Answer, Backend, Gatewatch, Part, program, unused_port};
use serde_json::Value;

use crate::Rule;

pub(crate) const RULES: &[Rule] = &[
    ("the_new_owner_is_waited_for", &[], restarted),
    ("a_command_that_fails_is_told", &[], command_fails),
    ("nobody_new_is_a_timeout", &[], nobody_new),
    ("another_owner_keeps_the_command_from_running", &[], held_by_other),
    ("a_dry_run_runs_nothing", &[], dry_run),
    ("a_new_owner_that_ends_again_is_a_crash", &[], crash),
    ("an_old_owners_sockets_are_not_the_new_ones", &[], old_sockets),
];

/// A command that is a gateway on the port for so many milliseconds.
pub(crate) fn gateway_command(port: u16, milliseconds: &str) -> Vec<String> {
    let mut command = actor("openclaw-gateway", &["--on"]);
    command.push(format!("127.0.0.1:{port}"));
    // A command gets no input of its own, whose end would be the actor's.
    command.extend(["--stay", "--live-for", milliseconds].map(str::to_owned));
    command
}

/// The actor, by this name, as a command.
fn actor(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = vec![program(name).display().to_string()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    command
}

pub(crate) fn restart(backend: Backend, port: u16, arguments: &[&str], command: &[String]) -> Answer {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let all = Gatewatch::on(backend, &["restart", "--poll-interval", "2ms"], port).with(arguments);
    if command.is_empty() { all.run() } else { all.with(&["--"]).with(&command).run() }
}

/// Ends what a restart has started.
pub(crate) fn end(backend: Backend, port: u16) {
    assert_eq!(crate::clean::clean(backend, port, &[]).status, 0);
}

fn restarted(backend: Backend) {
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
}

fn command_fails(backend: Backend) {
    let answer = restart(backend, unused_port(), &[], &actor("actor", &["--exit", "3"]));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "command_failed"), "{answer:?}");
    assert_eq!(answer.json()["command"]["status"], 3);
    let missing = restart(backend, unused_port(), &[], &["/no/such/program".to_owned()]);
    assert_eq!(missing.status, 1);
    assert!(missing.err.contains("/no/such/program can't be run"), "{missing:?}");
}

fn nobody_new(backend: Backend) {
    let answer =
        restart(backend, unused_port(), &["--listen-timeout", "2s"], &actor("actor", &["--exit", "0"]));
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.json()["command"]["status"], 0);
    // and people are told what did not come, rather than that the port is held
    let port = unused_port().to_string();
    let text =
        Gatewatch::plain(&["restart", "--backend", backend.name(), "-p", &port, "--listen-timeout", "1ms"]);
    assert_eq!(text.status, 7, "{text:?}");
    assert!(text.out.contains(&format!("nobody new listens on port {port} yet")), "{text:?}");
}

fn held_by_other(backend: Backend) {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let other = Part::other().on_port(unused_port()).start();
    let command = actor("actor", &["--touch", &mark.display().to_string()]);
    let answer = restart(backend, other.port(), &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["command"], Value::Null);
    assert!(other.is_alive());
    assert!(!mark.exists());
}

fn dry_run(backend: Backend) {
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
}

fn crash(backend: Backend) {
    let port = unused_port();
    // given a new gateway that ends soon after it has begun to listen
    let answer = restart(backend, port, &["--settle", "10s"], &gateway_command(port, "500"));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "crashed"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("ended again"));
}

fn old_sockets(backend: Backend) {
    // given an old gateway with more sockets than a new one may fail to keep
    let port = unused_port();
    let old =
        (2..5).fold(Part::gateway().on_port(port), |part, last| part.on(([127, 0, 0, last], port).into()));
    let old = old.start();
    let answer = restart(backend, port, &[], &gateway_command(port, "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(old.is_gone());
    // then their release is told as the old one's, in order
    let json = answer.json();
    let steps = json["timeline"].as_array().unwrap();
    assert!(steps.iter().all(|at| at["step"] != "lost"), "{json}");
    let times: Vec<i64> = steps.iter().filter_map(|at| at["at_us"].as_i64()).collect();
    assert!(times.is_sorted() && times[0] == 0, "{json}");
    end(backend, port);
}
