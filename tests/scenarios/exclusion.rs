//! Who is never ended, whatever the flags say.

use gatewatch_tests::{Answer, Backend, Gatewatch, Needs, Part, unused_port};

use crate::clean::{assert_cleaned, clean};
use crate::{OnceRule, Rule};

pub(crate) const RULES: &[Rule] = &[
    ("the_callers_parent_is_never_ended", &[], the_callers_parent_is_never_ended),
    ("an_ancestor_forty_hops_away_is_never_ended", &[], an_ancestor_forty_hops_away_is_never_ended),
    ("an_ancestor_is_never_ended_though_its_worker_is", &[], an_ancestor_is_spared_beside_a_stale_one),
    ("a_protected_process_is_never_ended", &[], a_protected_process_is_never_ended),
    ("an_ancestor_of_a_protected_process_is_never_ended", &[], an_ancestor_of_a_protected_process),
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

/// The answer of gatewatch run as a descendant of the owner.
fn cleaned_from_below(
    backend: Backend,
    hops: &str,
    arguments: &[&str],
) -> (gatewatch_tests::Actor, Vec<String>) {
    let port = unused_port();
    let mut words = Gatewatch::on(backend, &["clean"], port).with(arguments).words();
    words.insert(0, "--".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut gateway = Part::gateway().on_port(port).with(&["--hops", hops]).with(&words).start();
    let (answer, status) = (gateway.line(), gateway.line());
    (gateway, vec![answer, status])
}

fn assert_spared_as(lines: &[String], pid: u32, relation: &str) {
    let answer = Answer { status: 4, out: lines[0].clone(), err: String::new() };
    assert_eq!(answer.outcome(), "held_by_protected");
    assert_eq!(answer.owner(pid)["relation"], relation);
    assert_eq!(answer.owner(pid)["action"], "spared");
    assert_eq!(lines[1], "status 4");
}

fn the_callers_parent_is_never_ended(backend: Backend) {
    let (gateway, lines) = cleaned_from_below(backend, "0", &["--identity", "any"]);
    assert_spared_as(&lines, gateway.pid(), "ancestor");
    assert!(gateway.is_alive());
}

fn an_ancestor_forty_hops_away_is_never_ended(backend: Backend) {
    let (gateway, lines) = cleaned_from_below(backend, "40", &[]);
    assert_spared_as(&lines, gateway.pid(), "ancestor");
    assert!(gateway.is_alive());
}

fn an_ancestor_is_spared_beside_a_stale_one(backend: Backend) {
    // given a group of two gateways on one port, one of which is the caller's parent
    let port = unused_port();
    let stale = Part::gateway().on_port(port).with(&["--reuse-port"]).start();
    let mut words = Gatewatch::on(backend, &["clean"], port).words();
    words.insert(0, "--".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut parent = Part::gateway().on_port(port).with(&["--reuse-port"]).with(&words).start();
    let lines = [parent.line(), parent.line()];
    assert_spared_as(&lines, parent.pid(), "ancestor");
    assert!(stale.is_gone());
    assert!(parent.is_alive());
}

fn a_protected_process_is_never_ended(backend: Backend) {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer =
        clean(backend, gateway.port(), &["--identity", "any", "--protect", &gateway.pid().to_string()]);
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"));
    assert_eq!(answer.owner(gateway.pid())["relation"], "protected");
    assert!(gateway.is_alive());
}

fn an_ancestor_of_a_protected_process(backend: Backend) {
    let gateway =
        Part::gateway().on_port(unused_port()).with(&["--workers", "1", "--on-term", "ignore"]).start();
    let answer = clean(backend, gateway.port(), &["--protect", &gateway.pids[1].to_string()]);
    assert_eq!(answer.outcome(), "held_by_protected");
    assert_eq!(answer.owner(gateway.pids[0])["relation"], "protected");
    assert!(gateway.is_alive());
}

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
    // The namespace ends with its first process, and gatewatch in it.
    assert!(gateway.is_gone(), "{answer:?}");
}

fn pid_1_as_an_ancestor(backend: Backend) {
    let port = unused_port();
    let mut words = Gatewatch::on(backend, &["clean"], port).with(&["--include-init"]).words();
    words.insert(0, "--".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut gateway = Part::gateway().on_port(port).with(&words).start_as_init();
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
