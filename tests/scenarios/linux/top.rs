//! The live screen, on a real terminal: tmux's, which says what a person would see.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use gatewatch_tests::{
    Agent, Backend, Flood, Gatewatch, Life, PATIENCE, Part, can_bind, folder, run, send, until, unused_port,
};
use nix::sys::signal::Signal;

/// A terminal in which a shell runs gatewatch, says how it ended, and then shows how the terminal was left.
struct Terminal {
    name: String,
}

impl Terminal {
    /// 60 columns wide, with these variables in its environment.
    fn running(gatewatch: &Gatewatch, variables: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { name: format!("gatewatch-{}-{count}", std::process::id()) };
        let script = r#""$@"; echo "ended $?"; stty -a; exec cat"#;
        let mut start = terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "60", "-y", "24"]);
        for variable in ["NO_COLOR", "CLICOLOR_FORCE", "TMUX"] {
            start.env_remove(variable);
        }
        start.env("GATEWATCH_SOCKET", "/nonexistent/agent.sock").envs(variables.iter().copied());
        start.args(["--", "sh", "-c", script, "sh"]).args(gatewatch.words());
        assert!(start.status().unwrap().success());
        terminal
    }

    fn top(flags: &[&str]) -> Self {
        Self::running(&Gatewatch::new(&["top"]).with(flags), &[])
    }

    fn by(backend: Backend, port: u16) -> Self {
        Self::top(&["--backend", run().flag(backend), &port.to_string()])
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.name]).args(arguments).process_group(0);
        command
    }

    fn asked(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.tmux(arguments).output().unwrap().stdout).unwrap()
    }

    /// What can be seen.
    fn shown(&self) -> String {
        self.asked(&["capture-pane", "-p"])
    }

    fn shows(&self, text: &str) {
        self.comes_to(text, |shown| shown.contains(text));
    }

    fn comes_to(&self, what: &str, is: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is(&self.shown()) {
            assert!(begun.elapsed() < PATIENCE, "this is never shown: {what}\n{}", self.shown());
        }
    }

    fn types(&self, keys: &[&str]) {
        assert!(self.tmux(&["send-keys"]).args(keys).status().unwrap().success());
    }

    /// Types a filter, or takes it away; and waits for that, because what follows an Escape at once belongs to it.
    fn filters(&self, text: &str) {
        if text.is_empty() {
            self.types(&["Escape"]);
            self.shows("/ filter");
        } else {
            self.types(&["/"]);
            self.types(&["-l", text]);
            self.types(&["Enter"]);
            self.shows(&format!("filter: {text}  ("));
        }
    }

    /// The pid of gatewatch, which is the shell's child.
    fn pid(&self) -> u32 {
        let shell = self.asked(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// It has ended so, and has left the terminal as it was: the ordinary screen, the cursor, lines, echo.
    fn is_given_back(&self, status: &str) {
        self.shows("icanon");
        let shown = self.shown();
        assert!(shown.contains(&format!("ended {status}")), "{shown}");
        for setting in ["icanon", "echo", "isig", "icrnl", "opost"] {
            assert!(shown.split_whitespace().any(|word| word == setting), "{setting}: {shown}");
        }
        assert_eq!(self.asked(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).status();
    }
}

scenario!(top_shows_owners_as_they_come_and_go, needs(Tmux), |backend| {
    let port = unused_port();
    let terminal = Terminal::by(backend, port);
    terminal.shows("0 ports held, 1 free");
    let mut owner = Part::other().on_port(port).start();
    // with its pid, and the event that made it the owner
    terminal.comes_to("the owner", |shown| {
        let line = shown.lines().find(|line| line.contains(&port.to_string())).unwrap_or_default();
        line.contains(&format!(" {} ", owner.pid())) && line.contains("listen")
    });
    owner.end();
    terminal.shows("0 ports held, 1 free");
    terminal.types(&["Enter"]);
    terminal.shows(&format!("port {port} is free"));
    terminal.shows("release");
    let _again = Part::other().on_port(port).start();
    terminal.shows("1 restart");
    terminal.types(&["q", "q"]);
    terminal.is_given_back("0");
});

scenario!(top_without_a_port_shows_all_that_are_held, needs(Tmux), |backend| {
    let owners = [(); 2].map(|()| Part::other().on_port(unused_port()).start());
    let terminal = Terminal::top(&["--backend", run().flag(backend)]);
    // What is typed before is still the shell's line.
    terminal.shows("/ filter");
    for owner in &owners {
        // others may be held as well, more than there are lines
        terminal.filters(&owner.port().to_string());
        terminal.shows(&owner.pid().to_string());
        terminal.filters("");
    }
});

scenario!(top_cleans_nobody_without_a_yes, needs(Tmux), |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let terminal = Terminal::by(backend, owner.port());
    terminal.shows(&owner.pid().to_string());
    for no in ["n", "Enter", "Escape", "q", "c", "Space"] {
        terminal.types(&["c"]);
        terminal.shows("[y/N]");
        assert!(terminal.shown().contains("no process was signalled"));
        assert!(terminal.shown().contains(&format!("(pid {})", owner.pid())));
        terminal.types(&[no]);
        terminal.shows("was left alone");
    }
    // and a yes that is typed before there is a question is none
    terminal.types(&["c", "y", "y", "y"]);
    terminal.shows("[y/N]");
    assert!(owner.is_alive());
    // then only the yes to the question ends it
    terminal.types(&["y"]);
    terminal.shows("is free: cleaned");
    assert!(owner.is_gone() && can_bind(owner.address()));
});

scenario!(top_ends_nobody_but_whom_it_has_shown, needs(Tmux), |backend| {
    // given a question about one owner, whose place another has taken meanwhile
    for part in [Part::other, Part::gateway] {
        let port = unused_port();
        let mut shown = part().on_port(port).start();
        let terminal = Terminal::by(backend, port);
        terminal.shows(&shown.pid().to_string());
        terminal.types(&["c"]);
        terminal.shows("[y/N]");
        shown.end();
        until("its end", || shown.is_gone() && can_bind(shown.address()));
        let later = part().on_port(port).start();
        // when the answer is yes
        terminal.types(&["y"]);
        // then nobody is ended, and the other one is asked about
        terminal.shows("its owners have changed");
        terminal.shows(&format!("(pid {})", later.pid()));
        assert!(later.is_alive());
        terminal.types(&["n"]);
        terminal.shows("was left alone");
        assert!(later.is_alive());
    }
});

scenario!(top_asks_nothing_where_there_is_nothing_to_end, needs(Tmux), |backend| {
    let owner = Part::gateway().on_port(unused_port()).start();
    let (port, pid) = (owner.port().to_string(), owner.pid().to_string());
    let terminal = Terminal::top(&["--backend", run().flag(backend), &port, "--protect", &pid]);
    terminal.shows(&pid);
    terminal.types(&["c"]);
    terminal.shows("there is nothing to end");
    terminal.types(&["y"]);
    terminal.comes_to("the list", |shown| !shown.contains("there is nothing to end"));
    assert!(owner.is_alive());
});

scenario!(top_obeys_keys_and_signals_though_there_is_always_an_event, needs(Tmux, Bpf), || {
    let port = unused_port();
    let _flood = Flood::of(port);
    for end in [None, Some(Signal::SIGTERM)] {
        let terminal = Terminal::by(Backend::Ebpf, port);
        terminal.shows(&port.to_string());
        match end {
            Some(signal) => send(terminal.pid(), signal),
            None => terminal.types(&["q"]),
        }
        terminal.is_given_back("0");
    }
});

scenario!(top_gives_the_terminal_back_however_it_ends, needs(Tmux), || {
    let port = unused_port().to_string();
    for end in [None, Some(Signal::SIGTERM), Some(Signal::SIGINT), Some(Signal::SIGHUP)] {
        let terminal = Terminal::top(&["--backend", "poll", &port]);
        terminal.shows(&port);
        assert_eq!(terminal.asked(&["display-message", "-p", "#{alternate_on}"]).trim(), "1");
        match end {
            Some(signal) => send(terminal.pid(), signal),
            None => terminal.types(&["C-c"]),
        }
        terminal.is_given_back("0");
    }
});

scenario!(top_ends_when_its_terminal_is_gone, needs(Tmux), || {
    let port = unused_port().to_string();
    for _ in 0..3 {
        let terminal = Terminal::top(&["--backend", "poll", &port]);
        terminal.shows(&port);
        let top = Life::of(terminal.pid());
        drop(terminal);
        assert!(top.ends_within(PATIENCE));
    }
});

scenario!(top_fits_the_terminal, needs(Tmux), || {
    let owner = Part::other().on_port(unused_port()).start();
    let terminal = Terminal::by(Backend::Poll, owner.port());
    terminal.comes_to("columns", |shown| shown.contains("REST") && !shown.contains("USER"));
    terminal.asked(&["resize-window", "-x", "160", "-y", "24"]);
    terminal.comes_to("more columns", |shown| shown.contains("USER") && shown.contains("COMMAND"));
    terminal.asked(&["resize-window", "-x", "20", "-y", "5"]);
    terminal.comes_to("fewer columns", |shown| shown.contains("PORT") && !shown.contains("AGE"));
});

scenario!(top_heeds_who_wants_no_colours, needs(Tmux), || {
    for (flags, variables, is_coloured) in [
        (&[][..], &[][..], true),
        (&["--color", "never"], &[], false),
        (&[], &[("NO_COLOR", "1")], false),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
    ] {
        let port = unused_port();
        let gatewatch = Gatewatch::new(&["top", "--backend", "poll", &port.to_string()]).with(flags);
        let terminal = Terminal::running(&gatewatch, variables);
        terminal.shows("0 ports held, 1 free");
        // what is free is green
        let shown = terminal.asked(&["capture-pane", "-p", "-e"]);
        assert_eq!(shown.contains("\x1b[38;5;2m"), is_coloured, "{flags:?} {variables:?}: {shown:?}");
    }
});

scenario!(top_over_the_agent_cleans_by_its_rules, needs(Bpf, Tmux), || {
    let owner = Part::gateway().on_port(unused_port()).start();
    let other = Part::other().on_port(unused_port()).start();
    let agent = Agent::watching(&[(owner.port(), ""), (other.port(), "")]);
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    let terminal = Terminal::top(&["--agent", "only", "--socket", socket]);
    terminal.shows("2 ports held  by the agent");
    // what its rules do not match can't be chosen
    terminal.filters(&other.port().to_string());
    terminal.types(&["c"]);
    terminal.shows("there is nothing to end");
    terminal.types(&["y"]);
    terminal.filters("");
    terminal.filters(&owner.port().to_string());
    terminal.types(&["c"]);
    terminal.shows("The agent ends it");
    terminal.types(&["y"]);
    terminal.shows("is free: cleaned");
    assert!(owner.is_gone() && other.is_alive());
});

scenario!(top_over_an_agent_with_a_history_tells_the_last_hour, needs(Bpf, Tmux), || {
    // given an agent of one port, because what others do on this host can be more than the kernel's ring holds; and what has
    // happened before there is a screen
    let kept = folder();
    let history = format!("[history]\npath = {:?}\n", kept.path().join("kept").join("history.sqlite"));
    let port = unused_port();
    let agent = Agent::with(&format!("{history}[[watch]]\nport = {port}\n"));
    let first = Part::other().on_port(port).start();
    assert!(Part::other().on_port(port).try_to_start().is_none());
    first.ask_to_end();
    until("its end", || agent.history(&format!("port={port}")).iter().any(|line| line["event"] == "free"));
    let owner = Part::other().on_port(port).start();
    let socket = agent.socket();
    let named = port.to_string();
    let terminal = Terminal::top(&["--agent", "auto", "--socket", socket.to_str().unwrap(), &named]);
    terminal.shows("by the agent, since");
    terminal.filters(&named);
    terminal.comes_to("the owner", |shown| shown.contains(&format!(" {} ", owner.pid())));
    terminal.types(&["Enter"]);
    // then the screen tells it
    terminal.shows("1 conflict, 1 restart");
    terminal.shows("release");
    // and goes on from there
    assert!(Part::other().on_port(port).try_to_start().is_none());
    terminal.shows("2 conflicts, 1 restart");
    assert_eq!(terminal.shown().matches("  listen ").count(), 2, "{}", terminal.shown());
});

scenario!(top_of_all_ports_is_told_by_an_agent_that_follows_all, needs(Bpf, Tmux), || {
    let agent = Agent::with("[agent]\nwatch = \"all\"\n");
    let owner = Part::other().on_port(unused_port()).start();
    let socket = agent.socket();
    let terminal = Terminal::top(&["--agent", "auto", "--socket", socket.to_str().unwrap()]);
    terminal.shows("by the agent");
    terminal.filters(&owner.port().to_string());
    terminal.comes_to("the owner", |shown| shown.contains(&format!(" {} ", owner.pid())));
});
