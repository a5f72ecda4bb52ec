//! Hostile processes: an ordinary user who holds a watched port, most often in a network namespace of its own, and does
//! whatever it likes there. Nobody else waits for it, is ended for it, or learns anything by it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gatewatch_tests::{Actor, Agent, Answer, Backend, Gatewatch, Part, config, until, unused_port};
use serde_json::Value;

use crate::clean::clean;

/// All addresses: in a new network namespace loopback is down.
fn everywhere(port: u16) -> SocketAddr {
    ([0, 0, 0, 0], port).into()
}

/// The most memory that a process ever had, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Nobody is ended, because the owner can't be identified.
pub(super) fn assert_unknown(answer: &Answer, owner: &Actor) {
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    let described = answer.owner(owner.pid());
    assert_eq!((&described["identity"], &described["action"]), (&"unclassified".into(), &"spared".into()));
    assert!(owner.is_alive());
}

scenario!(an_endless_command_line_is_read_in_part_and_never_matches, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // given a process whose command line is 100 MiB long
    let part = Part::other().on(everywhere(port)).in_own_user_namespace();
    let owner = part.with(&["--long-command-line", "100", "--conflicts", "1"]).start();
    // then an event that names it costs the agent no memory
    let conflict = events.up_to("conflict").pop().unwrap();
    assert_eq!(conflict["holders"][0]["pid"], owner.pid(), "{conflict}");
    assert_eq!(conflict["holders"][0]["comm"], "actor", "{conflict}");
    // nor does an answer, which says that there is more
    let answer = agent.get(&format!("/v1/ports/{port}")).json();
    let described = &answer["owners"][0];
    let length: usize =
        described["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().len()).sum();
    assert!(length <= 64 << 10, "{length}");
    assert_eq!(described["argv_cut"], true);
    assert!(peak_memory(agent.pid()) < 100 << 10, "{} KiB", peak_memory(agent.pid()));
    // nor does the start of an agent that finds it there
    let next = Agent::watching(&[(port, "")]);
    assert_eq!(next.get(&format!("/v1/ports/{port}")).json()["owners"][0]["argv_cut"], true);
    assert!(peak_memory(next.pid()) < 100 << 10, "{} KiB", peak_memory(next.pid()));
    // and no rule about the command line matches what was not read
    let answer = clean(Backend::Ebpf, port, &["--netns", &owner.netns(), "--match-argv", "^a"]);
    assert_unknown(&answer, &owner);
    // while a process with a short one says nothing of the kind
    let other = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], other.port()).run();
    assert_eq!(answer.owner(other.pid())["argv_cut"], Value::Null, "{answer:?}");
});

scenario!(events_without_end_keep_nobody_waiting, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let endless = u32::MAX.to_string();
    let floods = [&["--flood"][..], &["--flood"], &["--conflicts", &endless]]
        .map(|deeds| Part::other().on(everywhere(port)).in_own_user_namespace().with(deeds).start());
    // when they have begun
    agent.events(&format!("port={port}")).up_to("conflict");
    // then the agent serves others, and acts for them
    let gateway = Part::gateway().on_port(port).start();
    for _ in 0..3 {
        assert_eq!(agent.get("/healthz").status, 200);
        assert_eq!(agent.get(&format!("/v1/ports/{port}")).status, 200);
    }
    // By HTTP, because on a busy machine a command would go on without an agent that gets no processor for 2 s.
    let answer = agent.post(&format!("/v1/ports/{port}/clean"), "");
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &"cleaned".into()), "{answer:?}");
    assert!(gateway.is_gone());
    assert!(floods.iter().all(Actor::is_alive));
});

scenario!(a_conflict_names_sixteen_holders_and_says_how_many_there_are, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let part = Part::other().on(everywhere(port)).in_own_user_namespace();
    // given more children than anybody wants to read of, which hold its listener
    let mut owner = part.with(&["--workers", "300", "--conflicts", "1500"]).start();
    // the agent knows the children once it has looked
    assert_eq!(agent.get(&format!("/v1/ports/{port}")).status, 200);
    assert_eq!(owner.line(), "done");
    assert_eq!(agent.get("/healthz").status, 200);
    assert!(peak_memory(agent.pid()) < 100 << 10, "{} KiB", peak_memory(agent.pid()));
    // when a bind fails after that look
    agent.reconfigure(&config(&[(port, "")]));
    until("the agent has looked again", || agent.log().contains("configuration reloaded"));
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let netns = owner.netns();
    let rival = std::process::Command::new("nsenter")
        .args([&format!("--net={netns}"), "--"])
        .arg(gatewatch_tests::program("rival"))
        .args(["--stay", "--on", &everywhere(port).to_string()])
        .stderr(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!rival.status.success());
    let conflict = events.up_to("conflict").pop().unwrap();
    let holders = conflict["holders"].as_array().unwrap();
    assert_eq!((holders.len(), &conflict["holders_total"]), (16, &Value::from(301)), "{conflict}");
});

