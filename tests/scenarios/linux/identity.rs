//! Names that a process has beside its command line's, and files that no longer exist.

use std::process::Command;

use gatewatch_tests::{Part, Unit, node_package, program, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::identity::{assert_left_alone, node};

scenario!(a_title_with_a_hundred_nuls_is_a_gateway, |backend| {
    // A long argument makes the room that the title's NULs fill.
    let room = "x".repeat(200);
    let gateway = Part::named(&room).on_port(unused_port()).with(&["--title", "openclaw-gateway"]).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    let owner = answer.owner(gateway.pid());
    assert_eq!(owner["argv"], serde_json::json!(["openclaw-gateway"]));
    assert_eq!(owner["comm"], "openclaw-gatewa");
});

scenario!(a_name_alone_is_no_gateway, |backend| {
    let owner = Part::named("node").on_port(unused_port()).with_comm("openclaw-gatewa").start();
    assert_left_alone(backend, &owner, &[]);
});

scenario!(a_removed_executable_still_matches_its_path, |backend| {
    let folder = tempfile::tempdir().unwrap();
    let exe = folder.path().join("my server");
    // A link, because a copy could be busy.
    std::fs::hard_link(program("actor"), &exe).unwrap();
    let owner = Part::program(Command::new(&exe)).on_port(unused_port()).start();
    std::fs::remove_file(&exe).unwrap();
    let answer = clean(backend, owner.port(), &["--match-exe", exe.to_str().unwrap()]);
    assert_cleaned(&answer, &owner);
});

scenario!(a_unit_tells_two_instances_apart, needs(Root), |backend| {
    let name = format!("gatewatch-tests-{}.service", unused_port());
    let unit = Unit::new(&name);
    let owner = Part::other().on_port(unused_port()).start();
    unit.add(owner.pid());
    assert_left_alone(backend, &owner, &["--match-unit", "another.service"]);
    let bare = name.strip_suffix(".service").unwrap();
    let answer = clean(backend, owner.port(), &["--match-unit", bare]);
    assert_cleaned(&answer, &owner);
    assert_eq!(answer.owner(owner.pid())["unit"], name, "{answer:?}");
});

scenario!(a_titled_node_gateway_is_known_by_its_title, needs(Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    node_package("some-app", folder.path());
    let gateway =
        Part::program(node(folder.path(), "dist/index.js", unused_port())).with(&["--titled"]).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["comm"], "openclaw-gatewa");
});
