//! A guarded port: nobody binds it but who is named, or who runs what has it and matches.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use gatewatch_tests::{
    Agent, Gatewatch, Part, config, detach_cgroup_hooks, folder, install, program, until, unused_port,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::check;

const NOBODY: u32 = 65_534;

/// An agent that guards this port.
fn guarding(port: u16) -> Agent {
    Agent::with(&guarded(port, "true"))
}

fn guarded(port: u16, whom: &str) -> String {
    config(&[(port, &format!("guard = {whom}\n"))])
}

/// Whom the agent lets in to its one guarded port.
fn admitted(agent: &Agent) -> Vec<Value> {
    agent.get("/v1/status").json()["guards"][0]["admitted"].as_array().cloned().unwrap_or_default()
}

/// Lets the agent learn whom to let in, by a gateway of an ordinary user's that ends.
fn let_nobody_in(agent: &Agent, port: u16) {
    let mut gateway = Part::gateway().as_nobody().on_port(port).start();
    until("the gateway's user is let in", || !admitted(agent).is_empty());
    gateway.end();
}

/// Whether this process, which is root's and no gateway, can bind the port.
fn is_open(port: u16) -> bool {
    is_open_at(([127, 0, 0, 1], port).into())
}

fn is_open_at(address: SocketAddr) -> bool {
    match TcpListener::bind(address) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            false
        }
    }
}

/// A server whose program is this copy of the actor's.
fn server_of(copy: &Path) -> Part {
    let mut command = Command::new(copy);
    command.arg0("some-server");
    Part::program(command)
}

/// Puts a copy of the actor's program there, in one step.
fn put_in_place(copy: &Path) {
    let new = copy.with_extension("new");
    install(&program("actor"), &new);
    std::fs::rename(new, copy).unwrap();
}

scenario!(only_the_user_whose_process_matched_binds_a_guarded_port, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let_nobody_in(&agent, port);
    assert_eq!(admitted(&agent), [json!({"program": null, "uid": NOBODY})]);
    events.up_to("free");
    // when others try, by whatever address
    assert!(!is_open(port));
    assert!(!is_open_at((Ipv6Addr::UNSPECIFIED, port).into()));
    // then the agent tells who it was
    let refused = events.line();
    assert_eq!(
        (&refused["event"], &refused["address"]),
        (&"refused".into(), &format!("127.0.0.1:{port}").into())
    );
    assert_eq!((&refused["pid"], &refused["uid"]), (&std::process::id().into(), &0.into()));
    // even if they run the same program by the same name
    assert!(Part::gateway().on_port(port).try_to_start().is_none());
    // and the gateway comes back as before
    let gateway = Part::gateway().as_nobody().on_port(port).start();
    assert_eq!(agent.answer(&["owners"], port).owner(gateway.pid())["identity"], "match");
    // by UDP the number is another port
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
});

scenario!(a_guard_that_another_program_detaches_is_there_again, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_nobody_in(&agent, port);
    assert!(!is_open(port));
    // given that the guard's hooks are detached with the others
    assert!(detach_cgroup_hooks(agent.pid()) > 2);
    // then the port is not open for long
    let bind = || TcpListener::bind(("127.0.0.1", port));
    until("the port is guarded again", || {
        bind().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    });
    assert_eq!(admitted(&agent), [json!({"program": null, "uid": NOBODY})]);
    until("nothing is amiss", || agent.get("/v1/status").json()["degraded"] == json!([]));
});

scenario!(until_a_match_was_seen_a_guarded_port_is_open, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    assert!(is_open(port));
    // by what has it and is no match, nobody is let in
    let other = Part::other().on_port(port).start();
    assert_eq!(agent.answer(&["owners"], port).owner(other.pid())["identity"], "other");
    assert_eq!(admitted(&agent), Vec::<Value>::new());
    drop(other);
    let doctor = Gatewatch::plain(&["doctor", "--socket", agent.socket().to_str().unwrap()]).out;
    assert!(doctor.contains(&format!("guards port {port} as soon as it knows whom to let in")), "{doctor}");
    let_nobody_in(&agent, port);
    let doctor = Gatewatch::plain(&["doctor", "--socket", agent.socket().to_str().unwrap()]).out;
    assert!(doctor.contains(&format!("guards port {port}: only user {NOBODY} may bind it")), "{doctor}");
});

