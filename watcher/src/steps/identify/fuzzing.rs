//! Rules of identity for any command line, environment and package.json.

use std::fs;
use std::path::Path;

use super::package::Package;
use super::{Rules, gateway, package, product};
use crate::model::{Parent, Process, ProcessState, StartTime, Verdict};

thread_local! {
    // Of a thread, because what is static is never dropped, and the folder would stay.
    static FOLDER: tempfile::TempDir = folder();
}

/// What `/proc/PID` has, with small packages in the process's root: the gateway's, and others.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("gatewatch-fuzz").tempdir().expect("a folder");
    for (manifest, place) in
        [("{\"name\":\"openclaw\"}", "app"), ("{\"name\":\"other\"}", "srv/openclaw"), ("{", "broken")]
    {
        let package = folder.path().join("root").join(place);
        fs::create_dir_all(package.join("dist")).expect("a folder");
        for (name, text) in [("package.json", manifest), ("dist/index.js", "//"), ("server.js", "//")] {
            fs::write(package.join(name), text).expect("a file");
        }
    }
    folder
}

/// A line with the name, one with the executable, then the arguments with a NUL after each; after a line of its own that
/// is `environ`, the environment in the same form.
pub(crate) fn gateway(bytes: &[u8]) {
    FOLDER.with(|folder| judge(bytes, folder.path()));
}

fn judge(bytes: &[u8], folder: &Path) {
    const ENVIRON: &[u8] = b"\nenviron\n";
    let at = bytes.windows(ENVIRON.len()).position(|window| window == ENVIRON);
    let (process, environ) =
        at.map_or((bytes, None), |at| (&bytes[..at], Some(&bytes[at + ENVIRON.len()..])));
    let process = String::from_utf8_lossy(process);
    let mut parts = process.splitn(3, '\n');
    let (comm, exe) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let argv: Vec<String> = parts.next().unwrap_or_default().split('\0').map(str::to_owned).collect();
    let place = folder.join("environ");
    match environ {
        Some(environ) => fs::write(&place, environ).expect("a file"),
        None => drop(fs::remove_file(&place)),
    }
    let mut process = Process {
        pid: 100,
        start_time: StartTime { raw: 1, wall: std::time::UNIX_EPOCH },
        parent: Some(Parent { pid: 1, comm: None }),
        session: None,
        uid: Some(nix::unistd::geteuid().as_raw()),
        effective_uid: None,
        user: None,
        state: ProcessState::Running,
        comm: comm.chars().take(15).collect(),
        argv: Some(argv),
        argv_cut: false,
        exe: (!exe.is_empty()).then(|| exe.into()),
        exe_owner: Some(0),
        cwd: Some("/app".into()),
        root: Some(folder.join("root")),
        unit: None,
        container: None,
        pod: None,
        naming: None,
    };
    let judgement = gateway::judge(&process);
    assert_eq!(judgement, gateway::judge(&process));
    assert!(!judgement.why.is_empty() && !judgement.why.contains('\n'), "{judgement:?}");
    if judgement.verdict == Verdict::Match {
        must_have_reason(&process, environ.unwrap_or_default());
    }
    // Every rule set is at most as generous as each of its rules.
    let both = Rules::openclaw_gateway().and(Rules::any()).judge(&process).verdict;
    assert!(both != Verdict::Match || judgement.verdict == Verdict::Match);
    // The rest of a command line can't be guessed.
    process.argv_cut = true;
    assert_ne!(Rules::openclaw_gateway().judge(&process).verdict, Verdict::Match);
    process.argv_cut = false;
    process.argv = None;
    assert_eq!(gateway::judge(&process).verdict, Verdict::Unclassified);
    assert_ne!(Rules::openclaw_gateway().judge(&process).verdict, Verdict::Match);
}

/// A process is the gateway's by the word `gateway`, or by a title that hides it: the name is then a gateway's, cut, or PM2
/// names the script.
fn must_have_reason(process: &Process, environ: &[u8]) {
    let argv = process.argv.as_ref().map(|argv| argv.join("\0").to_lowercase()).unwrap_or_default();
    let by_pm2 = String::from_utf8_lossy(environ).contains("pm_exec_path=");
    assert!(argv.contains("gateway") || process.comm.contains("-gatewa") || by_pm2, "{process:?}");
}

/// A package.json.
pub(crate) fn package(bytes: &[u8]) {
    let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let name = value.as_ref().and_then(|value| value.get("name")?.as_str());
    match package::judge(bytes) {
        Package::Own => assert!(name.is_some_and(product::is_name), "{value:?}"),
        Package::Other => assert!(!name.is_some_and(product::is_name), "{value:?}"),
        Package::Unfit => {}
        hidden @ (Package::None | Package::Hidden) => unreachable!("{hidden:?} of a text that was read"),
    }
}
