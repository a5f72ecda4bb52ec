//! Only what was asked for is ended: by the command line, not by the name.

use std::process::Command;

use gatewatch_tests::{Actor, Backend, FORWARDER, Gatewatch, Part, node_package, program, unused_port};

use crate::clean::{assert_cleaned, clean};

pub(crate) fn assert_left_alone(backend: Backend, owner: &Actor, arguments: &[&str]) {
    let answer = clean(backend, owner.port(), arguments);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    let described = answer.owner(owner.pid());
    assert_eq!((&described["identity"], &described["action"]), (&"other".into(), &"spared".into()));
    assert!(owner.is_alive());
}

scenario!(another_process_is_left_alone, |backend| {
    assert_left_alone(backend, &Part::other().on_port(unused_port()).start(), &[]);
});

scenario!(openclaw_in_a_name_or_an_argument_is_no_gateway, |backend| {
    for name in
        ["openclaw-doctor", "openclaw", "python", "socat", "not-openclaw-gateway", "openclaw-gatewatch"]
    {
        let owner = Part::named(name).on_port(unused_port()).with_comm("openclaw-gatewa").start();
        assert_left_alone(backend, &owner, &[]);
    }
});

pub(crate) fn node(folder: &std::path::Path, script: &str, port: u16) -> Command {
    let mut command = Command::new("node");
    command.current_dir(folder).args([script, "gateway", "--port", &port.to_string()]);
    command
}

scenario!(a_node_gateway_is_known_by_its_script_and_package, needs(Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    node_package("openclaw", folder.path());
    let script = folder.path().join("dist/index.js").display().to_string();
    let gateway = Part::program(node(folder.path(), &script, unused_port())).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(the_same_script_of_another_package_is_left_alone, needs(Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    node_package("another-app", folder.path());
    let owner = Part::program(node(folder.path(), "dist/index.js", unused_port())).start();
    assert_left_alone(backend, &owner, &[]);
});

scenario!(a_gateway_whose_package_is_gone_is_left_alone, needs(Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    node_package("openclaw", folder.path());
    let owner = Part::program(node(folder.path(), "dist/index.js", unused_port())).start();
    std::fs::remove_dir_all(folder.path().join("dist")).unwrap();
    let answer = clean(backend, owner.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.owner(owner.pid())["identity"], "unclassified");
    assert!(owner.is_alive());
});

scenario!(a_relative_script_is_found_from_the_working_directory, needs(Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    node_package("openclaw", folder.path());
    let gateway = Part::program(node(folder.path(), "dist/index.js", unused_port())).start();
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(each_match_flag_narrows, |backend| {
    let owner = Part::other().on_port(unused_port()).with_comm("My-Server").start();
    let exe = owner.program().display().to_string();
    for wrong in [
        ["--match-comm", "your"],
        ["--match-argv", "^--on"],
        ["--match-exe", "/bin/sh"],
        ["--identity", "openclaw-gateway"],
    ] {
        let mut arguments =
            vec!["--match-comm", "server", "--match-argv", "some-server.*--on", "--match-exe", &exe];
        // A flag that is given twice is an error, so the wrong one takes the right one's place.
        if let Some(at) = arguments.iter().position(|argument| *argument == wrong[0]) {
            arguments.drain(at..at + 2);
        }
        arguments.extend(wrong);
        assert_left_alone(backend, &owner, &arguments);
    }
    let arguments = ["--match-comm", "SERVER", "--match-argv", "some-server.*--on", "--match-exe", &exe];
    assert_cleaned(&clean(backend, owner.port(), &arguments), &owner);
});

scenario!(any_ends_anybody, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    assert_cleaned(&clean(backend, owner.port(), &["--identity", "any"]), &owner);
});

scenario!(an_identity_of_the_configuration_is_used, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let owner = Part::other().on_port(unused_port()).with_comm("my-server").start();
    let text = format!(
        "[[watch]]\nport = {}\nidentity = \"mine\"\n[identity.mine]\nargv = \"--on 127\"\ncomm = \"serve\"\n",
        owner.port()
    );
    std::fs::write(&config, text).unwrap();
    // The configuration's rule set for the port is the default one.
    let answer = Gatewatch::new(&["clean", "--backend", backend.name(), "--format", "json", "--config"])
        .with(&[config.to_str().unwrap()])
        .run();
    assert_cleaned(&answer, &owner);
});

// A file of this name counts only where it is root's, so an ordinary user can't play one.
scenario!(a_forwarder_is_left_alone_even_by_any, needs(RootsFiles), |backend| {
    let owner = Part::program(Command::new(program(FORWARDER))).on_port(unused_port()).start();
    assert_left_alone(backend, &owner, &["--identity", "any"]);
});
