//! The program that finds holders is kept for the next command, and no command's answer is another's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use gatewatch_tests::{Backend, Gatewatch, Part, until, unused_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A BPF file system where systemd mounts one, seen by those alone who share the mounts of a process.
struct BpfFileSystem(Child);

impl BpfFileSystem {
    fn mounted() -> Self {
        let script = "mount -t bpf none /sys/fs/bpf && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self(child)
    }

    fn gatewatch(&self, command: &[&str], port: u16) -> Gatewatch {
        Gatewatch::on(Backend::Ebpf, command, port).in_mounts_of(self.0.id())
    }

    /// A folder, as others see it.
    fn folder(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/sys/fs/bpf/{name}", self.0.id()))
    }

    /// The inode of the program that the next command would use; `None` if there is none.
    fn kept(&self) -> Option<u64> {
        let entries = fs::read_dir(self.folder("gatewatch/holders")).ok()?.flatten();
        let is_for_the_next = |name: &str| name.ends_with("_program") || name.ends_with("_program_tried");
        let mut kept = entries.filter(|entry| is_for_the_next(entry.file_name().to_str().unwrap()));
        Some(kept.next()?.metadata().ok()?.ino())
    }
}

impl Drop for BpfFileSystem {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The only owner that a command names.
fn only_owner(asked: Gatewatch) -> Option<u64> {
    let owners = asked.run().json()["owners"].clone();
    let owners = owners.as_array().unwrap();
    assert!(owners.len() < 2, "{owners:?}");
    owners.first()?["pid"].as_u64()
}

scenario!(a_command_uses_the_program_that_the_one_before_has_kept, needs(Root, Bpf), || {
    let system = BpfFileSystem::mounted();
    let (first, second) =
        (Part::other().on_port(unused_port()).start(), Part::other().on_port(unused_port()).start());
    let ask = |port| only_owner(system.gatewatch(&["owners"], port));
    // when root asks for one port, then it is kept for root alone
    assert_eq!(ask(first.port()), Some(first.pid().into()));
    let kept = system.kept();
    assert!(kept.is_some());
    assert_eq!(fs::metadata(system.folder("gatewatch/holders")).unwrap().mode() & 0o777, 0o700);
    // and the same program answers of another port, of a free one, and ends an owner
    assert_eq!(ask(second.port()), Some(second.pid().into()));
    assert_eq!(ask(unused_port()), None);
    let gateway = Part::gateway().on_port(unused_port()).start();
    assert_eq!(system.gatewatch(&["clean"], gateway.port()).run().outcome(), "cleaned");
    assert_eq!(system.kept(), kept);
});

scenario!(commands_at_once_answer_each_of_its_own_port, needs(Root, Bpf), || {
    let system = BpfFileSystem::mounted();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let owner = Part::other().on_port(unused_port()).start();
                for _ in 0..25 {
                    let found = only_owner(system.gatewatch(&["owners"], owner.port()));
                    assert_eq!(found, Some(owner.pid().into()));
                }
            });
        }
    });
    assert!(system.kept().is_some());
});

scenario!(what_a_command_that_was_killed_leaves_misleads_nobody, needs(Root, Bpf), || {
    let system = BpfFileSystem::mounted();
    let owner = Part::other().on_port(unused_port()).start();
    assert_eq!(only_owner(system.gatewatch(&["owners"], owner.port())), Some(owner.pid().into()));
    let kept = system.kept();
    // given a command that is killed while it uses what is kept, which it does for a moment
    until("one was killed in that moment", || {
        let mut killed = system.gatewatch(&["owners"], owner.port()).spawn();
        while system.kept().is_some() && killed.is_running() {}
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(killed.pid().cast_signed()), Signal::SIGKILL);
        while killed.is_running() {}
        system.kept().is_none()
    });
    // then the next one loads a program of its own, and keeps that
    assert_eq!(only_owner(system.gatewatch(&["owners"], owner.port())), Some(owner.pid().into()));
    assert!(system.kept().is_some() && system.kept() != kept);
});

scenario!(a_folder_that_is_not_roots_alone_is_left_as_it_is, needs(Root, Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    for (folder, user, mode) in
        [("gatewatch", 65_534, 0o700), ("gatewatch", 0, 0o777), ("gatewatch/holders", 65_534, 0o700)]
    {
        let system = BpfFileSystem::mounted();
        fs::create_dir_all(system.folder(folder)).unwrap();
        fs::set_permissions(system.folder("gatewatch"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(system.folder(folder), fs::Permissions::from_mode(mode)).unwrap();
        chown(system.folder(folder), Some(user), None).unwrap();
        assert_eq!(only_owner(system.gatewatch(&["owners"], owner.port())), Some(owner.pid().into()));
        assert_eq!(system.kept(), None, "{folder} of {user} with mode {mode:o}");
    }
});

scenario!(another_namespaces_command_does_not_use_what_is_kept, needs(Root, Bpf), || {
    let system = BpfFileSystem::mounted();
    let here = Part::other().on_port(unused_port()).start();
    let there = Part::other().on_port(here.port()).in_own_network().start();
    for _ in 0..2 {
        assert_eq!(only_owner(system.gatewatch(&["owners"], here.port())), Some(here.pid().into()));
        let asked = system.gatewatch(&["owners"], here.port()).in_network_of(there.pid());
        assert_eq!(only_owner(asked), Some(there.pid().into()));
    }
});

scenario!(what_is_kept_and_of_no_use_is_replaced, needs(Root, Bpf), || {
    let system = BpfFileSystem::mounted();
    let owner = Part::other().on_port(unused_port()).start();
    let ask = || only_owner(system.gatewatch(&["owners"], owner.port()));
    assert_eq!(ask(), Some(owner.pid().into()));
    let kept = system.kept();
    // given maps of other lengths under the names of what is kept
    let folder = system.folder("gatewatch/holders");
    let named = |end: &str| {
        let mut paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        paths.find(|path| path.to_str().unwrap().ends_with(end)).unwrap()
    };
    let (ports, progress) = (named("_PORTS"), named("_PROGRESS"));
    fs::rename(&ports, folder.join("aside")).unwrap();
    fs::rename(&progress, &ports).unwrap();
    fs::rename(folder.join("aside"), &progress).unwrap();
    // then the answer is right, and the next command has one of use
    assert_eq!(ask(), Some(owner.pid().into()));
    let anew = system.kept();
    assert!(anew.is_some() && anew != kept);
    assert_eq!((ask(), system.kept()), (Some(owner.pid().into()), anew));
});
