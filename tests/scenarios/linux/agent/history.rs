//! The host agent follows every port, and keeps a history on disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirEntryExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gatewatch_tests::{
    Actor, Agent, Answer, Flood, Gatewatch, Mounted, Part, as_user, come_and_go, config, folder, until,
    unused_port,
};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const NOBODY: u32 = 65_534;
/// How often a server comes and goes at most while no agent reads: the ring has room for some 1090 times its three events.
const MOST_UNREAD: usize = 800;

/// A folder for a history, and the configuration of an agent that writes one there.
struct Kept {
    folder: TempDir,
}

impl Kept {
    fn new() -> Self {
        Self { folder: folder() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("kept").join("history.sqlite")
    }

    /// Like [`Self::config`], with a folder where events are kept between two agents.
    fn config_with_pins(&self, folder: &Path, ports: &[u16]) -> String {
        self.config(ports).replacen("[history]", &format!("[history]\npins = {folder:?}"), 1)
    }

    fn config(&self, ports: &[u16]) -> String {
        let watched: Vec<(u16, &str)> = ports.iter().map(|&port| (port, "")).collect();
        format!("[history]\npath = {:?}\n{}", self.path(), config(&watched))
    }

    /// What the file itself says: no agent is asked, which would make it write.
    fn read(&self, words: &[&str]) -> Answer {
        let config = self.folder.path().join("config.toml");
        fs::write(&config, self.config(&[])).unwrap();
        let command = Gatewatch::new(&["history", "--agent", "never", "--config", config.to_str().unwrap()]);
        command.with(words).run()
    }

    fn lines(&self, port: u16) -> Vec<Value> {
        let answer = self.read(&["--format", "json", "-p", &port.to_string()]);
        answer.lines()
    }
}

fn named<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

/// The time, as the history writes it.
fn now() -> String {
    let date = Command::new("date").args(["--utc", "+%FT%T.%6NZ"]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

/// Waits until the history has this event of a port.
fn wait_for(agent: &Agent, port: u16, event: &str) -> Vec<Value> {
    let query = format!("port={port}");
    until(event, || !named(&agent.history(&query), event).is_empty());
    agent.history(&query)
}

scenario!(every_port_is_followed_and_the_configured_ones_alone_are_cleaned, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::with(&format!("[agent]\nwatch = \"all\"\n[[watch]]\nport = {port}\n"));
    let mut all = agent.events("");
    let ready = all.up_to("ready");
    assert_eq!(named(&ready, "ready").len(), 1);
    let gateway = Part::gateway().on_port(unused_port()).start();
    let other = gateway.port();
    // then it is told, and can be asked for
    // Whatever else happens on this host is told as well, and can be more than the kernel's ring holds.
    let is_told = |line: &Value| {
        line["port"] == other && ["listen", "held"].iter().any(|&event| line["event"] == event)
    };
    while !is_told(&all.line()) {}
    assert_eq!(agent.answer(&["owners"], other).owner(gateway.pid())["identity"], "match");
    let ports = agent.get("/v1/ports").json();
    let entry = ports["ports"].as_array().unwrap().iter().find(|entry| entry["port"] == other).unwrap();
    assert_eq!((&entry["held"], &entry["configured"]), (&true.into(), &false.into()));
    let metrics = agent.get("/metrics").body;
    assert!(!metrics.contains(&format!("port=\"{other}\"")), "{metrics}");
    assert!(metrics.contains("gatewatch_other_ports_events_total{event=\"listen\"}"), "{metrics}");
    // but nobody is ended there
    assert_eq!(agent.post(&format!("/v1/ports/{other}/clean"), "").status, 404);
    assert!(gateway.is_alive());
    // and no longer told once the configuration says so
    agent.reconfigure(&format!("[[watch]]\nport = {port}\n"));
    until("the port is not watched", || agent.get(&format!("/v1/ports/{other}")).status == 404);
});

scenario!(watch_all_is_asked_of_an_agent_that_follows_every_port, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).start();
    let watch = |agent: &Agent, choice: &str| {
        let socket = agent.socket();
        Gatewatch::new(&["watch", "--all", "--for", "1s", "--format", "json", "--agent", choice])
            .with(&["--socket", socket.to_str().unwrap()])
            .as_nobody()
            .run()
    };
    // given one, then a user who may read is told of other users' processes
    let all = Agent::with("[agent]\nwatch = \"all\"\ngroup = \"65534\"\n");
    for choice in ["auto", "only"] {
        let answer = watch(&all, choice);
        let lines = answer.lines();
        let held = lines.iter().find(|line| line["port"] == owner.port()).unwrap();
        assert_eq!((&held["event"], &held["pid"]), (&"held".into(), &owner.pid().into()));
        assert!(held["cursor"].is_string() && answer.err.is_empty(), "{}", answer.err);
        // and what concerns every port names none
        let ready = lines.iter().find(|line| line["event"] == "ready").unwrap();
        assert_eq!(ready["port"], 0);
    }
    // and another agent is no source of every port's events
    let some = Agent::with("[agent]\ngroup = \"65534\"\n");
    let answer = watch(&some, "auto");
    assert!(answer.lines().iter().all(|line| line["cursor"].is_null()));
    let answer = watch(&some, "only");
    assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
    assert!(answer.err.contains("the ports of its configuration"), "{answer:?}");
});

