//! PM2 and wrappers: the environment tells what the command line hides.

use super::*;

/// A process whose environment can be read: it lies beside the folder that shows its root.
fn with_environment(argv: &[&str], environment: &[(&str, &str)]) -> (tempfile::TempDir, Process) {
    let proc = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/", proc.path().join("root")).unwrap();
    let entries: String = environment.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
    write(&proc.path().join("environ"), &entries);
    let mut process = process(argv);
    process.root = Some(proc.path().join("root"));
    (proc, process)
}

fn verdict_with(argv: &[&str], environment: &[(&str, &str)]) -> Verdict {
    let (_proc, process) = with_environment(argv, environment);
    judge(&process).verdict
}

#[test]
fn pm2s_title_counts_by_the_script_that_the_environment_names() {
    let folder = package("openclaw");
    let script = text(folder.path().join("dist/index.js"));
    let title = format!("node {script}");
    let by_pm2 = [("HOME", "/root"), ("pm_exec_path", &script)];
    assert_eq!(verdict_with(&[&title], &by_pm2), Verdict::Match);
    // The title was cut by the room that it had.
    assert_eq!(verdict_with(&[&title[..title.len() - 4]], &by_pm2), Verdict::Match);
    // Any process can give itself a title; only PM2 says where the script is.
    assert_eq!(verdict_with(&[&title], &[("pm_exec_path", "/srv/server.js")]), Verdict::Other);
    assert_eq!(verdict_with(&[&title], &[]), Verdict::Other);
    assert_eq!(verdict(&[&title]), Verdict::Unclassified);
    let other = package("another");
    let script = text(other.path().join("dist/index.js"));
    assert_eq!(verdict_with(&[&format!("node {script}")], &[("pm_exec_path", &script)]), Verdict::Other);
}

#[test]
fn the_wrapper_that_the_environment_names_counts() {
    let environment = [("OPENCLAW_WRAPPER", "/usr/local/bin/my-claw")];
    for argv in [
        &["/usr/local/bin/my-claw", "gateway", "--port", "18789"][..],
        &["/bin/sh", "/usr/local/bin/my-claw", "gateway", "--port", "18789"],
        &["node", "/usr/local/bin/my-claw", "gateway", "--port", "18789"],
        &["/usr/bin/env", "-S", "/usr/local/bin/my-claw", "gateway"],
    ] {
        assert_eq!(verdict_with(argv, &environment), Verdict::Match, "{argv:?}");
    }
    for argv in [
        // A child of the gateway has its environment.
        &["/usr/local/bin/other", "gateway", "--port", "18789"][..],
        &["/usr/local/bin/my-claw", "doctor"],
        &["/usr/local/bin/my-claw", "gateway", "status"],
        &["grep", "-r", "x", "/usr/local/bin/my-claw", "gateway"],
    ] {
        assert_eq!(verdict_with(argv, &environment), Verdict::Other, "{argv:?}");
    }
    assert_eq!(
        verdict_with(&["/usr/local/bin/my-claw", "gateway", "--port", "1"], &[("PATH", "/bin")]),
        Verdict::Other
    );
    // Nothing says whether it is one.
    let mut hidden = process(&["/usr/local/bin/my-claw", "gateway", "--port", "1"]);
    hidden.root = Some("/no/such/folder/root".into());
    assert_eq!(judge(&hidden).verdict, Verdict::Unclassified);
}
