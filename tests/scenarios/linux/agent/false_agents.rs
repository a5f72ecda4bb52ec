//! Commands whose agent is silent, gone, or somebody else's.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gatewatch_tests::{
    Agent, Answer, Connection, Gatewatch, Part, as_user, folder, send, until, unused_port,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::restart::{end, gateway_command, listens};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// What listens at an agent's socket and is none.
struct FalseAgent {
    folder: TempDir,
    listener: UnixListener,
}

impl FalseAgent {
    /// Listens there as this user.
    fn of(uid: u32) -> Self {
        let folder = folder();
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).unwrap();
        let path = folder.path().join("agent.sock");
        let listener = as_user(uid, move || UnixListener::bind(path).unwrap());
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(folder.path().join("agent.sock"), everybody).unwrap();
        Self { folder, listener }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Answers each connection's first request with this.
    fn answer(&self, answer: &'static str) {
        let listener = self.listener.try_clone().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }

    /// Says that it lives to whoever asks that, and nothing else.
    fn live(&self) {
        let listener = self.listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut unanswered = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                if request[..length].starts_with(b"GET /healthz ") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
                } else {
                    unanswered.push(stream);
                }
            }
        });
    }

    fn ask(&self, agent: &str, command: &[&str], port: u16) -> Gatewatch {
        Gatewatch::new(command)
            .with(&["--agent", agent, "--socket", self.socket().to_str().unwrap()])
            .with(&["--format", "json", "-p", &port.to_string()])
    }
}

/// A command's answer, which must come long before the patience of these tests ends.
fn soon(command: Gatewatch) -> Answer {
    let begun = Instant::now();
    let answer = command.run();
    assert!(begun.elapsed() < Duration::from_secs(10), "{answer:?}");
    answer
}

scenario!(a_silent_agent_is_not_waited_for, needs(Bpf), || {
    let silent = FalseAgent::of(0);
    let owner = Part::other().on_port(unused_port()).start();
    for command in [&["owners"][..], &["clean"], &["wait", "free", "--timeout", "100ms"]] {
        let only = soon(silent.ask("only", command, owner.port()));
        assert_eq!(only.status, 6, "{only:?}");
        assert!(only.err.contains("says nothing"), "{only:?}");
        let auto = soon(silent.ask("auto", command, owner.port()));
        assert_ne!(auto.json()["backend"], "agent", "{auto:?}");
        assert!(auto.err.contains("going on without it"), "{auto:?}");
    }
    let watch = soon(silent.ask("auto", &["watch", "--for", "1ms"], owner.port()));
    assert_eq!(watch.status, 0, "{watch:?}");
    assert!(owner.is_alive());
    // and no other agent is looked for, which would take as long again and again
    let time = |choice: &str| {
        let begun = Instant::now();
        soon(silent.ask(choice, &["owners"], owner.port()));
        begun.elapsed()
    };
    let [auto, only] = ["auto", "only"].map(time);
    assert!(only < auto * 2, "{only:?} {auto:?}");
});

scenario!(a_wait_keeps_its_time_when_its_agent_falls_silent, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), "")]);
    let socket = agent.socket();
    let wait = |timeout: &str| {
        Gatewatch::new(&["wait", "free", "--timeout", timeout, "--format", "json"]).with(&[
            "-p",
            &owner.port().to_string(),
            "--socket",
            socket.to_str().unwrap(),
        ])
    };
    send(agent.pid(), Signal::SIGSTOP);
    let answer = soon(wait("700ms"));
    send(agent.pid(), Signal::SIGCONT);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
});

scenario!(a_wait_keeps_its_time_when_no_agent_takes_its_connection, needs(Root), || {
    // given an agent's socket whose queue is full
    let silent = FalseAgent::of(0);
    let _queue: Vec<_> = std::iter::from_fn(|| Connection::without_waiting(&silent.socket())).collect();
    let ask = |command: &[&str]| {
        let begun = Instant::now();
        let answer = silent.ask("only", command, unused_port()).run();
        assert_eq!(answer.status, 6, "{answer:?}");
        assert!(answer.err.contains("says nothing"), "{answer:?}");
        begun.elapsed()
    };
    // then a wait of its own time lasts much shorter than the silence that others grant
    let [short, long] = [&["wait", "listening", "--timeout", "50ms"][..], &["owners"]].map(ask);
    assert!(short * 2 < long, "{short:?} {long:?}");
});