scenario!(who_has_a_port_when_the_agent_starts_is_let_in, needs(Bpf), || {
    let gateway = Part::gateway().as_nobody().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = guarding(port);
    until("the gateway's user is let in", || !admitted(&agent).is_empty());
    gateway.ask_to_end();
    until("it has ended", || gateway.is_gone());
    assert!(!is_open(port));
    drop(Part::gateway().as_nobody().on_port(port).start());
});

scenario!(where_several_users_match_nobody_is_learned, needs(Bpf), || {
    // given a user who imitates the gateway on another address of its port
    let port = unused_port();
    let squatter = Part::gateway().as_nobody().on(([127, 0, 0, 9], port).into()).start();
    let gateway = Part::gateway().on_port(port).start();
    let agent = guarding(port);
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    until("the agent says so", || {
        degraded().contains("several users have it, and match: name those who may")
    });
    assert_eq!(admitted(&agent), Vec::<Value>::new());
    // then it is open, and learned once there is one
    assert!(is_open_at(([127, 0, 0, 10], port).into()));
    squatter.ask_to_end();
    until("it has ended", || squatter.is_gone());
    until("the gateway's user is let in", || admitted(&agent) == [json!({"program": null, "uid": 0})]);
    until("the agent no longer says so", || !degraded().contains("several users"));
    drop(gateway);
    assert!(Part::gateway().as_nobody().on_port(port).try_to_start().is_none());
});

scenario!(users_and_programs_can_be_named, needs(Bpf), || {
    let port = unused_port();
    let folder = folder();
    let copy = folder.path().join("server");
    put_in_place(&copy);
    let agent = Agent::with(&guarded(port, &format!("{{ programs = [{copy:?}] }}")));
    let path = copy.to_str().unwrap();
    until("the program is let in", || admitted(&agent) == [json!({"program": path, "uid": null})]);
    // then whoever runs it, and nobody else
    assert!(!is_open(port));
    assert!(Part::gateway().on_port(port).try_to_start().is_none());
    drop(server_of(&copy).on_port(port).start());
    drop(server_of(&copy).as_nobody().on_port(port).start());
    // nor, where users are named too, anybody but them
    agent.reconfigure(&guarded(port, &format!("{{ users = [\"nobody\"], programs = [{copy:?}] }}")));
    until("the user is let in", || admitted(&agent) == [json!({"program": path, "uid": NOBODY})]);
    assert!(server_of(&copy).on_port(port).try_to_start().is_none());
    assert!(Part::gateway().as_nobody().on_port(port).try_to_start().is_none());
    drop(server_of(&copy).as_nobody().on_port(port).start());
});

scenario!(where_what_has_a_port_does_not_all_match_nobody_is_learned, needs(Bpf), || {
    // given a gateway whose listener another process has inherited, and a user who imitates it beside it
    let port = unused_port();
    let gateway = Part::gateway().on_port(port).with(&["--sharer", "some-tool"]).start();
    let _other = Part::other().on(([127, 0, 0, 8], port).into()).start();
    let _squatter = Part::gateway().as_nobody().on(([127, 0, 0, 9], port).into()).start();
    let agent = guarding(port);
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    until("the agent says so", || degraded().contains("name those who may under `guard`"));
    assert_eq!(admitted(&agent), Vec::<Value>::new());
    assert!(gateway.is_alive());
    assert!(is_open_at(([127, 0, 0, 10], port).into()));
});

