//! The other commands, by kernel events and for ordinary users.

use crate::OnceRule;
use gatewatch_tests::{Gatewatch, Needs};

pub(crate) const RULES: &[OnceRule] = &[
    ("doctor_says_what_mends_a_missing_privilege", &[Needs::Root], doctor_unprivileged),
    ("the_demo_cleans_a_stale_gateway", &[Needs::Bpf], demo),
    ("the_demo_works_for_an_ordinary_user", &[Needs::Root], demo_unprivileged),
];

fn doctor_unprivileged() {
    let answer = Gatewatch::new(&["doctor", "--format", "json"]).as_nobody().run().json();
    assert_eq!(answer["backend"], "poll");
    assert_eq!(answer["backends"][0]["state"], "unavailable");
    assert!(answer["backends"][0]["mend"].as_str().unwrap().contains("CAP_BPF"));
    assert_eq!(Gatewatch::new(&["doctor", "--backend", "ebpf"]).as_nobody().run().status, 6);
}

fn demo() {
    let answer = Gatewatch::plain(&["demo"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    for part in
        ["listen", "match: its title is openclaw-gateway", "by SIGTERM", "release", "free", "first attempt"]
    {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
}

fn demo_unprivileged() {
    let answer = Gatewatch::new(&["demo"]).as_nobody().run();
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(answer.out.contains("As root, the kernel itself tells"), "{answer:?}");
}
