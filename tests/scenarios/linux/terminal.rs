//! A person at a terminal is asked.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use gatewatch_tests::{Gatewatch, Part, can_bind, send, until, unused_port};
use nix::pty::openpty;
use nix::sys::signal::Signal;

/// A gatewatch whose three standard descriptors are a terminal.
struct AtTerminal {
    child: Child,
    terminal: File,
    shown: String,
}

impl AtTerminal {
    fn new(gatewatch: &Gatewatch) -> Self {
        let pty = openpty(None, None).unwrap();
        let words = gatewatch.words();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env("GATEWATCH_SOCKET", "/nonexistent/agent.sock")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        Self { child, terminal: File::from(pty.master), shown: String::new() }
    }

    fn read(&mut self) {
        let mut some = [0; 4096];
        // When the last process has closed the other side, reading fails.
        let length = self.terminal.read(&mut some).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&some[..length]));
    }

    fn shows(&mut self, text: &str) {
        until(text, || {
            if !self.shown.contains(text) {
                self.read();
            }
            self.shown.contains(text)
        });
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    fn status(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

scenario!(what_matches_no_rule_is_asked_about_on_a_terminal, |backend| {
    for (answer, status) in [("n\n", 3), ("\n", 3), ("y\n", 0)] {
        let owner = Part::other().on_port(unused_port()).start();
        let port = owner.port().to_string();
        let backend = gatewatch_tests::run().flag(backend);
        let mut gatewatch = AtTerminal::new(&Gatewatch::new(&["clean", &port, "--backend", backend]));
        gatewatch.shows("[y/N]");
        assert!(gatewatch.shown.contains(&format!("(pid {}", owner.pid())), "{}", gatewatch.shown);
        assert!(owner.is_alive());
        gatewatch.types(answer);
        assert_eq!(gatewatch.status(), status, "{answer:?}: {}", gatewatch.shown);
        assert_eq!(owner.is_alive(), status == 3);
    }
});

scenario!(nobody_is_asked_who_says_so, || {
    let owner = Part::other().on_port(unused_port()).start();
    let port = owner.port().to_string();
    for flags in [&["--no-input"][..], &["--format", "json"], &["--dry-run"]] {
        let mut gatewatch = AtTerminal::new(&Gatewatch::new(&["clean", &port]).with(flags));
        assert_eq!(gatewatch.status(), 3, "{flags:?}");
        gatewatch.read();
        assert!(!gatewatch.shown.contains("[y/N]"), "{}", gatewatch.shown);
        assert!(owner.is_alive());
    }
});

scenario!(a_long_wait_is_shown_on_a_terminal_and_gone_afterwards, || {
    // given an owner that does not obey
    let owner = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let port = owner.port().to_string();
    let flags = ["--term-timeout", "1h"];
    let mut gatewatch = AtTerminal::new(&Gatewatch::new(&["clean", &port]).with(&flags));
    gatewatch.shows(&format!("(pid {}) still runs", owner.pid()));
    send(owner.pid(), Signal::SIGKILL);
    gatewatch.shows("proof");
    assert_eq!(gatewatch.status(), 0);
    // then the line was taken away before the answer
    let after = gatewatch.shown.rsplit("still runs").next().unwrap();
    assert!(after.contains("\x1b[2K"), "{after:?}");
    // and nothing is shown where standard error is no terminal
    let owner = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let answer = Gatewatch::plain(&["clean", &owner.port().to_string(), "--term-timeout", "900ms"]);
    assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{answer:?}");
});

scenario!(yes_ends_a_match_and_what_is_in_its_way_together, |backend| {
    let port = unused_port();
    let match_of_two = Part::gateway().on_port(port).with(&["--reuse-port"]).start();
    let other = Part::other().on_port(port).with(&["--reuse-port"]).start();
    let answer = crate::clean::clean(backend, port, &["--yes"]);
    let mut both = [match_of_two.pid(), other.pid()].map(u64::from);
    both.sort_unstable();
    assert_eq!((answer.outcome().as_str(), answer.killed()), ("cleaned", both.to_vec()), "{answer:?}");
    assert!(can_bind(other.address()));
});
