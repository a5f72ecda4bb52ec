//! What the agent does after events were lost, counted rather than timed.

use std::process::{Child, Command, Stdio};

use gatewatch_tests::{Actor, Agent, Part, send, until, unused_port};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::NamedTempFile;

/// The system calls of a process, as strace(1) sees them. It is let go when this is dropped.
struct Trace {
    strace: Child,
    calls: NamedTempFile,
}

impl Trace {
    fn of(pid: u32) -> Self {
        let calls = NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=bpf,sendto", "-e", "signal=none", "-o"]).arg(calls.path());
        let strace = strace.args(["-p", &pid.to_string()]).stderr(Stdio::null()).spawn().unwrap();
        let tracer = format!("TracerPid:\t{}\n", strace.id());
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let is_traced = |thread: std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("status")).is_ok_and(|text| text.contains(&tracer))
        };
        until("strace follows each thread", || threads().all(is_traced));
        Self { strace, calls }
    }

    /// How many calls there were so far that show this.
    fn count(&self, text: &str) -> usize {
        std::fs::read_to_string(self.calls.path()).unwrap().matches(text).count()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.strace.id().try_into().unwrap()), Signal::SIGINT);
        let _ = self.strace.wait();
    }
}

/// How often the agent goes through all descriptors, and asks for the kernel's tables, from a loss of events on until it has
/// told who holds each of so many ports.
fn looks_after_a_loss(ports: usize) -> (usize, usize) {
    let ports: Vec<u16> = (0..ports).map(|_| unused_port()).collect();
    let others: Vec<String> = ports[1..].iter().map(|port| format!("--on=127.0.0.1:{port}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let owner = Part::other().on_port(ports[0]).with(&others).start();
    let flooded = unused_port();
    let watched: Vec<(u16, &str)> = ports.iter().chain([&flooded]).map(|&port| (port, "")).collect();
    let agent = Agent::watching(&watched);
    let mut events = agent.events("");
    for _ in &watched {
        events.up_to("ready");
    }
    // given that more events come than the ring has room for, while the agent reads none
    send(agent.pid(), Signal::SIGSTOP);
    let _flood = Part::other().on_port(flooded).with(&["--churn", "5000"]).start();
    let trace = Trace::of(agent.pid());
    send(agent.pid(), Signal::SIGCONT);
    events.up_to("lost");
    let mut told = 0;
    while told < ports.len() {
        let line = events.line();
        told += usize::from(line["event"] == "held" && line["pid"] == owner.pid());
    }
    (trace.count("BPF_ITER_CREATE"), trace.count("AF_NETLINK"))
}

scenario!(after_a_loss_one_look_does_for_all_ports, needs(Bpf, Strace), || {
    let (one, all) = (looks_after_a_loss(1), looks_after_a_loss(1000));
    // then it goes once through the descriptors, and reads the kernel's two tables, however many ports there are; and once more
    // where the look that is due every half minute comes at that time
    for (passes, tables) in [one, all] {
        assert!((1..=3).contains(&passes) && tables <= 2 * passes, "{one:?} for one port, {all:?} for 1000");
    }
});

scenario!(who_comes_while_events_are_lost_without_end_is_told, needs(Bpf), || {
    let (flooded, port) = (unused_port(), unused_port());
    let agent = Agent::watching(&[(flooded, ""), (port, "")]);
    let mut events = agent.events(&format!("port={flooded}"));
    // given more events in the agent's own network namespace than it reads, so that it never catches up
    let flood = |host| Part::other().on(([127, 0, 0, host], flooded).into()).with(&["--flood"]).start();
    let floods: Vec<Actor> = (5..9).map(flood).collect();
    events.up_to("bind");
    for _ in 0..5 {
        let server = Part::other().on_port(port).start();
        let answer = agent.get(&format!("/v1/ports/{port}"));
        assert_eq!(answer.json()["owners"][0]["pid"], server.pid(), "{answer:?}");
        drop(server);
        let answer = agent.get(&format!("/v1/ports/{port}"));
        assert_eq!(answer.json()["owners"], serde_json::json!([]), "{answer:?}");
    }
    assert!(floods.iter().all(Actor::is_alive));
});

scenario!(a_stream_goes_on_while_events_are_lost_without_end, needs(Bpf), || {
    let (flooded, port) = (unused_port(), unused_port());
    let agent = Agent::watching(&[(flooded, ""), (port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // given more events in the agent's own network namespace than it reads, so that it never catches up
    let flood = |host| Part::other().on(([127, 0, 0, host], flooded).into()).with(&["--flood"]).start();
    let floods: Vec<Actor> = (5..9).map(flood).collect();
    events.up_to("lost");
    for _ in 0..5 {
        // then who comes is told, by its listen or by a look that stands in for it
        let server = Part::other().on_port(port).start();
        let is_told = |line: &Value| matches!(line["event"].as_str(), Some("listen" | "held"));
        while !Some(events.line()).is_some_and(|line| is_told(&line) && line["pid"] == server.pid()) {}
        drop(server);
    }
    assert!(floods.iter().all(Actor::is_alive));
});