scenario!(the_history_tells_who_had_a_port, needs(Bpf), || {
    let (kept, port) = (Kept::new(), unused_port());
    let agent = Agent::with(&kept.config(&[port]));
    let owner = Part::other().on_port(port).start();
    assert!(Part::named("late-comer").on_port(port).try_to_start().is_none());
    // An owner that ends before the agent has looked at it can't be described.
    wait_for(&agent, port, "conflict");
    owner.ask_to_end();
    let lines = wait_for(&agent, port, "free");
    let told: Vec<&str> = events(&lines).into_iter().filter(|&event| event != "gap").collect();
    assert_eq!(told, ["bind", "listen", "conflict", "release", "free"], "{lines:?}");
    let [listen, conflict] = ["listen", "conflict"].map(|event| named(&lines, event)[0]);
    assert_eq!((&listen["pid"], &listen["process"]["argv"][0]), (&owner.pid().into(), &"some-server".into()));
    assert!(listen["process"]["start_time"].is_string() && listen["number"].is_u64(), "{listen}");
    assert_eq!(conflict["holders"][0]["pid"], owner.pid());
    assert_eq!(named(&lines, "release")[0]["process"], listen["process"]);
    // and the command tells the same, from the agent and from the file, to people and to programs
    let command = agent.answer(&["history"], port);
    let told = command.lines();
    assert_eq!(events(&told), events(&lines));
    assert_eq!(named(&told, "listen"), named(&lines, "listen"));
    assert_eq!(named(&kept.lines(port), "conflict"), named(&lines, "conflict"));
    let text = kept.read(&[&port.to_string()]).out;
    assert!(text.contains("some-server") && text.contains(&format!("(pid {})", owner.pid())), "{text}");
});

scenario!(an_owner_of_before_the_span_is_told_as_held, needs(Bpf), || {
    let (kept, port) = (Kept::new(), unused_port());
    let found = Part::other().on_port(unused_port()).start();
    let agent = Agent::with(&kept.config(&[found.port(), port]));
    let owner = Part::other().on_port(port).start();
    let before = wait_for(&agent, owner.port(), "listen");
    until("the other one is found", || !agent.history(&format!("port={}&since=0s", found.port())).is_empty());
    for (actor, is_found) in [(&owner, false), (&found, true)] {
        let lines = agent.history(&format!("port={}&since=0s", actor.port()));
        assert_eq!(events(&lines), ["held"]);
        assert_eq!(lines[0]["pid"], actor.pid());
        assert_eq!(lines[0]["found"] == true, is_found, "{lines:?}");
    }
    // Its time is that at which it took the port.
    let held = &agent.history(&format!("port={}&since=0s", owner.port()))[0];
    assert_eq!(held["time"], named(&before, "bind")[0]["time"]);
    // and one that has ended since is told for as long as it held the port
    owner.ask_to_end();
    let all = wait_for(&agent, owner.port(), "free");
    let since = named(&all, "listen")[0]["time"].as_str().unwrap();
    let until_listen = agent.history(&format!("port={}&since={since}&until={since}", owner.port()));
    assert_eq!(events(&until_listen), ["held", "listen"], "{until_listen:?}");
    assert!(agent.history(&format!("port={}&since=0s", owner.port())).is_empty());
});

