//! `exec`: the port is cleaned, and gatewatch becomes its new owner.

use gatewatch_tests::{Answer, Backend, Gatewatch, Part, unused_port};

use crate::restart::actor;

fn exec(backend: Backend, port: u16, arguments: &[&str], command: &[String]) -> Answer {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Gatewatch::on(backend, &["exec"], port).with(arguments).with(&["--"]).with(&command).run()
}

scenario!(a_port_is_freed_for_the_command, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = exec(backend, old.port(), &[], &actor("actor", &["--exit", "7"]));
    assert_eq!((answer.status, answer.out.as_str()), (7, ""), "{answer:?}");
    assert!(answer.err.contains("\"cleaned\""), "{answer:?}");
    assert!(old.is_gone());
});

scenario!(nothing_is_executed_where_the_port_stays_held, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ran");
    let other = Part::other().on_port(unused_port()).start();
    let command = actor("actor", &["--touch", &mark.display().to_string()]);
    let answer = exec(backend, other.port(), &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(other.is_alive() && !mark.exists());
});

scenario!(neither_a_typo_nor_a_failed_check_costs_anybody_anything, |backend| {
    let old = Part::gateway().on_port(unused_port()).start();
    let answer = exec(backend, old.port(), &[], &["/no/such/program".to_owned()]);
    assert_eq!((answer.status, &answer.json()["reason"]), (2, &"no_such_command".into()), "{answer:?}");
    let answer = exec(backend, old.port(), &["--check", "exit 1"], &actor("actor", &["--exit", "0"]));
    assert_eq!((answer.status, &answer.json()["reason"]), (1, &"check_failed".into()), "{answer:?}");
    assert!(old.is_alive());
});
