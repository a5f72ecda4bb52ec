//! The other commands.

use crate::OnceRule;
use gatewatch_tests::{Gatewatch, Needs};

pub(crate) const RULES: &[OnceRule] = &[
    ("doctor_names_each_backend", &[], doctor),
    ("doctor_says_what_mends_a_missing_privilege", &[Needs::Root], doctor_unprivileged),
    ("completions_are_made_for_each_shell", &[], completions),
    ("the_manual_page_is_one", &[], manual),
    ("help_and_version_are_answers", &[], help),
    ("the_demo_cleans_a_stale_gateway", &[Needs::Bpf], demo),
    ("the_demo_works_for_an_ordinary_user", &[Needs::Root], demo_unprivileged),
];

fn doctor() {
    let answer = Gatewatch::plain(&["doctor", "--format", "json"]);
    assert_eq!(answer.status, 0);
    let backends = answer.json()["backends"].clone();
    assert_eq!(backends[0]["name"], "ebpf");
    assert_eq!(backends[1]["name"], "poll");
    assert_eq!(backends[1]["state"], "ok");
    assert!(backends[1]["cost_us"].is_u64());
}

fn doctor_unprivileged() {
    let answer = Gatewatch::new(&["doctor", "--format", "json"]).as_nobody().run().json();
    assert_eq!(answer["backend"], "poll");
    assert_eq!(answer["backends"][0]["state"], "unavailable");
    assert!(answer["backends"][0]["mend"].as_str().unwrap().contains("CAP_BPF"));
    assert_eq!(Gatewatch::new(&["doctor", "--backend", "ebpf"]).as_nobody().run().status, 6);
}

fn completions() {
    for shell in ["bash", "zsh", "fish"] {
        let answer = Gatewatch::plain(&["completions", shell]);
        assert_eq!(answer.status, 0);
        assert!(answer.out.contains("gatewatch") && answer.out.contains("owners"), "{shell}");
    }
}

fn manual() {
    let answer = Gatewatch::plain(&["man"]);
    assert_eq!(answer.status, 0);
    assert!(answer.out.contains(".TH gatewatch 1"));
}

fn help() {
    for arguments in [&["--help"][..], &["--version"], &["clean", "--help"]] {
        let answer = Gatewatch::plain(arguments);
        assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{arguments:?}");
        assert!(answer.out.contains("gatewatch"));
    }
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