scenario!(a_clean_is_in_the_history_with_who_asked, needs(Bpf), || {
    let kept = Kept::new();
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::with(&kept.config(&[port]));
    assert_eq!(agent.answer(&["clean"], port).outcome(), "cleaned");
    let lines = wait_for(&agent, port, "clean");
    let clean = named(&lines, "clean")[0];
    assert_eq!((&clean["uid"], &clean["comm"]), (&0.into(), &"gatewatch".into()), "{clean}");
    assert_eq!(clean["clean"]["outcome"], "cleaned");
    let owner = &clean["clean"]["owners"][0];
    assert_eq!((&owner["pid"], &owner["ended_by"]), (&gateway.pid().into(), &"SIGTERM".into()), "{clean}");
    assert_eq!(owner["process"]["argv"][0], "openclaw-gateway");
    let text = kept.read(&["-p", &port.to_string()]).out;
    assert!(text.contains("asked for by") && text.contains("by SIGTERM"), "{text}");
});

scenario!(the_history_outlives_an_agent_that_is_killed, needs(Bpf), || {
    let kept = Kept::new();
    let ports = [(); 3].map(|()| unused_port());
    let mut agent = Agent::with(&kept.config(&ports));
    let [gone, stays] = [ports[0], ports[1]].map(|port| Part::other().on_port(port).start());
    for owner in [&gone, &stays] {
        // Nobody asks the agent, so it writes of its own accord.
        until("it is written", || !named(&kept.lines(owner.port()), "listen").is_empty());
    }
    agent.signal(Signal::SIGKILL);
    agent.end();
    gone.ask_to_end();
    until("it has ended", || gone.is_gone());
    let came = Part::other().on_port(ports[2]).start();
    agent.replace();
    // then what was written is there, and the gap is told
    let lines = wait_for(&agent, gone.port(), "release");
    assert_eq!(named(&lines, "listen")[0]["pid"], gone.pid());
    let gap = named(&lines, "gap").into_iter().find(|gap| gap["gap"]["reason"] == "killed").unwrap();
    assert!(gap["gap"]["from"].as_str() < gap["time"].as_str(), "{gap}");
    // and what was held before and after is compared
    let release = named(&lines, "release")[0];
    assert_eq!((&release["found"], &release["pid"]), (&true.into(), &gone.pid().into()), "{release}");
    let lines = wait_for(&agent, came.port(), "held");
    let held = named(&lines, "held")[0];
    assert_eq!((&held["found"], &held["pid"]), (&true.into(), &came.pid().into()), "{held}");
    assert!(held["process"]["start_time"].as_str() < held["time"].as_str(), "{held}");
    let lines = agent.history(&format!("port={}&since=0s", stays.port()));
    assert_eq!(events(&lines), ["held"], "{lines:?}");
    assert_eq!(lines[0]["found"], Value::Null);
});