scenario!(an_agent_that_lives_and_does_not_answer_is_not_waited_for_without_end, needs(Root), || {
    // given one of root's, and one of the user's own
    for (of, ask) in [(0, (|it| it) as fn(Gatewatch) -> Gatewatch), (NOBODY, Gatewatch::as_nobody)] {
        let living = FalseAgent::of(of);
        living.live();
        let owner = Part::other().on_port(unused_port()).start();
        let short = ["--term-timeout", "1ms", "--kill-timeout", "1ms", "--free-timeout", "1ms"];
        // when it is asked for what needs hardly any time
        std::thread::scope(|scope| {
            let (living, port) = (&living, owner.port());
            let begin = |agent: &'static str, command: Vec<&'static str>| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    let answer = ask(living.ask(agent, &command, port)).run();
                    assert!(begun.elapsed() < Duration::from_secs(18), "{answer:?}");
                    answer
                })
            };
            let clean: Vec<&str> = [&["clean"][..], &short].concat();
            let auto = ["owners", "clean"].map(|it| if it == "clean" { clean.clone() } else { vec![it] });
            let auto = auto.map(|command| begin("auto", command));
            let only = [vec!["owners"], vec!["watch", "--count", "1"], vec!["history"], clean];
            let only = only.map(|command| begin("only", command));
            // then the command goes on by itself
            for answer in auto.map(|asked| asked.join().unwrap()) {
                assert!(answer.err.contains("going on without it"), "{answer:?}");
                assert_ne!(answer.json()["backend"], "agent", "{answer:?}");
            }
            // or ends
            for answer in only.map(|asked| asked.join().unwrap()) {
                assert_eq!(answer.status, 6, "{answer:?}");
                assert!(answer.err.contains("does not answer in time"), "{answer:?}");
            }
        });
        assert!(owner.is_alive());
    }
});

scenario!(a_watch_goes_on_without_an_agent_that_falls_silent, needs(Bpf), || {
    let mut owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), "")]);
    let (socket, port) = (agent.socket(), owner.port().to_string());
    let watch = |choice: &str| {
        let command = Gatewatch::new(&["watch", "--agent", choice, "--format", "json", "-p", &port]);
        command.with(&["--socket", socket.to_str().unwrap()])
    };
    let (mut auto, mut only) = (watch("auto").watch(), watch("only").watch());
    // when it can say nothing, though its connections are open and new ones are taken
    send(agent.pid(), Signal::SIGSTOP);
    let lines = auto.up_to("ready");
    assert_eq!(crate::watch::events(&lines), ["lost", "held", "ready"], "{lines:?}");
    owner.end();
    assert_eq!(crate::watch::events(&auto.up_to("free")), ["release", "free"]);
    assert_eq!(only.end(), 6);
    send(agent.pid(), Signal::SIGCONT);
});

scenario!(a_slow_answer_of_a_living_agent_is_waited_for, needs(Bpf), || {
    // given an owner that takes its time, longer than an agent may be silent
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:4000"]).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean", "--term-timeout", "15s"], gateway.port());
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "agent");
});

scenario!(an_agent_that_breaks_off_is_done_without, needs(Bpf), || {
    let breaking = FalseAgent::of(0);
    breaking.answer("");
    let gateway = Part::gateway().on_port(unused_port()).start();
    let only = soon(breaking.ask("only", &["clean"], gateway.port()));
    assert_eq!(only.status, 1, "{only:?}");
    assert!(gateway.is_alive());
    for command in [&["owners"][..], &["wait", "listening"], &["watch", "--for", "1ms"]] {
        let answer = soon(breaking.ask("auto", command, gateway.port()));
        assert_eq!(answer.status, 0, "{answer:?}");
    }
    let auto = soon(breaking.ask("auto", &["clean"], gateway.port()));
    crate::clean::assert_cleaned(&auto, &gateway);
});

