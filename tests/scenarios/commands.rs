//! The other commands.

use gatewatch_tests::{ASKED, Gatewatch};

scenario!(doctor_names_each_backend, || {
    let answer = Gatewatch::plain(&["doctor", "--format", "json"]);
    assert_eq!(answer.status, 0);
    let backends = answer.json()["backends"].clone();
    assert_eq!(backends[0]["name"], "ebpf");
    assert_eq!(backends[1]["name"], "poll");
    assert_eq!(backends[1]["state"], "ok");
    assert!(backends[1]["cost_us"].is_u64());
});

scenario!(completions_are_made_for_each_shell, || {
    for shell in ["bash", "zsh", "fish"] {
        let answer = Gatewatch::plain(&["completions", shell]);
        assert_eq!(answer.status, 0);
        assert!(answer.out.contains("gatewatch"), "{shell}");
    }
});

scenario!(the_manual_page_is_one, || {
    let answer = Gatewatch::plain(&["man"]);
    assert_eq!(answer.status, 0);
    assert!(answer.out.contains(".TH gatewatch 1"));
});

scenario!(each_command_has_a_page_of_its_own, || {
    let folder = tempfile::tempdir().unwrap();
    let answer = Gatewatch::plain(&["man", "--dir", folder.path().to_str().unwrap()]);
    assert_eq!((answer.status, answer.out.as_str(), answer.err.as_str()), (0, "", ""));
    let help = Gatewatch::plain(&["--help"]).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut pages = 0;
    for name in names.map(|line| line.split_whitespace().next().unwrap()).filter(|&name| name != "help") {
        let page = std::fs::read_to_string(folder.path().join(format!("gatewatch-{name}.1"))).unwrap();
        for section in ["NAME", "SYNOPSIS", "\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "EXAMPLES"] {
            assert!(page.contains(&format!(".SH {section}")), "{section} of {name}: {page}");
        }
        pages += 1;
    }
    assert!(pages > 8, "{help}");
    let configuration = std::fs::read_to_string(folder.path().join("gatewatch.toml.5")).unwrap();
    assert!(configuration.contains("[[watch]]"));
});

scenario!(each_command_says_first_what_it_does, || {
    let folder = tempfile::tempdir().unwrap();
    Gatewatch::plain(&["man", "--dir", folder.path().to_str().unwrap()]);
    let help = Gatewatch::plain(&["--help"]).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let described = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let described = described.filter(|(name, _)| !name.is_empty() && *name != "help");
    for (name, what) in described {
        // of a long description, the first line
        let what = what.trim().split(" [alias").next().unwrap();
        let own = Gatewatch::plain(&[name, "--help"]).out;
        assert!(own.starts_with(what), "{name}: {what}\n{own}");
        let page = std::fs::read_to_string(folder.path().join(format!("gatewatch-{name}.1"))).unwrap();
        let plain = page.replace("\\-", "-").replace("\\*(Aq", "'");
        assert!(plain.contains(&format!("gatewatch-{name} - {what}")), "{name}: {what}\n{page}");
    }
});

scenario!(help_and_version_are_answers, || {
    for arguments in [&["--help"][..], &["--version"], &["clean", "--help"]] {
        let answer = Gatewatch::plain(arguments);
        assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{arguments:?}");
        assert!(answer.out.contains("gatewatch"));
    }
});

scenario!(top_is_for_a_terminal_and_says_so_where_there_is_none, || {
    for words in [&["top"][..], &["top", "3000"], &["top", "--backend", "poll"]] {
        let answer = Gatewatch::plain(words);
        assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{words:?}: {answer:?}");
        assert_eq!(answer.err.lines().count(), 1, "{words:?}: {answer:?}");
        assert!(answer.err.contains("top needs a terminal; `gatewatch list`"), "{words:?}: {answer:?}");
    }
    let json = Gatewatch::plain(&["top", "--format", "json"]);
    assert!(json.status == 2 && json.err.contains("watch --all --format json"), "{json:?}");
    let help = Gatewatch::plain(&["top", "--help"]);
    assert_eq!((help.status, help.err.as_str()), (0, ""), "{help:?}");
    assert!(help.out.starts_with("Show ports, their owners"), "{help:?}");
});

scenario!(the_demo_cleans_a_stale_gateway_by_polling, || {
    let answer = Gatewatch::plain(&["demo", "--backend", "poll"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    let asked = format!("by {ASKED}");
    for part in ["listen", "match: its title is openclaw-gateway", &asked, "release", "free", "first attempt"]
    {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
});
