//! `restart` by kernel events, and through the agent.

use gatewatch_tests::{Agent, Backend, Gatewatch, Part, program, unused_port};
use serde_json::Value;

use crate::restart::{end, gateway_command, restart};

scenario!(the_timeline_is_the_kernels, needs(Bpf), || {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = restart(Backend::Ebpf, old.port(), &[], &gateway_command(old.port(), "60000"));
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
});

/// An owner whose supervisor puts another in its place at once.
fn supervised() -> gatewatch_tests::Actor {
    Part::gateway().on_port(unused_port()).with(&["--respawn", "--on-term", "drain:1"]).start()
}

scenario!(a_supervisor_is_recognised_and_not_fought, needs(Bpf), || {
    let gateway = supervised();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let script = format!("exec > /dev/null 2>&1; touch {}; sleep 10", mark.display());
    let arguments = ["--listen-timeout", "2s", "--kill-on-failure"];
    let command = ["sh", "-c", &script].map(str::to_owned);
    let answer = restart(Backend::Ebpf, gateway.port(), &arguments, &command);
    // The supervisor's process comes before the command, which is then not run, or after it; it is never ended, and never
    // taken for the command's.
    assert_eq!(answer.killed(), [u64::from(gateway.pid())], "{answer:?}");
    let json = answer.json();
    if mark.exists() {
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
        assert_eq!(json["new_owner"]["by"], "rules", "{answer:?}");
    } else {
        assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
    }
    assert_eq!(json["command"].is_null(), !mark.exists(), "{answer:?}");
});

scenario!(a_supervisors_new_process_can_be_adopted, needs(Bpf), || {
    for arguments in [&["--adopt"][..], &[]] {
        let gateway = supervised();
        let answer = restart(Backend::Ebpf, gateway.port(), arguments, &[]);
        if arguments.is_empty() && answer.outcome() == "respawned" {
            continue;
        }
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
        assert_eq!(answer.json()["new_owner"]["comm"], "actor");
    }
});

scenario!(binds_that_fail_again_and_again_are_a_crash_loop, needs(Bpf), || {
    let port = unused_port();
    // given a command with two servers that want the same port
    let actor = program("actor");
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said").display().to_string();
    let first = format!("sleep 60 | {} --on 127.0.0.1:{port} --bound --no-reuse > {said}", actor.display());
    let until_it_holds = format!("until grep -q ready {said}; do :; done");
    let again = format!("{} --on 127.0.0.1:{port} < <(sleep 5)", actor.display());
    let script = format!(
        "exec > /dev/null 2>&1; {first} & {until_it_holds}; for i in 1 2 3; do {again}; done; sleep 60"
    );
    let answer = restart(Backend::Ebpf, port, &[], &["bash", "-c", &script].map(str::to_owned));
    assert_eq!((answer.status, answer.outcome().as_str()), (1, "crashed"), "{answer:?}");
    assert!(answer.json()["why"].as_str().unwrap().contains("could not take the port"), "{answer:?}");
    assert_eq!(Gatewatch::on(Backend::Ebpf, &["clean", "--identity", "any"], port).run().status, 0);
});

scenario!(through_the_agent_for_an_ordinary_user, needs(Bpf), || {
    let old = Part::gateway().on_port(unused_port()).start();
    let more = "clean = { users = [\"nobody\"] }";
    let config = format!("[agent]\ngroup = \"65534\"\n{}", gatewatch_tests::config(&[(old.port(), more)]));
    let agent = Agent::with(&config);
    let command = gateway_command(old.port(), "60000");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer = agent.ask(&["restart"], old.port()).with(&["--"]).with(&command).as_nobody().run();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["backend"], "agent");
    assert_eq!(answer.json()["new_owner"]["uid"], 65_534);
    assert!(old.is_gone());
    end(Backend::Ebpf, old.port());
});
