//! The host agent's start where others could interfere: its socket's folder, its configuration, the umask.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use gatewatch_tests::{Agent, Gatewatch, config, folder, programs, until, unused_port};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// The user `nobody`.
const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Starts an agent whose folder, and the one above, have been prepared, and says whether it refuses.
fn is_refused(prepare: impl FnOnce(&Path, &Path)) -> bool {
    let top = folder();
    let above = top.path().join("above");
    let below = above.join("below");
    fs::create_dir_all(&below).unwrap();
    for folder in [&above, &below] {
        set_mode(folder, 0o755);
    }
    prepare(&above, &below);
    let file = top.path().join("config.toml");
    fs::write(&file, config(&[(unused_port(), "")])).unwrap();
    let socket = below.join("agent.sock");
    let log = fs::File::create(top.path().join("log")).unwrap();
    let mut child = Command::new(programs().join("gatewatch"))
        .args(["agent", "--config", file.to_str().unwrap(), "--socket", socket.to_str().unwrap()])
        .stderr(log)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it has started or refused", || socket.exists() || child.try_wait().unwrap().is_some());
    let status = child.try_wait().unwrap();
    if status.is_none() {
        assert_eq!(mode(&socket), 0o666);
    }
    let _ = child.kill();
    let _ = child.wait();
    if let Some(status) = status {
        let log = fs::read_to_string(top.path().join("log")).unwrap();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("chmod go-w"), "{log}");
    }
    status.is_some()
}

scenario!(a_folder_that_others_can_write_is_refused, needs(Bpf), || {
    assert!(!is_refused(|_, _| {}));
    assert!(is_refused(|_, below| set_mode(below, 0o777)));
    assert!(is_refused(|_, below| set_mode(below, 0o775)));
    assert!(is_refused(|above, _| set_mode(above, 0o777)), "the one above counts as well");
    assert!(is_refused(|_, below| chown(below, Some(NOBODY), None).unwrap()));
    assert!(
        !is_refused(|_, below| set_mode(below, 0o1777)),
        "in a sticky one nobody replaces another's file"
    );
    // and a link on the way does not hide it
    assert!(is_refused(|above, below| {
        let real = above.join("real");
        fs::rename(below, &real).unwrap();
        set_mode(&real, 0o777);
        symlink(&real, below).unwrap();
    }));
});

scenario!(folders_and_sockets_have_their_modes_whatever_the_umask, needs(Bpf), || {
    let top = folder();
    let file = top.path().join("config.toml");
    fs::write(&file, config(&[(unused_port(), "")])).unwrap();
    let socket = top.path().join("made/agent.sock");
    let mut child = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" agent --config \"$1\" --socket \"$2\""])
        .arg(programs().join("gatewatch"))
        .args([&file, &socket])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it listens", || socket.exists());
    let modes = (mode(socket.parent().unwrap()), mode(&socket));
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(modes, (0o755, 0o666));
});

scenario!(the_first_command_of_a_boot_leaves_the_agents_folder_open, needs(Bpf), || {
    // given a /run as after a boot
    let script = "mount -t tmpfs tmpfs /run && umask 077 && \"$0\" owners -p 1 >/dev/null 2>&1; stat -c %a /run/gatewatch";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(programs().join("gatewatch"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "755", "{output:?}");
});

/// Neither the agent nor another command takes the configuration, and both say why.
fn assert_not_obeyed(path: &str, what: &str, why: &str) {
    for command in
        [&["agent", "--check-config", "--config", path][..], &["owners", "-p", "1", "--config", path]]
    {
        let answer = Gatewatch::plain(command);
        assert_eq!(answer.status, 2, "{what}: {answer:?}");
        assert!(answer.err.contains(why), "{what}: {answer:?}");
    }
}

scenario!(root_obeys_no_configuration_that_others_can_write, needs(Root), || {
    let top = folder();
    let file = top.path().join("config.toml");
    let path = file.to_str().unwrap();
    let check = ["agent", "--check-config", "--config", path];
    let refused = |what: &str| assert_not_obeyed(path, what, "chown root");
    fs::write(&file, config(&[(5, "")])).unwrap();
    set_mode(&file, 0o644);
    assert_eq!(Gatewatch::plain(&check).status, 0);
    for open in [0o666, 0o664] {
        set_mode(&file, open);
        refused("its mode");
    }
    set_mode(&file, 0o644);
    chown(&file, Some(NOBODY), None).unwrap();
    refused("its owner");
    // its owner obeys it
    let own = Gatewatch::new(&check).as_nobody().run();
    assert_eq!(own.status, 0, "{own:?}");
    // and nobody else can put another one in its place
    chown(&file, Some(0), None).unwrap();
    set_mode(top.path(), 0o777);
    refused("its folder's mode");
    set_mode(top.path(), 0o1777);
    assert_eq!(Gatewatch::plain(&check).status, 0);
    let real = top.path().join("real.toml");
    fs::rename(&file, &real).unwrap();
    symlink(&real, &file).unwrap();
    assert_eq!(Gatewatch::plain(&check).status, 0);
    // Where everybody may write, a kernel may follow no such link in the first place (fs.protected_symlinks).
    set_mode(top.path(), 0o755);
    lchown(&file, Some(NOBODY), None).unwrap();
    assert_not_obeyed(path, "its link's owner", "chown -h root");
});

scenario!(a_configuration_that_would_be_waited_for_is_refused, needs(Root), || {
    let top = folder();
    let file = top.path().join("config.toml");
    let path = file.to_str().unwrap();
    // given a named pipe that nobody writes to, and whoever could write may
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    assert_not_obeyed(path, "a named pipe", "it is no plain file");
    fs::remove_file(&file).unwrap();
    // or a file without an end
    fs::write(&file, "#".repeat(2 << 20)).unwrap();
    assert_not_obeyed(path, "a long one", "it is longer than a megabyte");
    fs::remove_file(&file).unwrap();
    // then an agent whose configuration became one goes on by the old one
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    fs::remove_file(agent.config()).unwrap();
    mkfifo(&agent.config(), Mode::S_IRWXU).unwrap();
    agent.signal(Signal::SIGHUP);
    until("it says so", || agent.log().contains("it is no plain file"));
    assert_eq!(agent.get("/healthz").status, 200);
});