scenario!(what_happens_while_no_agent_runs_is_read_by_the_next, needs(Root, Bpf), || {
    let kept = Kept::new();
    let pins = Mounted::of("bpf", &kept.folder.path().join("bpf"), None);
    let folder = pins.path().join("gatewatch");
    let [port, before] = [(); 2].map(|()| unused_port());
    let mut agent = Agent::with(&kept.config_with_pins(&folder, &[port, before]));
    let query = format!("port={port}&port={before}");
    let told = |agent: &Agent, pid: u32, event: &str| {
        until(event, || named(&agent.history(&query), event).iter().any(|line| line["pid"] == pid));
        agent.history(&query)
    };
    for (signal, gaps) in [(Signal::SIGTERM, 0), (Signal::SIGKILL, 1)] {
        let old = Part::other().on_port(before).start();
        told(&agent, old.pid(), "listen");
        agent.signal(signal);
        agent.end();
        // given a server that comes and goes while there is no agent, and one of before that goes
        let begun = now();
        let server = Part::other().on_port(port).start();
        for server in [&server, &old] {
            server.ask_to_end();
            until("it has ended", || server.is_gone());
        }
        let ended = now();
        agent.replace();
        // then the next agent knows when that was, and who
        told(&agent, server.pid(), "release");
        let lines = told(&agent, old.pid(), "release");
        let of_server: Vec<_> = lines.iter().filter(|line| line["pid"] == server.pid()).cloned().collect();
        assert_eq!(events(&of_server), ["bind", "listen", "release"], "{signal}: {lines:?}");
        let of_old = lines.iter().filter(|line| line["pid"] == old.pid() && line["event"] == "release");
        for line in of_server.iter().chain(of_old) {
            let time = line["time"].as_str().unwrap();
            assert!(*begun < *time && *time < *ended, "{signal}: {begun} {line} {ended}");
            assert_eq!(line["found"], Value::Null, "{line}");
        }
        // and a gap is told only if the last one did not end in order: its last second may not be written
        let is_new = |line: &&&Value| line["time"].as_str() > Some(begun.as_str());
        assert_eq!(named(&lines, "gap").iter().filter(is_new).count(), gaps, "{signal}: {lines:?}");
    }
    // and what the agent itself sees is there once
    let after = Part::other().on_port(port).start();
    let lines = told(&agent, after.pid(), "listen");
    let listens = named(&lines, "listen").into_iter().filter(|line| line["pid"] == after.pid());
    assert_eq!(listens.count(), 1, "{lines:?}");
});

scenario!(between_two_agents_nothing_is_lost_and_nothing_told_twice, needs(Root, Bpf), || {
    let kept = Kept::new();
    let pins = Mounted::of("bpf", &kept.folder.path().join("bpf"), None);
    let folder = pins.path().join("gatewatch");
    let port = unused_port();
    let config = kept.config_with_pins(&folder, &[port]);
    let mut agent = Agent::with(&config);
    // given a server that listens and ends again and again, also while one agent ends and the next begins
    let is_over = AtomicBool::new(false);
    let left = AtomicUsize::new(MOST_UNREAD);
    let made = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut made = 0;
            while !is_over.load(Ordering::Relaxed) {
                if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
                {
                    come_and_go(port);
                    made += 1;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            made
        });
        for _ in 0..3 {
            // An agent that has answered has read all of before.
            wait_for(&agent, port, "release");
            left.store(MOST_UNREAD, Ordering::Relaxed);
            agent.signal(Signal::SIGTERM);
            assert_eq!(agent.end(), Some(0));
            agent.replace();
        }
        is_over.store(true, Ordering::Relaxed);
        server.join().unwrap()
    });
    until("all is written", || named(&agent.history(&format!("port={port}")), "release").len() >= made);
    let lines = agent.history(&format!("port={port}"));
    for event in ["bind", "listen", "release"] {
        assert_eq!(named(&lines, event).len(), made, "{event}");
    }
    assert!(
        named(&lines, "gap").iter().all(|gap| gap["gap"]["reason"] == "not_kept"),
        "{:?}",
        named(&lines, "gap")
    );
});

