//! A guarded port: nobody binds it whom the agent has not seen to match.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use gatewatch_tests::{Agent, Gatewatch, Part, config, folder, program, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

/// An agent that guards this port.
fn guarding(port: u16) -> Agent {
    Agent::with(&guarded(port))
}

fn guarded(port: u16) -> String {
    config(&[(port, "guard = true\n")])
}

/// What the agent lets in to its one guarded port.
fn admitted(agent: &Agent) -> Vec<Value> {
    agent.get("/v1/status").json()["guards"][0]["admitted"].as_array().cloned().unwrap_or_default()
}

/// Starts a gateway, lets the agent see it, and ends it.
fn let_in(agent: &Agent, gateway: Part) {
    let before = admitted(agent).len();
    let mut gateway = gateway.start();
    until("the gateway is let in", || admitted(agent).len() > before);
    gateway.end();
}

/// Whether this process, which is no gateway, can bind the port.
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

/// A gateway that runs this copy of the actor's program.
fn gateway_of(copy: &Path) -> Part {
    let mut command = Command::new(copy);
    command.arg0("openclaw-gateway");
    Part::program(command)
}

/// Puts a copy of the actor's program there, in one step.
fn install(copy: &Path) {
    let new = copy.with_extension("new");
    std::fs::copy(program("actor"), &new).unwrap();
    std::fs::rename(new, copy).unwrap();
}

scenario!(only_what_matches_binds_a_guarded_port, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    let_in(&agent, Part::gateway().on_port(port));
    events.up_to("free");
    // when others try, by whatever address
    assert!(!is_open(port));
    assert!(!is_open_at((Ipv6Addr::UNSPECIFIED, port).into()));
    assert!(!is_open_at(([0, 0, 0, 0], port).into()));
    // then the agent tells who it was, and the history too
    let refused = events.line();
    assert_eq!(
        (&refused["event"], &refused["address"]),
        (&"refused".into(), &format!("127.0.0.1:{port}").into())
    );
    assert_eq!((&refused["pid"], &refused["uid"]), (&std::process::id().into(), &0.into()));
    assert_eq!(events.line()["address"], format!("[::]:{port}"));
    // and the gateway itself comes back as before
    let gateway = Part::gateway().on_port(port).start();
    assert_eq!(agent.answer(&["owners"], port).owner(gateway.pid())["identity"], "match");
    // by UDP the number is another port
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
});

scenario!(until_a_match_was_seen_a_guarded_port_is_open, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    assert!(is_open(port));
    // not even by what has it is anybody let in, if that is no match
    drop(Part::other().on_port(port).start());
    assert_eq!(admitted(&agent), Vec::<Value>::new());
    assert!(is_open(port));
    let doctor = Gatewatch::plain(&["doctor", "--socket", agent.socket().to_str().unwrap()]).out;
    assert!(doctor.contains(&format!("guards port {port} as soon as a match has had it")), "{doctor}");
});

scenario!(who_has_a_port_when_the_agent_starts_is_let_in, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let port = gateway.port();
    let agent = guarding(port);
    until("the gateway is let in", || !admitted(&agent).is_empty());
    assert_eq!(admitted(&agent)[0]["uid"], 65_534);
    gateway.ask_to_end();
    until("it has ended", || gateway.is_gone());
    assert!(!is_open(port));
    drop(Part::gateway().on_port(port).as_nobody().start());
});

scenario!(another_user_is_not_let_in_by_the_same_program_and_name, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_in(&agent, Part::gateway().on_port(port));
    for _ in 0..3 {
        assert!(Part::gateway().as_nobody().on_port(port).try_to_start().is_none());
    }
    assert_eq!(admitted(&agent).len(), 1, "{:?}", admitted(&agent));
    // nor is another program of the user's that does not match
    let folder = folder();
    let copy = folder.path().join("server");
    install(&copy);
    assert!(Part::program(Command::new(&copy)).on_port(port).try_to_start().is_none());
    assert_eq!(admitted(&agent).len(), 1, "{:?}", admitted(&agent));
});

scenario!(another_program_of_the_same_user_is_let_in_at_its_second_try_if_it_matches, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_in(&agent, Part::gateway().on_port(port));
    let folder = folder();
    let copy = folder.path().join("gateway");
    install(&copy);
    // A process that ends at once may do so before it can be read.
    until("it is let in", || gateway_of(&copy).on_port(port).try_to_start().is_some());
    assert_eq!(admitted(&agent).len(), 2, "{:?}", admitted(&agent));
    assert!(!is_open(port));
});