scenario!(what_nobody_can_run_is_no_program_to_let_in, needs(Bpf), || {
    let port = unused_port();
    let folder = folder();
    let script = folder.path().join("server");
    std::fs::write(&script, "#!/bin/sh\nexec true\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (path, why) in [(script.as_path(), "it is a script"), (folder.path(), "it is no program")] {
        let agent =
            Agent::with(&guarded(port, &format!("{{ programs = [{path:?}, {:?}] }}", program("actor"))));
        let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
        until("the agent says so", || degraded().contains(why));
        assert!(is_open(port));
    }
});

scenario!(another_file_in_the_place_of_a_program_is_let_in_instead, needs(Bpf), || {
    let port = unused_port();
    let folder = folder();
    let (copy, old) = (folder.path().join("server"), folder.path().join("old"));
    put_in_place(&copy);
    std::fs::hard_link(&copy, &old).unwrap();
    let agent = Agent::with(&guarded(port, &format!("{{ programs = [{copy:?}] }}")));
    until("the program is let in", || !admitted(&agent).is_empty());
    drop(server_of(&old).on_port(port).start());
    // when it is upgraded
    put_in_place(&copy);
    until("the new file is let in", || server_of(&copy).on_port(port).try_to_start().is_some());
    // then the file of before may still run and bind again, and once there is another one, no longer
    drop(server_of(&old).on_port(port).start());
    put_in_place(&copy);
    until("the old file is not let in", || server_of(&old).on_port(port).try_to_start().is_none());
    drop(server_of(&copy).on_port(port).start());
    // and while it is missing, all is as it was
    std::fs::remove_file(&copy).unwrap();
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    until("the agent says so", || degraded().contains(&format!("the program {}: ", copy.display())));
    assert!(!is_open(port));
    put_in_place(&copy);
    until("the new file is let in", || server_of(&copy).on_port(port).try_to_start().is_some());
});

scenario!(without_its_agent_a_port_is_open, needs(Bpf), || {
    let port = unused_port();
    let mut agent = guarding(port);
    let_nobody_in(&agent, port);
    assert!(!is_open(port));
    agent.signal(Signal::SIGKILL);
    agent.end();
    until("the kernel has detached the guard", || is_open(port));
    // and the next agent begins anew
    agent.replace();
    assert!(is_open(port));
    let_nobody_in(&agent, port);
    assert!(!is_open(port));
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(), Some(0));
    until("the kernel has detached the guard", || is_open(port));
});

scenario!(an_agent_that_hangs_guards_nothing, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_nobody_in(&agent, port);
    assert!(!is_open(port));
    agent.signal(Signal::SIGSTOP);
    until("ten seconds have passed", || is_open(port));
    agent.signal(Signal::SIGCONT);
    until("it lives again", || !is_open(port));
});

scenario!(a_reload_can_begin_and_end_a_guard, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    drop(Part::gateway().as_nobody().on_port(port).start());
    assert!(is_open(port));
    agent.reconfigure(&guarded(port, "{ users = [\"65534\"] }"));
    until("the port is guarded", || !admitted(&agent).is_empty());
    assert!(!is_open(port));
    agent.reconfigure(&config(&[(port, "")]));
    until("the port is not guarded", || agent.get("/v1/status").json()["guards"].is_null());
    assert!(is_open(port));
});

scenario!(a_guard_is_for_the_agents_own_network_namespace, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    // a match elsewhere lets nobody in, and is not kept out
    let elsewhere = Part::gateway().in_own_network().on_port(port).start();
    let_nobody_in(&agent, port);
    assert_eq!(admitted(&agent), [json!({"program": null, "uid": NOBODY})]);
    drop(elsewhere);
    assert!(!is_open(port));
    drop(Part::other().in_own_network().on_port(port).start());
});

scenario!(a_guarded_port_is_cleaned_and_proven_as_any_other, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_nobody_in(&agent, port);
    let gateway = Part::gateway().as_nobody().on_port(port).start();
    let answer = agent.answer(&["clean"], port);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(gateway.is_gone());
    let gateway = Part::gateway().as_nobody().on_port(port).start();
    let answer = Gatewatch::new(&["clean", "--agent", "never", "--format", "json"])
        .with(&["-p", &port.to_string()])
        .run();
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(gateway.is_gone());
    // and no proof of gatewatch's own is told as a refusal
    let metrics = agent.get("/metrics").body;
    let none = format!("gatewatch_events_total{{event=\"refused\",port=\"{port}\"}} 0");
    assert!(metrics.contains(&none), "{metrics}");
});

