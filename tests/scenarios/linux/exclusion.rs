//! Who is never ended: PID 1. And what users of fewer privileges are told.

use gatewatch_tests::{Answer, Backend, Gatewatch, Needs, Part, unused_port};

use crate::clean::assert_cleaned;
use crate::exclusion::assert_spared_as;
use crate::{OnceRule, Rule};

pub(crate) const RULES: &[Rule] = &[
    ("pid_1_is_never_ended_by_its_sidecar", &[Needs::Root], pid_1_is_never_ended),
    ("pid_1_is_ended_where_it_is_included", &[Needs::Root], pid_1_is_ended_where_it_is_included),
    ("pid_1_is_not_ended_by_its_child_even_where_it_is_included", &[Needs::Root], pid_1_as_an_ancestor),
];

pub(crate) const UNPRIVILEGED_RULES: &[OnceRule] = &[
    ("another_users_owner_is_unknown_and_not_nobody", &[Needs::Root], another_users_owner_is_unknown),
    ("an_owner_that_may_not_be_signalled_is_not_permitted", &[Needs::Bpf], not_permitted),
    ("an_ordinary_user_cleans_its_own_gateway", &[Needs::Root], an_ordinary_user_cleans_its_own_gateway),
    ("an_ordinary_user_is_told_what_polling_loses", &[Needs::Root], told_what_polling_loses),
    ("the_kernel_backend_without_privileges_is_status_6", &[Needs::Root], ebpf_without_privileges),
    ("root_without_bpf_falls_back_to_polling", &[Needs::Root], root_without_bpf),
];

fn pid_1_is_never_ended(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["clean"], gateway.port())
        .with(&["--identity", "any"])
        .inside(gateway.pid())
        .run();
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert_eq!(answer.owner(1)["relation"], "init");
    assert!(gateway.is_alive());
}

fn pid_1_is_ended_where_it_is_included(backend: Backend) {
    // It handles SIGTERM, so the kernel does not drop it.
    let gateway = Part::gateway().on_port(unused_port()).start_as_init();
    let answer = Gatewatch::on(backend, &["clean"], gateway.port())
        .with(&["--include-init"])
        .inside(gateway.pid())
        .run();
    // The namespace ends with its first process, and gatewatch in it: before it, since the first process waits in its exit
    // for all others (pid_namespaces(7)).
    gatewatch_tests::until(&format!("its end: {answer:?}"), || gateway.is_gone());
}

fn pid_1_as_an_ancestor(backend: Backend) {
    let port = unused_port();
    let clean = Gatewatch::on(backend, &["clean"], port).with(&["--include-init"]).words();
    let mut gateway = Part::gateway().on_port(port).running(&clean).start_as_init();
    let lines = [gateway.line(), gateway.line()];
    assert_spared_as(&lines, 1, "ancestor");
    assert!(gateway.is_alive());
}

fn another_users_owner_is_unknown() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Poll, &["clean"], gateway.port()).as_nobody().run();
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.json()["owners"][0]["uid"], 0);
    let owners = Gatewatch::on(Backend::Poll, &["owners"], gateway.port()).as_nobody().run().json();
    assert_eq!(owners["owners"].as_array().unwrap().len(), 1);
    let text = Gatewatch::plain(&["owners", "-p", &gateway.port().to_string()]);
    assert!(text.out.contains("held by one process"));
    assert!(gateway.is_alive());
}

fn not_permitted() {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    for backend in [Backend::Ebpf, Backend::Poll] {
        let answer = Gatewatch::on(backend, &["clean"], gateway.port()).without_capability("kill").run();
        assert_eq!((answer.status, answer.outcome().as_str()), (6, "not_permitted"), "{answer:?}");
        assert_eq!(answer.owner(gateway.pid())["action"], "not_permitted");
        assert!(gateway.is_alive());
    }
}

fn an_ordinary_user_cleans_its_own_gateway() {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let answer = Gatewatch::on(Backend::Poll, &["clean"], gateway.port()).as_nobody().run();
    assert_cleaned(&answer, &gateway);
}

fn told_what_polling_loses() {
    let port = unused_port().to_string();
    let answer = Gatewatch::new(&["owners", "--format", "json", "-p", &port]).as_nobody().run();
    assert_eq!(answer.status, 0);
    assert_eq!(answer.json()["backend"], "poll");
    assert_eq!(answer.err.matches("polling sees no bind or conflict").count(), 1, "{answer:?}");
    assert!(answer.err.contains("run as root"), "{answer:?}");
    let quiet = Gatewatch::new(&["-q", "owners", "-p", &port]).as_nobody().run();
    assert_eq!(quiet.err, "");
}

fn ebpf_without_privileges() {
    let answer = Gatewatch::on(Backend::Ebpf, &["clean"], unused_port()).as_nobody().run();
    assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
    assert!(answer.err.contains("CAP_BPF"), "{answer:?}");
}

fn root_without_bpf() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port().to_string();
    let drop = "--bounding-set=-bpf,-sys_admin,-perfmon";
    let mut words = Gatewatch::new(&["clean", "--format", "json", "-p", &port]).words();
    words.splice(0..0, ["setpriv", drop, "--inh-caps=-bpf,-sys_admin,-perfmon", "--"].map(str::to_owned));
    let run = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let answer = Answer {
        status: run.status.code().unwrap(),
        out: String::from_utf8(run.stdout).unwrap(),
        err: String::from_utf8(run.stderr).unwrap(),
    };
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "poll");
}