scenario!(an_upgraded_program_is_let_in, needs(Bpf), || {
    let port = unused_port();
    let folder = folder();
    let copy = folder.path().join("gateway");
    install(&copy);
    let agent = guarding(port);
    let_in(&agent, gateway_of(&copy).on_port(port));
    // when another file comes to its place
    install(&copy);
    until("the agent has seen it", || agent.log().contains("the guard lets in the new file"));
    drop(gateway_of(&copy).on_port(port).start());
    assert!(!is_open(port));
});

scenario!(without_its_agent_a_port_is_open, needs(Bpf), || {
    let port = unused_port();
    let mut agent = guarding(port);
    let_in(&agent, Part::gateway().on_port(port));
    assert!(!is_open(port));
    agent.signal(Signal::SIGKILL);
    agent.end();
    until("the kernel has detached the guard", || is_open(port));
    // and the next agent begins anew
    agent.replace();
    assert!(is_open(port));
    let_in(&agent, Part::gateway().on_port(port));
    assert!(!is_open(port));
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(), Some(0));
    until("the kernel has detached the guard", || is_open(port));
});

scenario!(a_reload_can_begin_and_end_a_guard, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    drop(Part::gateway().on_port(port).start());
    assert!(is_open(port));
    agent.reconfigure(&guarded(port));
    until("the port is guarded", || agent.get("/v1/status").json()["guards"].is_array());
    let_in(&agent, Part::gateway().on_port(port));
    assert!(!is_open(port));
    agent.reconfigure(&config(&[(port, "")]));
    until("the port is not guarded", || agent.get("/v1/status").json()["guards"].is_null());
    assert!(is_open(port));
});

scenario!(a_guard_is_for_the_agents_own_network_namespace, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    // a match elsewhere lets nobody in, and is not kept out
    drop(Part::gateway().in_own_network().on_port(port).start());
    assert_eq!(admitted(&agent), Vec::<Value>::new());
    let_in(&agent, Part::gateway().on_port(port));
    assert!(!is_open(port));
    let folder = folder();
    let copy = folder.path().join("server");
    install(&copy);
    drop(Part::program(Command::new(&copy)).in_own_network().on_port(port).start());
});

scenario!(a_guarded_port_is_cleaned_and_proven_as_any_other, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_in(&agent, Part::gateway().on_port(port));
    let gateway = Part::gateway().on_port(port).start();
    let answer = agent.answer(&["clean"], port);
    assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
    assert!(gateway.is_gone());
    let gateway = Part::gateway().on_port(port).start();
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

scenario!(root_can_override_a_guard_for_a_command_and_what_it_starts, needs(Bpf), || {
    let port = unused_port();
    let agent = guarding(port);
    let_in(&agent, Part::gateway().on_port(port));
    let folder = folder();
    let copy = folder.path().join("server");
    install(&copy);
    let exec = |more: &[&str]| {
        let mut command = Command::new(program("gatewatch"));
        command.arg("exec").args(more).arg("--socket").arg(agent.socket());
        // Bash has the server as a child, because something comes after it.
        command.args(["-p", &port.to_string(), "--", "bash", "-c", r#""$0" --on "127.0.0.1:$1"; exit"#]);
        command.arg(&copy).arg(port.to_string());
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
    let agent = Agent::with_and_without(&guarded(port), "guard");
    let degraded = agent.get("/v1/status").json()["degraded"].to_string();
    assert!(degraded.contains(&format!("no guard of {port}: cgroup/bind4 can't be attached")), "{degraded}");
    let metrics = agent.get("/metrics").body;
    assert!(metrics.contains("gatewatch_degraded{reason=\"guard\"} 1"), "{metrics}");
    drop(Part::gateway().on_port(port).start());
    assert!(is_open(port));
    // nor can one that polls
    let agent = Agent::with_and_without(&guarded(unused_port()), "btf,family");
    let degraded = agent.get("/v1/status").json()["degraded"].to_string();
    assert!(degraded.contains("no guard of "), "{degraded}");
});

scenario!(a_guard_by_an_identity_that_everything_matches_is_refused, needs(RootsFiles), || {
    let folder = folder();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[[watch]]\nport = 18888\nidentity = \"any\"\nguard = true\n").unwrap();
    let answer = Gatewatch::plain(&["agent", "--check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(answer.status, 2);
    assert!(answer.err.contains("port 18888: a guard keeps out what does not match"), "{}", answer.err);
});
