//! Scripts and packages: found, foreign, removed.

use super::*;

#[test]
fn the_same_script_of_another_package_does_not_count() {
    let folder = package("other-app");
    let path = folder.path().join("dist/index.js").display().to_string();
    assert_eq!(verdict(&["node", &path, "gateway"]), Verdict::Other);
}

#[test]
fn the_nearest_package_decides() {
    let folder = package("openclaw");
    let inner = folder.path().join("node_modules/other/dist");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("index.js"), "").unwrap();
    std::fs::write(inner.parent().unwrap().join("package.json"), r#"{"name":"other"}"#).unwrap();
    assert_eq!(verdict(&["node", &inner.join("index.js").display().to_string(), "gateway"]), Verdict::Other);
}

#[test]
fn a_script_or_package_that_can_not_be_read_is_unclassified() {
    assert_eq!(verdict(&["node", "/no/such/dist/index.js", "gateway"]), Verdict::Unclassified);
    let folder = package("openclaw");
    std::fs::write(folder.path().join("package.json"), "{").unwrap();
    let path = folder.path().join("dist/index.js").display().to_string();
    assert_eq!(verdict(&["node", &path, "gateway"]), Verdict::Unclassified);
}

#[test]
fn a_relative_script_needs_the_working_directory() {
    let folder = package("openclaw");
    let mut relative = process(&["node", "dist/index.js", "gateway"]);
    assert_eq!(judge(&relative).verdict, Verdict::Unclassified);
    relative.cwd = Some(folder.path().to_owned());
    assert_eq!(judge(&relative).verdict, Verdict::Match);
}

#[cfg(unix)]
#[test]
fn npms_link_in_the_path_is_followed() {
    let folder = package("openclaw");
    let link = folder.path().join("bin-openclaw");
    std::fs::create_dir(&link).unwrap();
    for target in ["../openclaw.mjs", "./../openclaw.mjs"] {
        let path = link.join("openclaw");
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, &path).unwrap();
        let path = path.display().to_string();
        assert_eq!(verdict(&["node", &path, "gateway"]), Verdict::Match);
        assert_eq!(verdict(&["node", &path, "doctor"]), Verdict::Other);
    }
}

#[cfg(unix)]
#[test]
fn paths_are_those_of_the_processs_own_root() {
    // given a container's root with an absolute link in it
    let root = package("elsewhere");
    let app = root.path().join("app");
    std::fs::create_dir_all(app.join("dist")).unwrap();
    std::fs::write(app.join("dist/index.js"), "").unwrap();
    std::fs::write(app.join("package.json"), r#"{"name":"openclaw"}"#).unwrap();
    std::os::unix::fs::symlink("/app", root.path().join("current")).unwrap();
    let mut inside = process(&["node", "/current/dist/index.js", "gateway"]);
    inside.root = Some(root.path().to_owned());
    assert_eq!(judge(&inside).verdict, Verdict::Match);
}

#[test]
fn a_script_is_found_from_the_working_directory() {
    let folder = package("openclaw");
    for script in ["./dist//index.js", "dist/../dist/index.js", "openclaw.mjs"] {
        assert_eq!(verdict_in(folder.path(), &["node", script, "gateway"]), Verdict::Match, "{script}");
    }
    let dist = folder.path().join("dist");
    for script in ["index.js", "./index.mjs", "entry.js"] {
        assert_eq!(verdict_in(&dist, &["node", script, "gateway"]), Verdict::Match, "{script}");
        assert_eq!(verdict(&["node", script, "gateway"]), Verdict::Unclassified, "{script}");
    }
    let other = package("another");
    assert_eq!(verdict_in(&other.path().join("dist"), &["node", "index.js", "gateway"]), Verdict::Other);
}

#[cfg(unix)]
#[test]
fn a_link_of_any_name_is_followed_before_the_ending_is_compared() {
    let folder = package("openclaw");
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path().join("openclaw.mjs"), bin.path().join("oc")).unwrap();
    std::os::unix::fs::symlink("oc", bin.path().join("assistant.js")).unwrap();
    for link in ["oc", "assistant.js"] {
        assert_eq!(verdict(&["node", &text(bin.path().join(link)), "gateway"]), Verdict::Match);
        assert_eq!(verdict_in(bin.path(), &["node", link, "gateway"]), Verdict::Match);
    }
    // A link whose own path looks like an entry, to a script that is none.
    write(&bin.path().join("server.js"), "//");
    let look_alike = bin.path().join("openclaw.mjs");
    std::os::unix::fs::symlink("server.js", &look_alike).unwrap();
    assert_eq!(verdict(&["node", &text(look_alike), "gateway"]), Verdict::Other);
}

// These paths are absolute on Unix alone: Windows wants a drive before them.
#[cfg(unix)]
#[test]
fn a_removed_installation_counts_where_its_path_says_what_it_was() {
    for path in [
        "/no/such/lib/node_modules/openclaw/dist/index.js",
        "/no/such/.pnpm/openclaw@1/node_modules/openclaw/dist/entry.mjs",
        "/no/such/openclaw/openclaw.mjs",
        "/no/such/clawdbot/dist/entry.js",
    ] {
        assert_eq!(verdict(&["node", path, "gateway"]), Verdict::Match, "{path}");
        assert_eq!(verdict(&["node", path, "doctor"]), Verdict::Other, "{path}");
    }
    for path in [
        "/no/such/dist/index.js",
        "/no/openclaw/such/dist/index.js",
        "/no/such/oc",
        "node_modules/openclaw/dist/index.js",
    ] {
        assert_eq!(verdict(&["node", path, "gateway"]), Verdict::Unclassified, "{path}");
    }
    assert_eq!(verdict(&["node", "/no/such/openclaw/server.js", "gateway"]), Verdict::Other);
}

#[test]
fn a_missing_package_is_judged_by_the_path_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let [named, other] = ["openclaw", "app"].map(|name| folder.path().join(name).join("dist/index.js"));
    write(&named, "//");
    write(&other, "//");
    assert_eq!(verdict(&["node", &text(named), "gateway"]), Verdict::Match);
    assert_eq!(verdict(&["node", &text(other), "gateway"]), Verdict::Other);
}

#[test]
fn no_name_and_no_parsers_words_are_told() {
    let folder = package("the-secret-word");
    let script = text(folder.path().join("dist/index.js"));
    for manifest in [r#"{"name":"the-secret-word"}"#, r#"{"name":12345}"#, "the-secret-word", "[1,2]", "{"] {
        write(&folder.path().join("package.json"), manifest);
        let judgement = judge(&process(&["node", &script, "gateway"]));
        assert_ne!(judgement.verdict, Verdict::Match);
        for told in ["secret", "12345", "line", "column", "expected", "invalid"] {
            assert!(!judgement.why.contains(told), "{}", judgement.why);
        }
    }
}
