//! `restart`: the port is cleaned, the command is run, and a new owner listens.

use gatewatch_tests::{Agent, Answer, Backend, Gatewatch, Needs, Part, programs, unused_port};
use serde_json::Value;

use crate::{OnceRule, Rule};

pub(crate) const RULES: &[Rule] = &[
    ("the_new_owner_is_waited_for", &[], restarted),
    ("a_command_that_fails_is_told", &[], command_fails),
    ("nobody_new_is_a_timeout", &[], nobody_new),
    ("another_owner_keeps_the_command_from_running", &[], held_by_other),
    ("a_dry_run_runs_nothing", &[], dry_run),
    ("a_new_owner_that_ends_again_is_a_crash", &[], crash),
];

pub(crate) const EBPF_RULES: &[OnceRule] = &[
    ("the_timeline_is_the_kernels", &[Needs::Bpf], timeline),
    ("a_supervisor_is_recognised_and_not_fought", &[Needs::Bpf], supervisor),
    ("a_supervisors_new_process_can_be_adopted", &[Needs::Bpf], adopted),
    ("binds_that_fail_again_and_again_are_a_crash_loop", &[Needs::Bpf], conflicts),
    ("through_the_agent_for_an_ordinary_user", &[Needs::Bpf], through_the_agent),
];

/// A command that becomes a gateway on the port for a while.
fn gateway_command(port: u16) -> Vec<String> {
    let actor = programs().join("actor");
    // It lets go of the standard error that it shares with gatewatch, which would else go on after gatewatch's end.
    let script = format!(
        "exec > /dev/null 2>&1; sleep 60 | exec -a openclaw-gateway {} --on 127.0.0.1:{port}",
        actor.display()
    );
    ["bash", "-c", &script].map(str::to_owned).into()
}

fn restart(backend: Backend, port: u16, arguments: &[&str], command: &[String]) -> Answer {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let all = Gatewatch::on(backend, &["restart", "--poll-interval", "2ms"], port).with(arguments);
    if command.is_empty() { all.run() } else { all.with(&["--"]).with(&command).run() }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Ends what a restart has started.
fn end(backend: Backend, port: u16) {
    assert_eq!(crate::clean::clean(backend, port, &[]).status, 0);
}

fn restarted(backend: Backend) {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = restart(backend, old.port(), &[], &gateway_command(old.port()));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(old.pid())]);
    assert!(old.is_gone());
    let json = answer.json();
    assert_eq!(json["command"]["argv"][0], "bash");
    assert!(json["downtime_us"].is_u64(), "{json}");
    let new = u32::try_from(json["new_owner"]["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(Gatewatch::on(backend, &["owners"], old.port()).run().owner(new)["identity"], "match");
    end(backend, old.port());
}

fn command_fails(backend: Backend) {
    let answer = restart(backend, unused_port(), &[], &words("false"));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "command_failed"), "{answer:?}");
    assert_eq!(answer.json()["command"]["status"], 1);
    let missing = restart(backend, unused_port(), &[], &words("/no/such/program"));
    assert_eq!(missing.status, 1);
    assert!(missing.err.contains("/no/such/program can't be run"), "{missing:?}");
}

fn nobody_new(backend: Backend) {
    let answer = restart(backend, unused_port(), &["--listen-timeout", "2s"], &words("true"));
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
    let command = words(&format!("touch {}", mark.display()));
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
    let command = words(&format!("touch {}", mark.display()));
    for port in [gateway.port(), unused_port()] {
        let answer = restart(backend, port, &["--dry-run"], &command);
        assert_eq!(answer.status, 0, "{answer:?}");
    }
    assert!(gateway.is_alive());
    assert!(!mark.exists());
}