scenario!(a_daemon_that_was_handed_a_strangers_listener_is_left_alone, needs(Root), |backend| {
    for part in [Part::other(), Part::gateway()] {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("socket");
        let path = path.to_str().unwrap();
        // given a daemon of root's that takes messages, and a user who sends it a listener
        let port = unused_port();
        let mut daemon = part.with(&["--take-at", path]).start();
        assert_eq!(daemon.line(), "takes");
        let user = Part::other().on_port(port).as_nobody().with(&["--hand-to", path]).start();
        assert_eq!(daemon.line(), "taken");
        for rules in [&["--any"][..], &[]] {
            let answer = clean(backend, port, rules);
            assert_unknown(&answer, &daemon);
            let why = answer.owner(daemon.pid())["why"].as_str().unwrap().to_owned();
            assert!(why.contains("user 65534 made its socket and handed it over"), "{why}");
        }
        assert!(user.is_alive());
    }
});

scenario!(a_cleaner_has_nobody_ended_to_whom_he_has_handed_his_listener, needs(Bpf), || {
    for (part, identity) in [(Part::other(), "identity = \"any\"\n"), (Part::gateway(), "")] {
        let folder = gatewatch_tests::folder();
        let path = folder.path().join("socket");
        let path = path.to_str().unwrap();
        // given a user who may have a port cleaned, and who sends his listener on it into a daemon of root's
        let port = unused_port();
        let agent = Agent::watching(&[(port, &format!("{identity}clean = {{ users = [\"nobody\"] }}"))]);
        let mut daemon = part.with(&["--take-at", path]).start();
        assert_eq!(daemon.line(), "takes");
        let user = Part::other().on_port(port).as_nobody().with(&["--hand-to", path]).start();
        assert_eq!(daemon.line(), "taken");
        // when he asks
        assert_unknown(&agent.ask(&["clean"], port).as_nobody().run(), &daemon);
        assert!(user.is_alive());
    }
});

scenario!(any_with_cleaners_that_are_not_root_is_warned_of, needs(Root), || {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let check = |more: &str| {
        fs::write(&path, config(&[(unused_port(), more)])).unwrap();
        let answer = Gatewatch::plain(&["agent", "--check-config", "--config", path.to_str().unwrap()]);
        assert_eq!(answer.status, 0, "{answer:?}");
        answer.err.contains("warning")
    };
    assert!(check("identity = \"any\"\nclean = { users = [\"nobody\"] }"));
    assert!(check("identity = \"any\"\nclean = { groups = [\"daemon\"] }"));
    assert!(!check("identity = \"any\""));
    assert!(!check("identity = \"any\"\nclean = { users = [\"root\", \"0\"] }"));
    assert!(!check("clean = { users = [\"nobody\"] }"));
});

scenario!(the_agent_tells_256_owners_in_full_and_decides_on_all, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "identity = \"any\"")]);
    let owner = Part::other().on_port(port).with(&["--workers", "300"]).start();
    let answer = agent.answer(&["owners"], port);
    let told = |answer: &Answer| {
        let json = answer.json();
        (json["owners"].as_array().unwrap().len(), json["owners_total"].clone())
    };
    assert_eq!(told(&answer), (256, 301.into()), "{answer:?}");
    let text = Gatewatch::new(&["owners", "--agent", "only", "--socket", agent.socket().to_str().unwrap()])
        .with(&["-p", &port.to_string()])
        .run();
    assert!(text.out.contains("held by 301 processes") && text.out.contains("and 45 more"), "{text:?}");
    let answer = agent.answer(&["clean"], port);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(told(&answer), (256, 301.into()), "{answer:?}");
    assert_eq!(answer.killed().len(), 301);
    assert!(owner.is_gone());
});

/// The actor's program under another name, which need not be UTF-8.
fn program_named(folder: &Path, name: &[u8]) -> std::path::PathBuf {
    let path = folder.join(std::ffi::OsStr::from_bytes(name));
    // By another program: while this one has the file open for writing, a fork in another thread could keep it so.
    let mut install = std::process::Command::new("install");
    install.args(["-m", "755"]).arg(gatewatch_tests::program("actor")).arg(&path);
    assert!(install.status().unwrap().success());
    path
}

