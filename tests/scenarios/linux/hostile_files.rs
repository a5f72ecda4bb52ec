//! Files that a hostile process has chosen: what is read of them tells nobody what he could not read himself, and nobody
//! waits for them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use gatewatch_tests::{Actor, Agent, Connection, Part, unused_port};

use super::hostile::assert_unknown;
use crate::clean::clean;

/// A user's process whose command line is a gateway's of Node, with this folder as its package.
fn like_a_gateway(package: &Path) -> Part {
    let script = package.join("dist/index.js");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, "").unwrap();
    fs::set_permissions(package, fs::Permissions::from_mode(0o777)).unwrap();
    Part::other().as_nobody().with(&["--command-line", &format!("node|{}|gateway", script.display())])
}

scenario!(a_package_file_that_is_not_the_users_to_read_tells_nothing, needs(Root), |backend| {
    let secrets = tempfile::tempdir().unwrap();
    let secret = secrets.path().join("secret");
    fs::write(&secret, "{\"name\":\"openclaw\",\"token\":4711}").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(secrets.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut answers = Vec::new();
    for target in
        [secret.as_path(), Path::new("/nonexistent"), Path::new("/dev/zero"), Path::new("/proc/kmsg")]
    {
        let package = tempfile::tempdir().unwrap();
        let file = package.path().join("package.json");
        symlink(target, &file).unwrap();
        let owner = like_a_gateway(package.path()).on_port(unused_port()).start();
        let answer = clean(backend, owner.port(), &[]);
        assert_unknown(&answer, &owner);
        for told in ["4711", "openclaw", "expected", "column"] {
            let why = answer.owner(owner.pid())["why"].as_str().unwrap().to_owned();
            assert!(!why.contains(told), "{why}");
        }
        answers.push(answer.owner(owner.pid())["why"].clone());
    }
    // whether a path exists can't be told from it either
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
});

scenario!(a_folder_that_is_not_the_users_to_enter_tells_nothing_of_what_is_in_it, needs(Root), |backend| {
    // given a folder of root's, which nobody else may enter, with a gateway's package and another one
    let closed = tempfile::tempdir().unwrap();
    for (place, name) in [("gateway", "openclaw"), ("another", "left-pad")] {
        let package = closed.path().join(place);
        fs::create_dir_all(package.join("dist")).unwrap();
        fs::write(package.join("dist/index.js"), "").unwrap();
        fs::write(package.join("package.json"), format!("{{\"name\":\"{name}\"}}")).unwrap();
    }
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut answers = Vec::new();
    // when a user's script lies there by a link of that user's, or would if there were such a folder
    for target in ["gateway", "another", "nothing", "gateway/package.json"] {
        let own = tempfile::tempdir().unwrap();
        fs::set_permissions(own.path(), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(closed.path().join(target), own.path().join("link")).unwrap();
        let command_line = format!("node|{}/link/dist/index.js|gateway", own.path().display());
        let part = Part::other().as_nobody().with(&["--command-line", &command_line]);
        let owner = part.on_port(unused_port()).start();
        let answer = clean(backend, owner.port(), &[]);
        assert_unknown(&answer, &owner);
        answers.push(answer.owner(owner.pid())["why"].clone());
    }
    // then no answer tells which of them exists
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // nor when the package's file is a link to such a folder, or to none
    let mut answers = Vec::new();
    for target in ["gateway", "nothing"] {
        let own = tempfile::tempdir().unwrap();
        symlink(closed.path().join(target), own.path().join("package.json")).unwrap();
        let owner = like_a_gateway(own.path()).on_port(unused_port()).start();
        let answer = clean(backend, owner.port(), &[]);
        assert_unknown(&answer, &owner);
        answers.push(answer.owner(owner.pid())["why"].clone());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
});

scenario!(nobody_waits_for_a_package_file, needs(Root), |backend| {
    let package = tempfile::tempdir().unwrap();
    let file = package.path().join("package.json");
    // a FIFO that nobody writes to
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let owner = like_a_gateway(package.path()).on_port(unused_port()).start();
    assert_unknown(&clean(backend, owner.port(), &[]), &owner);
    drop(owner);
    // and a file under a lease that is never given back
    fs::remove_file(&file).unwrap();
    fs::write(&file, "{\"name\":\"openclaw\"}").unwrap();
    std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
    let lease = ["--lease", file.to_str().unwrap()];
    let owner = like_a_gateway(package.path()).on_port(unused_port()).with(&lease).start();
    assert_unknown(&clean(backend, owner.port(), &[]), &owner);
});

/// A user's process that looks like a gateway, whose package lies in a file system that never answers. The file system is
/// in the process's own mount namespace, and goes with it.
fn with_hanging_files(user: u32, address: SocketAddr) -> (Actor, tempfile::TempDir) {
    let package = tempfile::tempdir().unwrap();
    let script = "mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0,allow_other hanging \"$1\" && \
                  shift && exec setpriv --reuid \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("exec 3<>/dev/fuse; {script}"), "sh"]);
    command.arg(package.path()).args([&user.to_string(), "--clear-groups"]);
    let command_line = format!("node|{}/dist/index.js|gateway", package.path().display());
    command.arg(gatewatch_tests::program("some-server")).args(["--command-line", &command_line]);
    (Part::program(command).on(address).start(), package)
}

scenario!(a_process_that_can_not_be_read_in_time_holds_up_nobody_else, needs(Fuse), || {
    let other = Part::other().as_nobody().on_port(unused_port()).start();
    for path in ["", "/clean"] {
        let port = unused_port();
        let agent = Agent::watching(&[(port, ""), (other.port(), "")]);
        // given processes of three users, each of which takes all the time that it is granted
        let hanging = [1, 2, 3]
            .map(|user| with_hanging_files(4000 + u32::from(user), ([127, 0, 0, user], port).into()));
        let method = if path.is_empty() { "GET" } else { "POST" };
        let mut asked = Connection::new(&agent.socket());
        assert!(asked.write(&format!(
            "{method} /v1/ports/{port}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )));
        // then others are served before that answer
        let mut served = 0;
        while !asked.has_answered() {
            assert_eq!(agent.get("/healthz").status, 200);
            let owners = agent.get(&format!("/v1/ports/{}", other.port())).json();
            assert_eq!(owners["owners"][0]["pid"], other.pid(), "{owners}");
            served += usize::from(!asked.has_answered());
        }
        assert!(served >= 3, "{served}");
        let answer = asked.rest();
        assert_eq!(answer.status, 200, "{answer:?}");
        let owners = answer.json()["owners"].as_array().unwrap().clone();
        assert_eq!(owners.len(), 3, "{answer:?}");
        for owner in owners {
            assert_eq!(owner["why"], "its files or its memory can't be read in time", "{owner}");
        }
        assert!(hanging.iter().all(|(actor, _)| actor.is_alive()));
    }
});

scenario!(a_package_file_that_is_exchanged_all_the_time_is_never_waited_for, needs(Root), |backend| {
    let package = tempfile::tempdir().unwrap();
    let place = |name: &str| package.path().join(name);
    fs::write(place("file"), "{\"name\":\"another\"}").unwrap();
    std::os::unix::fs::chown(place("file"), Some(65_534), Some(65_534)).unwrap();
    nix::unistd::mkfifo(&place("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    fs::hard_link(place("fifo"), place("package.json")).unwrap();
    let owner = like_a_gateway(package.path()).on_port(unused_port()).start();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for name in ["file", "fifo"].iter().cycle() {
                fs::hard_link(place(name), place("next")).unwrap();
                fs::rename(place("next"), place("package.json")).unwrap();
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..10 {
            let answer = clean(backend, owner.port(), &[]);
            assert!(["unknown", "held_by_other"].contains(&answer.outcome().as_str()), "{answer:?}");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(owner.is_alive());
});