scenario!(a_restart_goes_on_without_an_agent_that_breaks_off, needs(Bpf), || {
    for (choice, status) in [("auto", 0), ("only", 6)] {
        let old = Part::gateway().on_port(unused_port()).start();
        let mut agent = Agent::watching(&[(old.port(), "")]);
        let folder = folder();
        let file = |name: &str| folder.path().join(name);
        let new = gateway_command(old.port(), "60000").join(" ");
        let script = format!(
            "touch {}; until [ -e {} ]; do sleep 0.01; done; exec {new} > /dev/null 2>&1",
            file("begun").display(),
            file("go").display()
        );
        let running = Gatewatch::new(&["restart", "--agent", choice, "--format", "json"])
            .with(&["--socket", agent.socket().to_str().unwrap(), "-p", &old.port().to_string()])
            .with(&["--", "sh", "-c", &script])
            .spawn();
        until("the command runs", || file("begun").exists());
        assert!(old.is_gone());
        // when the agent ends in the middle of it
        agent.signal(Signal::SIGKILL);
        agent.end();
        let answer = if choice == "auto" {
            std::fs::write(file("go"), "").unwrap();
            running.finish()
        } else {
            let answer = running.finish();
            std::fs::write(file("go"), "").unwrap();
            until("the command's server listens", || listens(old.port()));
            answer
        };
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.err.contains("went away"), "{answer:?}");
        if choice == "auto" {
            assert_eq!(answer.outcome(), "restarted", "{answer:?}");
            assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
        }
        end(gatewatch_tests::Backend::Ebpf, old.port());
    }
});

scenario!(an_agent_of_another_user_is_not_believed, needs(Bpf), || {
    let lying = FalseAgent::of(1234);
    lying.answer(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 36\r\n\r\n\
         {\"port\":1,\"owners\":[],\"backend\":\"x\"}",
    );
    let owner = Part::other().on_port(unused_port()).start();
    for ask in [|ask: Gatewatch| ask, Gatewatch::as_nobody] {
        let only = soon(ask(lying.ask("only", &["owners"], owner.port())));
        assert_eq!(only.status, 6, "{only:?}");
        assert!(only.err.contains("user 1234 listens there"), "{only:?}");
        let auto = soon(ask(lying.ask("auto", &["owners"], owner.port())));
        assert!(!auto.json()["owners"].as_array().unwrap().is_empty(), "{auto:?}");
    }
    // one's own is
    let own = FalseAgent::of(NOBODY);
    own.answer("");
    let answer = soon(own.ask("only", &["owners"], owner.port()).as_nobody());
    assert!(answer.err.contains("went away"), "{answer:?}");
});

scenario!(a_stopped_agent_with_a_full_queue_lives, needs(Bpf), || {
    let agent = Agent::watching(&[(unused_port(), "")]);
    send(agent.pid(), Signal::SIGSTOP);
    let socket = agent.socket();
    // given as many callers as its queue takes
    let waiting: Vec<Connection> = std::iter::from_fn(|| Connection::without_waiting(&socket)).collect();
    let second = soon(Gatewatch::new(&["agent", "--socket", socket.to_str().unwrap()]));
    let command = soon(Gatewatch::new(&["owners", "--agent", "only", "--socket", socket.to_str().unwrap()]));
    send(agent.pid(), Signal::SIGCONT);
    assert_eq!(second.status, 1, "{second:?}");
    assert!(second.err.contains("another agent answers there"), "{second:?}");
    assert_eq!(command.status, 6, "{command:?}");
    drop(waiting);
    agent.wait_until_ready();
});

scenario!(a_watch_through_the_agent_ends_with_its_reader, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), "")]);
    let through = agent.ask(&["watch"], owner.port()).words();
    let own = Gatewatch::new(&["watch", "--agent", "never", "-p", &owner.port().to_string()]).words();
    for words in [through, own] {
        // `held` is its first line and `ready` its last: nothing more happens to the port
        let piped = ["timeout", "20", "bash", "-c", "\"$@\" | head -1; exit ${PIPESTATUS[0]}", "bash"];
        let output = Command::new(piped[0]).args(&piped[1..]).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("held"), "{output:?}");
    }
});