fn crash(backend: Backend) {
    let port = unused_port();
    let actor = programs().join("actor");
    // given a new gateway that ends soon after it has begun to listen
    let script = format!(
        "exec > /dev/null 2>&1; sleep 0.2 | exec -a openclaw-gateway {} --on 127.0.0.1:{port}",
        actor.display()
    );
    let command = ["bash", "-c", &script].map(str::to_owned);
    let answer = restart(backend, port, &["--settle", "10s"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "crashed"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("ended again"));
}

fn timeline() {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = restart(Backend::Ebpf, old.port(), &[], &gateway_command(old.port()));
    let json = answer.json();
    let steps: Vec<&Value> = json["timeline"].as_array().unwrap().iter().collect();
    let at = |step: &str| {
        let found = steps.iter().find(|at| at["step"] == step);
        assert!(found.is_some(), "no {step}: {json}");
        found.and_then(|at| at["at_us"].as_i64()).unwrap()
    };
    assert_eq!(at("sigterm"), 0);
    for (earlier, later) in [
        ("sigterm", "released"),
        ("sigterm", "exited"),
        ("released", "command_started"),
        ("command_started", "bind"),
        ("bind", "listen"),
    ] {
        assert!(at(earlier) <= at(later), "{earlier} before {later}: {json}");
    }
    assert_eq!(json["downtime_us"].as_i64().unwrap(), at("listen") - at("released"), "{json}");
    end(Backend::Ebpf, old.port());
}

/// An owner whose supervisor puts another in its place at once.
fn supervised() -> gatewatch_tests::Actor {
    Part::gateway().on_port(unused_port()).with(&["--respawn", "--on-term", "drain:1"]).start()
}

fn supervisor() {
    let gateway = supervised();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let script = format!("exec > /dev/null 2>&1; touch {}; sleep 60", mark.display());
    let answer = restart(Backend::Ebpf, gateway.port(), &[], &["sh", "-c", &script].map(str::to_owned));
    // The supervisor's process is either there before the command, which is then not run, or the one that is waited
    // for; it is never ended.
    assert_eq!(answer.killed(), [u64::from(gateway.pid())], "{answer:?}");
    if answer.outcome() == "respawned" {
        assert_eq!((answer.status, mark.exists()), (8, false));
    } else {
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    }
}

fn adopted() {
    for arguments in [&["--adopt"][..], &[]] {
        let gateway = supervised();
        let answer = restart(Backend::Ebpf, gateway.port(), arguments, &[]);
        if arguments.is_empty() && answer.outcome() == "respawned" {
            continue;
        }
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
        assert_eq!(answer.json()["new_owner"]["comm"], "actor");
    }
}

fn conflicts() {
    let port = unused_port();
    // given a command whose own two servers are in each other's way
    let actor = programs().join("actor");
    let first = format!("sleep 60 | {} --on 127.0.0.1:{port} --bound --no-reuse", actor.display());
    let again = format!("{} --on 127.0.0.1:{port} < <(sleep 5)", actor.display());
    let script =
        format!("exec > /dev/null 2>&1; {first} & sleep 0.1; for i in 1 2 3 4; do {again}; done; sleep 60");
    let answer = restart(Backend::Ebpf, port, &[], &["bash", "-c", &script].map(str::to_owned));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "crashed"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("could not take the port"), "{answer:?}");
    assert_eq!(Gatewatch::on(Backend::Ebpf, &["clean", "--identity", "any"], port).run().status, 0);
}

fn through_the_agent() {
    let old = Part::gateway().on_port(unused_port()).start();
    let more = "clean = { users = [\"nobody\"] }";
    let config = format!("[agent]\ngroup = \"65534\"\n{}", gatewatch_tests::config(&[(old.port(), more)]));
    let agent = Agent::with(&config);
    let command = gateway_command(old.port());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer = agent.ask(&["restart"], old.port()).with(&["--"]).with(&command).as_nobody().run();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["backend"], "agent");
    assert_eq!(answer.json()["new_owner"]["uid"], 65_534);
    assert!(old.is_gone());
    end(Backend::Ebpf, old.port());
}