scenario!(refusals_without_end_are_told_ten_times_a_second_at_most, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_nobody_in(&agent, port);
    let begun = Instant::now();
    for _ in 0..5000 {
        assert!(!is_open(port));
    }
    let most = 2 + begun.elapsed().as_millis() / 100;
    let metrics = agent.get("/metrics").body;
    let name = format!("gatewatch_events_total{{event=\"refused\",port=\"{port}\"}} ");
    let told: u128 = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap();
    assert!((1..=most).contains(&told), "{told} of at most {most}");
    assert!(metrics.contains("gatewatch_lost_events_total 0"), "{metrics}");
});

scenario!(root_can_override_a_guard_for_a_command_and_what_it_starts, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_nobody_in(&agent, port);
    let exec = |more: &[&str]| {
        let mut command = Command::new(program("gatewatch"));
        command.arg("exec").args(more).arg("--socket").arg(agent.socket());
        // Bash has the server as a child, because something comes after it.
        command.args(["-p", &port.to_string(), "--", "bash", "-c", r#""$0" --on "127.0.0.1:$1"; exit"#]);
        command.arg(program("actor")).arg(port.to_string());
        Part::program(command)
    };
    assert!(exec(&[]).try_to_start().is_none());
    let mut server = exec(&["--override"]).start();
    assert_eq!(agent.answer(&["owners"], port).owner(server.pid())["identity"], "other");
    server.end();
    // then that was for this command alone
    until("it is over", || exec(&[]).try_to_start().is_none());
    // and nobody but root can
    let reply = agent.as_nobody("POST", "/v1/override", "");
    assert_eq!(reply.status, 403, "{reply:?}");
});

scenario!(an_agent_that_can_not_guard_says_so, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::with_and_without(&guarded(port, "true"), "guard");
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    assert!(
        degraded().contains(&format!("no guard of {port}: cgroup/bind4 can't be attached")),
        "{}",
        degraded()
    );
    let metrics = agent.get("/metrics").body;
    assert!(metrics.contains("gatewatch_degraded{reason=\"guard\"} 1"), "{metrics}");
    drop(Part::gateway().as_nobody().on_port(port).start());
    assert!(is_open(port));
    // and says the same after a reload
    agent.reconfigure(&guarded(port, "{ users = [\"nobody\"] }"));
    until("it is reloaded", || agent.log().contains("configuration reloaded"));
    assert!(
        degraded().contains(&format!("no guard of {port}: cgroup/bind4 can't be attached")),
        "{}",
        degraded()
    );
    // nor can one without the kernel's type information
    let agent = Agent::with_and_without(&guarded(unused_port(), "true"), "btf,family");
    let degraded = agent.get("/v1/status").json()["degraded"].to_string();
    assert!(degraded.contains("no guard of "), "{degraded}");
});

scenario!(a_guard_that_lets_in_everybody_or_nobody_is_refused, needs(RootsFiles), || {
    let folder = folder();
    for (lines, sentence) in [
        ("identity = \"any\"\nguard = true", "port 18888: a guard keeps out what does not match"),
        ("guard = {}", "a guard lets in somebody: name `users`, `programs`, or both"),
        ("guard = \"yes\"", "true, false, or those who may bind the port"),
        ("guard = { programs = [\"node\"] }", "the program node needs its whole path: /usr/bin/node"),
        ("guard = { users = [\"no-such-user\"] }", "the user \"no-such-user\" is not known on this host"),
        ("guard = { groups = [\"root\"] }", "unknown field `groups`"),
    ] {
        let (status, err) = check(folder.path(), &format!("[[watch]]\nport = 18888\n{lines}\n"));
        assert_eq!(status, 2, "{lines}");
        assert!(err.contains(sentence), "{lines}: {err}");
    }
});
