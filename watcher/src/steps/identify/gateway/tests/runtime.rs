//! Runtimes: their names and their options.

use super::*;

#[test]
fn a_runtime_with_a_script_of_the_package_counts() {
    let folder = package("openclaw");
    for script in ENTRIES {
        let path = folder.path().join(script).display().to_string();
        for runtime in ["node", "/usr/bin/node", "bun", "tsx", "C:\\node\\NODE.exe"] {
            assert_eq!(
                verdict(&[runtime, &path, "gateway", "--port", "1"]),
                Verdict::Match,
                "{runtime} {path}"
            );
        }
        assert_eq!(
            verdict(&["node", "--max-old-space-size=4096", "-r", "x", &path, "gateway"]),
            Verdict::Match
        );
        assert_eq!(verdict(&["bun", "run", &path, "--profile", "p", "gateway"]), Verdict::Match);
        assert_eq!(verdict(&["node", &path, "status"]), Verdict::Other);
        assert_eq!(verdict(&["node", "-e", &path, "gateway"]), Verdict::Other);
    }
}

#[test]
fn every_name_of_a_runtime_counts() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    for name in ["node-22", "nodejs", "node24.1", "/opt/node_22/bin/node", "bun-1.3", "nodejs-18"] {
        assert_eq!(verdict(&[name, &script, "gateway"]), Verdict::Match, "{name}");
    }
    for name in ["nodemon", "bunny", "tsxx", "python3"] {
        assert_ne!(verdict(&[name, &script, "gateway"]), Verdict::Match, "{name}");
    }
}

#[test]
fn a_runtime_under_another_name_is_known_by_its_executable() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    let mut renamed = process(&["my-service", &script, "gateway"]);
    // Its script says what it is, but nothing says that it runs it.
    assert_eq!(judge(&renamed).verdict, Verdict::Unclassified);
    renamed.exe = Some("/usr/bin/node-22".into());
    assert_eq!(judge(&renamed).verdict, Verdict::Match);
    renamed.exe = Some("/opt/claw-runtime".into());
    renamed.comm = "MainThread".to_owned();
    assert_eq!(judge(&renamed).verdict, Verdict::Match);
}

#[test]
fn development_starts_count() {
    let folder = package("openclaw");
    for argv in [
        &["node", "--import", "tsx", "src/entry.ts", "gateway"][..],
        &["bun", "src/entry.ts", "gateway", "--port", "1"],
        &["bun", "run", "--cwd", "/x", "src/entry.ts", "gateway"],
        &["tsx", "watch", "--include", "x", "src/entry.ts", "gateway"],
        &[
            "node",
            "--require",
            "/x/preflight.cjs",
            "--import",
            "file:///x/loader.mjs",
            "src/entry.ts",
            "gateway",
        ],
        &["node", "scripts/run-node.mjs", "gateway", "--dev"],
    ] {
        assert_eq!(verdict_in(folder.path(), argv), Verdict::Match, "{argv:?}");
    }
}

#[test]
fn nodes_options_that_take_the_next_word_are_known() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    for option in [
        "--disable-warning",
        "--max-http-header-size",
        "--max-old-space-size-percentage",
        "--inspect-port",
        "--diagnostic-dir",
        "--report-dir",
        "--heapsnapshot-signal",
        "--dns-result-order",
        "--unhandled-rejections",
        "--redirect-warnings",
        "--secure-heap",
        "--tls-cipher-list",
        "--v8-pool-size",
        "--watch-path",
        "--trace-event-categories",
        "--network-family-autoselection-attempt-timeout",
        "--cpu-prof-name",
        "--cpu-prof-dir",
        "--heap-prof-name",
        "--localstorage-file",
        "--trace-require-module",
        "--test-name-pattern",
        "--disable-proto",
        "--inspect-publish-uid",
        "--env-file",
        "--title",
        "-C",
        "-r",
    ] {
        for value in ["x", "gateway", "dist/index.js"] {
            assert_eq!(verdict(&["node", option, value, &script, "gateway"]), Verdict::Match, "{option}");
        }
    }
    for flag in ["--stack-trace-limit", "--max-old-space-size", "--max_old_space_size=1", "--no-warnings"] {
        assert_eq!(verdict(&["node", flag, &script, "gateway"]), Verdict::Match, "{flag}");
    }
}

#[test]
fn an_option_that_is_not_known_before_the_script_is_unclassified() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    assert_eq!(verdict(&["node", "--new", &script, "gateway"]), Verdict::Unclassified);
    assert_eq!(verdict(&["node", "--new", "value", &script, "gateway"]), Verdict::Unclassified);
    assert_eq!(verdict(&["node", "--new=value", &script, "gateway"]), Verdict::Match);
    // Where no reading is a gateway's, the option changes nothing.
    assert_eq!(verdict(&["node", "--new", "value", "/srv/server.js"]), Verdict::Other);
    let many: Vec<&str> = std::iter::once("node").chain(["--new"; 20]).chain([&*script, "gateway"]).collect();
    assert_eq!(verdict(&many), Verdict::Unclassified);
}