scenario!(the_pins_of_others_are_left_alone, needs(Root, Bpf), || {
    let kept = Kept::new();
    let pins = Mounted::of("bpf", &kept.folder.path().join("bpf"), None);
    let folder = pins.path().join("gatewatch");
    let config = |port| kept.config_with_pins(&folder, &[port]);
    let agent = Agent::with(&config(unused_port()));
    let names = || -> BTreeSet<_> {
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let inodes =
        || -> BTreeSet<_> { fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().ino()).collect() };
    let before = inodes();
    assert!(names().iter().all(|name| name.to_string_lossy().starts_with("gatewatch_")), "{:?}", names());
    // given a second agent, which would take those of the first away
    let second = Agent::with(&config(unused_port()));
    let degraded = second.get("/v1/status").json()["degraded"].to_string();
    assert!(degraded.contains("another agent keeps its events there"), "{degraded}");
    assert_eq!(inodes(), before);
    drop((second, agent));
    // given a name of another program's
    let others = folder.join("others");
    fs::hard_link(folder.join("gatewatch_lost"), &others).or_else(|_| fs::create_dir(&others)).unwrap();
    let _next = Agent::with(&config(unused_port()));
    assert!(others.exists());
    assert_ne!(inodes(), before);
});

scenario!(a_folder_of_pins_that_others_can_write_to_is_not_read, needs(Root, Bpf), || {
    let kept = Kept::new();
    let pins = Mounted::of("bpf", &kept.folder.path().join("bpf"), None);
    let [shared, disk] = [pins.path().join("shared"), kept.folder.path().join("disk")];
    for folder in [&shared, &disk] {
        fs::create_dir(folder).unwrap();
    }
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o700)).unwrap();
    for (folder, why) in [(&shared, "root's alone"), (&disk, "BPF file system")] {
        let config = kept.config_with_pins(folder, &[unused_port()]);
        let agent = Agent::with(&config);
        let degraded = agent.get("/v1/status").json()["degraded"].to_string();
        assert!(degraded.contains(why), "{degraded}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
});

scenario!(an_agent_that_is_told_to_end_has_written_all, needs(Bpf), || {
    const ROUNDS: usize = 300;
    let kept = Kept::new();
    let port = unused_port();
    let mut agent = Agent::with(&kept.config(&[port]));
    let owner = Part::other().on_port(port).with(&["--churn", &ROUNDS.to_string()]).start();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(), Some(0));
    let lines = kept.lines(port);
    assert_eq!(named(&lines, "release").len(), ROUNDS, "{lines:?}");
    let listens = named(&lines, "listen");
    assert_eq!((listens.len(), &listens[ROUNDS]["pid"]), (ROUNDS + 1, &owner.pid().into()));
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line["number"].as_u64()).collect();
    assert!(numbers[1..numbers.len() - 1].is_sorted(), "{numbers:?}");
    // and nothing is known of what came later
    assert_eq!(lines.last().unwrap()["gap"]["reason"], "stopped", "{lines:?}");
    // which the next agent tells as well
    agent.replace();
    let lines = wait_for(&agent, port, "gap");
    assert!(named(&lines, "gap").iter().any(|gap| gap["gap"]["reason"] == "stopped"), "{lines:?}");
});

scenario!(a_full_disk_costs_the_history_and_nothing_else, needs(Bpf), || {
    let kept = Kept::new();
    let disk = Mounted::of("tmpfs", kept.path().parent().unwrap(), Some("size=2m"));
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let churned = unused_port();
    let agent = Agent::with(&kept.config(&[port, churned]));
    // given a disk that is full
    let filler = disk.fill();
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    let busy = Part::other().on_port(churned).with(&["--churn", "4000"]).start();
    until("that is told", || degraded().contains("the disk is full"));
    // then all else goes on, and the history says since when it does not
    assert_eq!(agent.answer(&["owners"], churned).owner(busy.pid())["pid"], busy.pid());
    assert_eq!(agent.answer(&["clean"], port).outcome(), "cleaned");
    assert!(gateway.is_gone());
    let lines = agent.history(&format!("port={churned}"));
    assert_eq!(lines.last().unwrap()["gap"]["reason"], "not_written", "{lines:?}");
    // and it goes on once there is room, with what holds the ports now
    fs::remove_file(&filler).unwrap();
    until("it is well", || degraded() == "[]");
    until("the owner is known", || {
        let lines = agent.history(&format!("port={churned}&since=0s"));
        named(&lines, "held").iter().any(|line| line["pid"] == busy.pid())
    });
    busy.ask_to_end();
    wait_for(&agent, churned, "free");
});

