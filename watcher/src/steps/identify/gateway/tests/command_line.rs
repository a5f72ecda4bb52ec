//! Titles, and the product's own command line.

use super::*;

#[test]
fn the_title_counts_alone_and_as_a_path() {
    assert_eq!(verdict(&["openclaw-gateway"]), Verdict::Match);
    assert_eq!(verdict(&["/usr/local/bin/openclaw-gateway", "--port", "1"]), Verdict::Match);
    assert_eq!(verdict(&["C:\\Tools\\OpenClaw-Gateway.EXE"]), Verdict::Match);
    assert_eq!(verdict(&["openclaw-gateway", "", "", ""]), Verdict::Match);
}

#[test]
fn a_cut_title_counts_only_with_the_cut_name() {
    let mut cut = process(&["openclaw-gat"]);
    cut.comm = "openclaw-gatewa".to_owned();
    assert_eq!(judge(&cut).verdict, Verdict::Match);
    cut.comm = "node".to_owned();
    assert_eq!(judge(&cut).verdict, Verdict::Other);
    let mut longer = process(&["openclaw-gatewatch"]);
    longer.comm = "openclaw-gatewa".to_owned();
    assert_eq!(judge(&longer).verdict, Verdict::Other);
}

#[test]
fn the_name_alone_never_counts() {
    let mut hidden = process(&["openclaw-gateway"]);
    hidden.argv = None;
    assert_eq!(judge(&hidden).verdict, Verdict::Unclassified);
    hidden.argv = Some(vec![String::new()]);
    assert_eq!(judge(&hidden).verdict, Verdict::Unclassified);
}

#[test]
fn openclaw_counts_by_its_first_subcommand() {
    assert_eq!(verdict(&["openclaw", "gateway", "--port", "18789"]), Verdict::Match);
    assert_eq!(verdict(&["/usr/bin/openclaw", "--dev", "--profile", "x", "gateway"]), Verdict::Match);
    assert_eq!(verdict(&["openclaw", "--profile=x", "gateway"]), Verdict::Match);
    assert_eq!(verdict(&["openclaw"]), Verdict::Other);
}

#[test]
fn a_word_that_is_an_options_value_is_not_the_subcommand() {
    assert_eq!(verdict(&["openclaw", "agent", "--message", "gateway"]), Verdict::Other);
    assert_eq!(verdict(&["openclaw", "--profile", "gateway", "status"]), Verdict::Other);
}

#[test]
fn an_unknown_option_that_changes_the_reading_is_unclassified() {
    assert_eq!(verdict(&["openclaw", "--new", "gateway"]), Verdict::Unclassified);
    assert_eq!(verdict(&["openclaw", "--new", "gateway", "gateway"]), Verdict::Match);
}

#[test]
fn look_alikes_do_not_count() {
    for argv in [
        &["openclaw-doctor"][..],
        &["python", "gateway"],
        &["python3", "/opt/openclaw/dist/index.js", "gateway"],
        &["node", "custom.js", "gateway"],
        &["node", "/x/mydist/index.js", "gateway"],
        &["socat", "TCP-LISTEN:18789", "EXEC:openclaw gateway"],
        &["grep", "openclaw-gateway"],
        &["node"],
    ] {
        assert_eq!(verdict(argv), Verdict::Other, "{argv:?}");
    }
}

#[test]
fn former_names_of_the_product_count() {
    for name in ["clawdbot", "moltbot"] {
        assert_eq!(verdict(&[&format!("{name}-gateway")]), Verdict::Match);
        assert_eq!(verdict(&[name, "gateway", "--port", "1"]), Verdict::Match);
        assert_eq!(verdict(&[name, "doctor"]), Verdict::Other);
        let folder = package(name);
        let script = text(folder.path().join("dist/entry.js"));
        assert_eq!(verdict(&["node", &script, "gateway"]), Verdict::Match);
    }
    let mut cut = process(&["clawdbot-gate"]);
    cut.comm = "clawdbot-gatewa".to_owned();
    assert_eq!(judge(&cut).verdict, Verdict::Match);
}

#[test]
fn the_gateways_other_errands_do_not_count() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    for errand in ["status", "health", "call", "probe", "discover", "stop", "restart", "install"] {
        assert_eq!(verdict(&["node", &script, "gateway", errand]), Verdict::Other, "{errand}");
        assert_eq!(verdict(&["openclaw", "gateway", "--port", "1", errand]), Verdict::Other, "{errand}");
        // Here the word is a value.
        assert_eq!(verdict(&["openclaw", "gateway", "--token", errand]), Verdict::Match, "{errand}");
    }
    for argv in [
        &["gateway", "run"][..],
        &["gateway", "run", "--port", "1", "--allow-unconfigured"],
        &["gateway", "--force", "--new-option"],
        &["--", "gateway"],
    ] {
        let argv: Vec<&str> = ["node", &script].iter().chain(argv).copied().collect();
        assert_eq!(verdict(&argv), Verdict::Match, "{argv:?}");
    }
}

#[test]
fn the_products_other_commands_do_not_count() {
    let folder = package("openclaw");
    let script = text(folder.path().join("openclaw.mjs"));
    for command in [
        &["status"][..],
        &["doctor"],
        &["tui"],
        &["agent", "--message", "gateway"],
        &["node", "run"],
        &["mcp", "serve"],
        &["acp"],
        &["proxy", "start"],
        &["daemon", "restart"],
        &[],
    ] {
        for start in [&["openclaw"][..], &["node", &script]] {
            let argv: Vec<&str> = start.iter().chain(command).copied().collect();
            assert_eq!(verdict(&argv), Verdict::Other, "{argv:?}");
        }
    }
    for title in ["openclaw-doctor", "openclaw-tui", "openclaw-node", "openclaw"] {
        assert_eq!(verdict(&[title]), Verdict::Other, "{title}");
    }
}