scenario!(a_name_that_is_no_text_is_told_as_text, needs(Root), |backend| {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = program_named(folder.path(), b"some\xffprogram");
    let start =
        || Part::program(std::process::Command::new(&program)).as_nobody().on_port(unused_port()).start();
    let owner = start();
    let answer = Gatewatch::on(backend, &["owners"], owner.port()).run();
    let exe = answer.owner(owner.pid())["exe"].as_str().unwrap().to_owned();
    assert!(exe.ends_with("some\u{fffd}program"), "{exe}");
    let text = Gatewatch::new(&["owners", "-p", &owner.port().to_string()]).run();
    assert_eq!(text.status, 0, "{text:?}");
    crate::clean::assert_cleaned(&clean(backend, owner.port(), &["--any"]), &owner);
    let owner = start();
    let answer = clean(backend, owner.port(), &["--match-exe", "/usr/bin/true"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
});

scenario!(a_name_that_is_no_text_makes_no_port_unreadable_by_the_agent, needs(Bpf), || {
    let folder = gatewatch_tests::folder();
    let program = program_named(folder.path(), b"some\xffprogram");
    let port = unused_port();
    let agent = Agent::watching(&[(port, "identity = \"any\"")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let owner = Part::program(std::process::Command::new(&program)).as_nobody().on_port(port).start();
    assert_eq!(events.up_to("bind").pop().unwrap()["comm"], "some\u{fffd}program");
    let answer = agent.get(&format!("/v1/ports/{port}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let exe = answer.json()["owners"][0]["exe"].as_str().unwrap().to_owned();
    assert!(exe.ends_with("some\u{fffd}program"), "{exe}");
    crate::clean::assert_cleaned(&agent.answer(&["clean"], port), &owner);
});

scenario!(another_file_at_the_wanted_path_in_other_mounts_is_no_match, needs(Root), |backend| {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let wanted = program_named(folder.path(), b"my-server");
    let other = program_named(folder.path(), b"other");
    // given a user who mounts another file at that path, where nobody else sees it
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let start = |port: u16| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.args([&other, &wanted, &wanted]);
        Part::program(command).as_nobody().on_port(port).start()
    };
    let owner = start(unused_port());
    assert_eq!(fs::read_link(format!("/proc/{}/exe", owner.pid())).unwrap(), wanted);
    let answer = clean(backend, owner.port(), &["--match-exe", wanted.to_str().unwrap()]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(owner.is_alive());
    // while the file itself matches
    let owner = Part::program(std::process::Command::new(&wanted)).on_port(unused_port()).start();
    crate::clean::assert_cleaned(
        &clean(backend, owner.port(), &["--match-exe", wanted.to_str().unwrap()]),
        &owner,
    );
});

scenario!(a_users_program_called_systemd_is_not_spared, needs(Root), |backend| {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = program_named(folder.path(), b"systemd");
    let start =
        || Part::program(std::process::Command::new(&program)).as_nobody().on_port(unused_port()).start();
    // given root's file, which is a service manager's by its name
    let owner = start();
    crate::identity::assert_left_alone(backend, &owner, &["--any"]);
    drop(owner);
    // and one that the user gave that name
    std::os::unix::fs::chown(&program, Some(65_534), None).unwrap();
    let owner = start();
    crate::clean::assert_cleaned(&clean(backend, owner.port(), &["--any"]), &owner);
});

scenario!(a_name_does_not_steer_the_terminal, needs(Root), |backend| {
    let name = "a\u{202e}b\u{2066}c\u{200b}\u{2028}\u{1b}[2J";
    let owner = Part::named(name).as_nobody().on_port(unused_port()).with_comm("n\u{202e}\u{2028}").start();
    for command in ["owners", "clean"] {
        let answer = Gatewatch::new(&[command, "--backend", backend.name()])
            .with(&["-p", &owner.port().to_string()])
            .run();
        let hidden = |char: &char| "\u{202e}\u{2066}\u{200b}\u{2028}\u{1b}".contains(*char);
        assert!(!answer.out.chars().any(|char| hidden(&char)), "{answer:?}");
        assert!(answer.out.contains("a\u{fffd}b\u{fffd}c"), "{answer:?}");
    }
});

scenario!(a_bound_socket_that_nobody_is_seen_to_hold_is_not_free, needs(Root), |backend| {
    // given a socket that is bound, does not listen, and is on its way to nobody
    let user = Part::other().as_nobody().on_port(unused_port()).with(&["--bound", "--in-flight"]).start();
    let answer = clean(backend, user.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    // nor where no plain bind is tried, whether the kernel's table of taken ports is looked into, or the list of bound sockets
    for without in ["", "bucket"] {
        let quick = |gatewatch: Gatewatch| gatewatch.env("GATEWATCH_WITHOUT", without).run();
        let answer = quick(Gatewatch::in_text(backend, &["clean", "--free-timeout", "50ms"], user.port()));
        assert_eq!(answer.status, 5, "{answer:?}");
        let wait = ["wait", "free", "--timeout", "200ms"];
        let answer = quick(Gatewatch::on(backend, &wait, user.port()));
        assert_eq!(answer.outcome(), "timed_out", "{answer:?}");
    }
    assert!(user.is_alive());
});

scenario!(a_socket_that_io_uring_alone_has_is_not_free, needs(Root, IoUring), |backend| {
    for kind in [&["--in-ring"][..], &["--in-ring", "--bound"]] {
        let user = Part::other().as_nobody().on_port(unused_port()).with(kind).start();
        let answer = clean(backend, user.port(), &["--free-timeout", "50ms"]);
        assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{kind:?}: {answer:?}");
        let wait = ["wait", "free", "--timeout", "200ms"];
        let answer = Gatewatch::on(backend, &wait, user.port()).run();
        assert_eq!(answer.outcome(), "timed_out", "{kind:?}: {answer:?}");
        assert!(user.is_alive());
    }
});

scenario!(a_listener_with_gatewatchs_own_mark_is_seen, needs(Root), |backend| {
    let port = unused_port();
    let part = Part::gateway().on(everywhere(port)).in_own_user_namespace();
    let owner = part.with(&["--mark", "1734440037"]).start();
    let answer = Gatewatch::on(backend, &["owners", "--netns", &owner.netns()], port).run();
    assert_eq!(answer.owner(owner.pid())["identity"], "match", "{answer:?}");
    let answer = clean(backend, port, &["--netns", &owner.netns()]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert!(owner.is_gone());
});

scenario!(what_a_socket_with_gatewatchs_own_mark_does_is_told, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let part = Part::other().on(everywhere(port)).in_own_user_namespace();
    let mut owner = part.with(&["--mark", "1734440037", "--conflicts", "1"]).start();
    for event in ["bind", "listen", "conflict"] {
        assert_eq!(events.up_to(event).pop().unwrap()["pid"], owner.pid());
    }
    owner.end();
    events.up_to("release");
    events.up_to("free");
});

scenario!(a_kernel_layout_that_was_damaged_is_found_anew, needs(Bpf), || {
    // given a /run of its own, where the first command remembers what it needs of the kernel: numbers of four bytes, behind
    // what says of which kernel
    let owner = Part::other().on_port(unused_port()).start();
    let script = "mount -t tmpfs tmpfs /run && see() { \"$0\" owners --backend ebpf --format json -p \"$1\"; echo; } && \
                  see \"$1\" && cd /run/gatewatch && whole=$(mktemp) && for file in *; do \
                  cp \"$file\" \"$whole\"; size=$(stat -c %s \"$file\"); \
                  for at in $(seq $((size % 4 + 64)) 4 $((size - 1))); do \
                  byte=$(od -An -tu1 -j $at -N1 \"$whole\"); \
                  printf \"\\\\$(printf %o $((byte ^ 4)))\" | dd of=\"$file\" bs=1 seek=$at conv=notrunc 2>/dev/null; \
                  cmp -s \"$file\" \"$whole\" && exit 9; see \"$1\"; cp \"$whole\" \"$file\"; done; \
                  head -c $((size / 2)) \"$whole\" > \"$file\"; see \"$1\"; done; rm \"$whole\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(gatewatch_tests::programs().join("gatewatch"))
        .arg(owner.port().to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // then each command that meets a flipped bit or a cut file sees what there is
    let out = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = out.lines().filter(|line| !line.is_empty()).collect();
    assert!(answers.len() > 30, "{out}");
    for answer in answers {
        let answer = Answer { status: 0, out: answer.to_owned(), err: String::new() };
        assert_eq!(answer.owner(owner.pid())["pid"], owner.pid(), "{answer:?}");
        assert_eq!(answer.json()["backend"], "ebpf");
    }
});