scenario!(readers_of_the_agent_alone_read_the_history, needs(Bpf), || {
    let kept = Kept::new();
    let agent = Agent::with(&kept.config(&[]));
    assert_eq!(agent.as_nobody("GET", "/v1/history", "").status, 403);
    assert_eq!(agent.get("/v1/history").status, 200);
    let socket = agent.socket().display().to_string();
    let config = kept.folder.path().join("config.toml");
    fs::write(&config, kept.config(&[])).unwrap();
    let words = ["history", "--socket", &socket, "--config", config.to_str().unwrap()];
    let answer = as_user(NOBODY, || Gatewatch::plain(&words));
    assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
    assert!(answer.err.contains("root"), "{answer:?}");
    assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
    // nor does one who asks without the agent's configuration hear of a file that has nothing to do with it
    let answer = as_user(NOBODY, || Gatewatch::plain(&words[..3]));
    assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
    assert!(answer.err.contains("may not read") && answer.err.contains("group"), "{answer:?}");
    assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
    // and its files are root's alone
    for file in fs::read_dir(kept.path().parent().unwrap()).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
});

scenario!(a_name_in_the_history_does_not_steer_the_terminal, needs(Bpf), || {
    let (kept, port) = (Kept::new(), unused_port());
    let agent = Agent::with(&kept.config(&[port]));
    let owner = Part::named("evil\u{1b}[2J\u{202e}\nname").on_port(port).start();
    let lines = wait_for(&agent, owner.port(), "listen");
    assert_eq!(named(&lines, "listen")[0]["process"]["argv"][0], "evil\u{1b}[2J\u{202e}\nname");
    let text = kept.read(&["-p", &owner.port().to_string()]).out;
    assert!(text.contains("evil\u{fffd}[2J\u{fffd}\u{fffd}name"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
});

scenario!(a_history_that_is_cut_off_does_not_look_whole, needs(Bpf), || {
    const MANY: usize = 1_000_000;
    let (kept, port) = (Kept::new(), unused_port());
    let mut agent = Agent::with(&kept.config(&[port]));
    // given a history that no buffer has room for
    let flood = Flood::of(port);
    let query = format!("/v1/history?port={port}");
    until("much is told", || agent.get(&query).body.len() > MANY);
    drop(flood);
    let whole = agent.get(&query);
    assert!(whole.body.ends_with("0\r\n\r\n") && whole.body.len() > MANY, "{}", whole.body.len());
    // and one who has begun to read it
    let mut reader = agent.connect_as(0);
    assert!(reader.write(&format!("GET {query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")));
    until("it has begun", || reader.has_answered());
    // As another one has read all of it meanwhile, the first has been sent what there is room for.
    assert_eq!(agent.get(&query).status, 200);
    // when the agent is told to end
    agent.signal(Signal::SIGTERM);
    until("it is ending", || agent.log().contains("ending"));
    // then the stream breaks off
    let cut = reader.rest();
    assert!(cut.status == 200 && cut.body.len() < whole.body.len(), "{}", cut.body.len());
    assert!(!cut.body.ends_with("0\r\n\r\n"), "{}", cut.body.len());
    assert_eq!(agent.end(), Some(0));
});

scenario!(a_span_that_is_none_is_refused, needs(Bpf), || {
    let kept = Kept::new();
    let agent = Agent::with(&kept.config(&[]));
    for query in [
        "since=yesterday",
        "since=1h&until=2h",
        "since=5",
        "since=",
        "since=1h&since=2h",
        "since=99999999999d",
        "until=1h&until=1h",
        "port=0",
        "port=x",
        "ports=1",
    ] {
        assert_eq!(agent.get(&format!("/v1/history?{query}")).status, 400, "{query}");
    }
    let socket = agent.socket();
    let ask =
        |words: &[&str]| Gatewatch::new(&["history", "--socket", socket.to_str().unwrap()]).with(words).run();
    for words in [
        &["--since", "yesterday"][..],
        &["--since", "1h", "--until", "2h"],
        &["--until", "-1h"],
        &["--since", "99999999999d"],
    ] {
        for answer in [kept.read(words), ask(words)] {
            assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
        }
    }
    let answer = ask(&["--since", "99999999999d"]);
    assert!(answer.err.contains("--since 99999999999d: that is too long ago"), "{answer:?}");
    // two ports are none too many
    assert_eq!(agent.get("/v1/history?port=1&port=2").status, 200);
    let without = Agent::watching(&[(unused_port(), "")]);
    let answer = without.get("/v1/history");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("[history]"), "{answer:?}");
});

scenario!(one_agent_writes_a_history_and_no_other, needs(Bpf), || {
    let kept = Kept::new();
    let port = unused_port();
    let [first, second] = [(); 2].map(|()| Agent::with(&kept.config(&[port])));
    let degraded = |agent: &Agent| agent.get("/v1/status").json()["degraded"].to_string();
    until("that is told", || degraded(&second).contains("another agent writes it"));
    assert_eq!(degraded(&first), "[]");
    // and the second one goes on with it once the first one has ended
    drop(first);
    until("it can write", || degraded(&second) == "[]");
    let _owner = Part::other().on_port(port).start();
    wait_for(&second, port, "listen");
});

scenario!(a_damaged_history_is_put_aside, needs(Bpf), || {
    let kept = Kept::new();
    fs::create_dir(kept.path().parent().unwrap()).unwrap();
    fs::write(kept.path(), "this is no database, but it is longer than a database's head is".repeat(100))
        .unwrap();
    let port = unused_port();
    let agent = Agent::with(&kept.config(&[port]));
    let _owner = Part::other().on_port(port).start();
    wait_for(&agent, port, "listen");
    assert!(kept.path().with_extension("sqlite.damaged").exists());
    assert!(agent.log().contains("damaged"), "{}", agent.log());
});

scenario!(a_history_is_drawn_into_a_file, needs(Bpf), || {
    let kept = Kept::new();
    let port = unused_port();
    let agent = Agent::with(&kept.config(&[port]));
    let gone = Part::other().on_port(port).start();
    wait_for(&agent, port, "listen");
    let first = gone.pid();
    drop(gone);
    wait_for(&agent, port, "free");
    let stays = Part::other().on_port(port).start();
    until("both are recorded", || named(&agent.history(&format!("port={port}")), "listen").len() == 2);
    // when a picture is asked for
    let file = kept.folder.path().join("history.svg");
    let answer = kept.read(&[&port.to_string(), "--svg", file.to_str().unwrap()]);
    // then it shows both owners, and nothing is printed
    assert_eq!((answer.status, answer.out.as_str()), (0, ""), "{answer:?}");
    let picture = fs::read_to_string(&file).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>"), "{picture}");
    for part in [format!("port {port}"), format!(" {first}, from "), format!(" {}, from ", stays.pid())] {
        assert!(picture.contains(&part), "{part} is not in {picture}");
    }
    assert_eq!(picture.matches("still there").count(), 1, "{picture}");
});

scenario!(a_history_is_kept_up_to_its_size, needs(Bpf), || {
    let kept = Kept::new();
    let [other, port] = [(); 2].map(|()| unused_port());
    let config = kept.config(&[other, port]).replacen("[history]", "[history]\nmax_size = \"1MiB\"", 1);
    let agent = Agent::with(&config);
    let first = Part::other().on_port(other).start();
    wait_for(&agent, other, "listen");
    let oldest = || {
        let lines = agent.history("since=1h");
        let gap = named(&lines, "gap").into_iter().next().unwrap();
        gap["time"].as_str().unwrap().to_owned()
    };
    let begun = oldest();
    // when more happens than fits
    until("older records go", || {
        let _busy = Part::other().on_port(port).with(&["--churn", "2000"]).start();
        oldest() > begun
    });
    // then the owner of a port that is still held is known all the same
    let lines = agent.history(&format!("port={}&since=0s", first.port()));
    assert_eq!((events(&lines), &lines[0]["pid"]), (vec!["held"], &first.pid().into()));
    let lines = agent.history(&format!("port={port}&since=1h"));
    assert_eq!(lines[0]["gap"]["reason"], "not_kept", "{:?}", lines[0]);
});

/// Each link of a process that the agent's writing thread reads, its program's among them, takes this long to read. The thread is
/// let go when this is dropped.
struct SlowToRead(Child);

impl SlowToRead {
    fn of(agent: &Agent, each: Duration) -> Self {
        let threads = || fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
        let is_it = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "history\n");
        let find = || threads().map(|thread| thread.path()).find(|path| is_it(path));
        // It gives itself its name.
        until("the thread runs", || find().is_some());
        let thread = find().unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-e", "trace=readlink,readlinkat", "-e", "signal=none", "-o", "/dev/null"]);
        strace.args(["-e", &format!("inject=readlink,readlinkat:delay_enter={}", each.as_micros())]);
        strace.arg("-p").arg(thread.file_name().unwrap()).stderr(Stdio::null());
        let strace = Self(strace.spawn().unwrap());
        let tracer = format!("TracerPid:\t{}\n", strace.0.id());
        until("strace follows the thread", || {
            fs::read_to_string(thread.join("status")).is_ok_and(|text| text.contains(&tracer))
        });
        strace
    }
}

