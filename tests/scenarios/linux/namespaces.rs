//! The same port in another network namespace is another port.

use gatewatch_tests::{Backend, Gatewatch, Needs, Part, can_bind, unused_port};

use crate::bad_input::assert_refused;
use crate::clean::clean;
use crate::{OnceRule, Rule};

pub(crate) const RULES: &[Rule] = &[
    ("another_namespaces_gateway_is_not_seen_from_here", &[Needs::Root], not_seen_from_here),
    ("a_gateway_is_cleaned_in_its_own_namespace_alone", &[Needs::Root], cleaned_in_its_own),
    ("a_watch_in_a_namespace_sees_that_one_alone", &[Needs::Root], watched_in_its_own),
    ("from_a_pid_namespace_pids_are_those_seen_there", &[Needs::Root], pids_of_the_namespace),
];

pub(crate) const ONCE_RULES: &[OnceRule] = &[("a_bad_namespace_is_status_2", &[], bad_namespace)];

fn not_seen_from_here(backend: Backend) {
    let port = unused_port();
    let elsewhere = Part::gateway().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let answer = clean(backend, port, &[]);
    assert_eq!(answer.outcome(), "free", "{answer:?}");
    assert!(elsewhere.is_alive());
}

fn cleaned_in_its_own(backend: Backend) {
    let port = unused_port();
    let elsewhere = Part::gateway().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let here = Part::gateway().on_port(port).start();
    let answer = clean(backend, port, &["--netns", &elsewhere.netns()]);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(elsewhere.is_gone());
    assert!(here.is_alive());
    assert!(!can_bind(here.address()));
}

fn watched_in_its_own(backend: Backend) {
    let port = unused_port();
    let elsewhere = Part::other().on(([0, 0, 0, 0], port).into()).in_own_network().start();
    let mut watch = Gatewatch::on(backend, &["watch", "--poll-interval", "2ms"], port)
        .with(&["--netns", &elsewhere.netns()])
        .watch();
    assert_eq!(watch.held.len(), 1);
    // what happens to the port here is no event there
    let here = Part::other().on_port(port).start();
    here.ask_to_end();
    gatewatch_tests::until("the one here has ended", || here.is_gone());
    elsewhere.ask_to_end();
    let release = watch.expect("release");
    assert_eq!(release["address"], format!("0.0.0.0:{port}"));
    watch.expect("free");
}

fn pids_of_the_namespace(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["owners"], gateway.port()).inside(gateway.pid()).run();
    assert_eq!(answer.owner(1)["identity"], "match", "{answer:?}");
    // and an owner outside of the namespace is held by somebody who can't be seen
    let outside = Part::gateway().on_port(unused_port()).start();
    let answer = Gatewatch::on(backend, &["clean"], outside.port()).inside(gateway.pid()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert!(outside.is_alive());
}

fn bad_namespace() {
    for path in ["/no/such/namespace", "/etc/passwd", "/proc/self/ns/pid"] {
        assert_refused(&["clean", "--netns", path], path);
    }
}
