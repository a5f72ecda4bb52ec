//! Where /proc shows another pid namespace's processes, nobody can be identified, and nobody is ended.

use gatewatch_tests::{Actor, Answer, Backend, Gatewatch, Life, Part, unused_port};

/// A gateway of its own pid namespace, and a bystander that has the number there that the gateway has in /proc.
fn gateway_and_double(outer: &[&str]) -> (Actor, Life) {
    let gateway = Part::gateway().on_port(unused_port()).start_under_foreign_proc(outer);
    let double = Life::of(gateway.children()[0]);
    (gateway, double)
}

fn run_beside(gateway: &Actor, backend: Backend, command: &str, outer: &[&str]) -> Answer {
    Gatewatch::on(backend, &[command], gateway.port()).inside_with_foreign_proc(gateway.pid(), outer).run()
}

/// The owner is unknown, and nothing that /proc shows by its pid is said of it.
fn assert_unidentified(answer: &Answer) {
    let json = answer.json();
    let owners = json["owners"].as_array().unwrap();
    assert_eq!(owners.len(), 1, "{answer:?}");
    let owner = &owners[0];
    assert_eq!(owner["identity"], "unclassified", "{answer:?}");
    assert!(owner["why"].as_str().unwrap().contains("unshare --mount-proc"), "{answer:?}");
    for key in ["comm", "argv", "exe", "unit", "start_time"] {
        assert!(owner[key].is_null(), "{key}: {answer:?}");
    }
}

fn assert_nobody_is_ended(backend: Backend, outer_unshare: &[&str], outer_nsenter: &[&str]) {
    let (gateway, double) = gateway_and_double(outer_unshare);
    let answer = run_beside(&gateway, backend, "clean", outer_nsenter);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_unidentified(&answer);
    assert!(gateway.is_alive());
    assert!(!double.ends_within(std::time::Duration::ZERO), "the bystander was ended: {answer:?}");
}

scenario!(under_a_foreign_proc_neither_an_owner_nor_its_double_is_ended, needs(Root), |backend| {
    assert_nobody_is_ended(backend, &[], &[]);
});

scenario!(in_a_user_namespace_a_foreign_proc_is_noticed_as_well, needs(Root), || {
    assert_nobody_is_ended(Backend::Poll, &["--user", "--map-root-user"], &["--user"]);
});

scenario!(under_a_foreign_proc_an_owner_is_not_called_by_anothers_name, needs(Root), |backend| {
    let (gateway, _double) = gateway_and_double(&[]);
    assert_unidentified(&run_beside(&gateway, backend, "owners", &[]));
});

scenario!(under_a_foreign_proc_a_watch_does_not_call_an_owner_by_anothers_name, needs(Root), |backend| {
    let (gateway, _double) = gateway_and_double(&[]);
    let watch = Gatewatch::on(backend, &["watch"], gateway.port())
        .inside_with_foreign_proc(gateway.pid(), &[])
        .watch();
    assert_eq!(watch.held.len(), 1, "{:?}", watch.held);
    let held = &watch.held[0];
    assert_eq!(held["event"], "held");
    assert!(held["comm"].is_null() && held["argv"].is_null(), "{held}");
});
