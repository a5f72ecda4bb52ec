//! The other commands.

use crate::OnceRule;
use gatewatch_tests::{ASKED, Gatewatch};

pub(crate) const RULES: &[OnceRule] = &[
    ("doctor_names_each_backend", &[], doctor),
    ("completions_are_made_for_each_shell", &[], completions),
    ("the_manual_page_is_one", &[], manual),
    ("help_and_version_are_answers", &[], help),
    ("the_demo_cleans_a_stale_gateway_by_polling", &[], demo),
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
    let answer = Gatewatch::plain(&["demo", "--backend", "poll"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    let asked = format!("by {ASKED}");
    for part in ["listen", "match: its title is openclaw-gateway", &asked, "release", "free", "first attempt"]
    {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
}