impl Drop for SlowToRead {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

scenario!(processes_that_are_slow_to_read_do_not_keep_events_from_being_written, needs(Bpf, Strace), || {
    /// To read all of these would take several times as long as anybody waits here.
    const OWNERS: usize = 60;
    const EACH: Duration = Duration::from_millis(700);
    let kept = Kept::new();
    let ports: Vec<u16> = (0..=OWNERS).map(|_| unused_port()).collect();
    let agent = Agent::with(&kept.config(&ports));
    let query: Vec<String> = ports.iter().map(|port| format!("port={port}")).collect();
    let query = query.join("&");
    let listens = || -> Vec<Value> {
        agent.history(&query).into_iter().filter(|line| line["event"] == "listen").collect()
    };
    let slow = SlowToRead::of(&agent, EACH);
    let owners: Vec<Actor> =
        ports[1..].iter().map(|&port| Part::other().with_comm("slow").on_port(port).start()).collect();
    // then each has its place in the history, with its name and its user
    let of_owners = || -> Option<Vec<Value>> {
        let written = listens();
        let of = |owner: &Actor| written.iter().find(|line| line["pid"] == owner.pid()).cloned();
        owners.iter().map(of).collect()
    };
    until("all are written", || of_owners().is_some());
    let written = of_owners().unwrap();
    for (owner, line) in owners.iter().zip(&written) {
        assert_eq!(
            (&line["comm"], &line["uid"], &line["port"]),
            (&"slow".into(), &0.into(), &owner.port().into())
        );
    }
    // and of most nothing else was read
    let read = written.iter().filter(|line| !line["process"]["argv"].is_null()).count();
    assert!(read < OWNERS / 2, "{read} of {OWNERS}");
    // and once it is quick again, all is
    drop(slow);
    until("an owner is described", || {
        let owner = Part::other().on_port(ports[0]).start();
        let of_owner = |line: &Value| line["pid"] == owner.pid();
        until("it is written", || listens().iter().any(of_owner));
        listens().iter().any(|line| of_owner(line) && line["process"]["argv"][0] == "some-server")
    });
});
