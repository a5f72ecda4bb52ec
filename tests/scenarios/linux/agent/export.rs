//! The host agent exports what happens to a real NATS server, which goes away, comes back, hangs and refuses.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use gatewatch_tests::{
    Agent, Gatewatch, Message, NatsServer, Part, come_and_go, config, folder, until, unused_port,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::check;

const STREAM: &str = "gatewatch";
const CREATE: &str = "create_stream = {}\n";

/// An agent's history and configuration.
struct Exporting {
    folder: TempDir,
    port: u16,
    url: String,
}

impl Exporting {
    fn to(server: &NatsServer) -> Self {
        Self { folder: folder(), port: unused_port(), url: server.url() }
    }

    fn config(&self, more: &str) -> String {
        let history = self.folder.path().join("kept").join("history.sqlite");
        format!(
            "[history]\npath = {history:?}\n[export.nats]\nurl = {:?}\nhost = \"a.b\"\n{more}{}",
            self.url,
            config(&[(self.port, "")])
        )
    }

    fn agent(&self, more: &str) -> Agent {
        Agent::with(&self.config(more))
    }

    /// Lets so many servers come and go on the port. Each is seen to bind, to listen, to let go, and to leave nobody.
    fn happen(&self, times: usize) {
        for _ in 0..times {
            come_and_go(self.port);
        }
    }
}

/// The numbers of all that the agent has seen.
fn made(agent: &Agent) -> Vec<u64> {
    let lines = agent.history("since=1h");
    let numbers = lines.iter().filter_map(|line| line["number"].as_u64());
    // A record of before the span is told as held first, and gaps that are no records have no number.
    numbers.filter(|&number| number > 0).collect::<BTreeSet<_>>().into_iter().collect()
}

fn numbers(messages: &[Message]) -> Vec<u64> {
    messages.iter().filter_map(|message| message.payload["number"].as_u64()).collect()
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

/// The value of a metric.
fn metric(agent: &Agent, name: &str) -> u64 {
    let metrics = agent.get("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    line.parse().unwrap()
}

fn waiting(agent: &Agent) -> u64 {
    metric(agent, "gatewatch_export_waiting_events")
}

fn is_degraded(agent: &Agent) -> bool {
    metric(agent, "gatewatch_degraded{reason=\"export\"}") == 1
}

/// Waits until the stream has all that the agent has seen, each once, and says so.
fn all_arrive_once(agent: &Agent, server: &NatsServer) {
    let made = made(agent);
    until("the stream has as much as the agent has seen", || {
        server.count(STREAM).unwrap_or(0) >= made.len() as u64
    });
    let arrived = numbers(&server.messages(STREAM));
    let first: Vec<u64> = sorted(arrived).into_iter().take(made.len()).collect();
    assert_eq!(first, made);
}

scenario!(what_happens_arrives_under_its_subject_with_an_id, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent(CREATE);
    let owner = Part::other().on_port(exporting.port).start();
    let port = exporting.port;
    let subject = |event: &str| format!("gatewatch.a_b.{port}.{event}");
    until("it arrives", || server.has(STREAM, &subject("listen")));
    owner.ask_to_end();
    until("its end arrives", || server.has(STREAM, &subject("free")));
    let messages = server.messages(STREAM);
    let listen = messages.iter().find(|message| message.subject == subject("listen")).unwrap();
    let payload = &listen.payload;
    assert_eq!((&payload["host"], &payload["event"]), (&"a.b".into(), &"listen".into()));
    assert_eq!((&payload["port"], &payload["pid"]), (&port.into(), &owner.pid().into()));
    assert!(listen.id.starts_with(&format!("a.b-{}-", payload["number"])), "{listen:?}");
    assert_eq!(payload["process"]["user"], "root");
    // but no command line, unless that is wanted
    assert!(payload["process"]["argv"].is_null(), "{payload}");
    let stored = agent.history(&format!("port={port}"));
    let stored = stored.iter().find(|line| line["event"] == "listen").unwrap();
    assert!(stored["process"]["argv"].is_array(), "{stored}");
    // and the agent says how it goes
    until("all is confirmed", || metric(&agent, "gatewatch_export_sent_total") >= 4 && waiting(&agent) == 0);
    let status = agent.get("/v1/status").json();
    let export = &status["export"];
    assert_eq!((&export["url"][0], &export["works"]), (&server.url().into(), &true.into()));
    assert_eq!(export["subject"], "gatewatch.{host}.{port}.{event}");
    assert_eq!((&export["waiting"], &export["dropped"]), (&0.into(), &0.into()));
    let doctor = Gatewatch::plain(&["doctor", "--socket", agent.socket().to_str().unwrap()]).out;
    assert!(doctor.contains(&format!("exports to {}: ", server.url())), "{doctor}");
});

scenario!(what_the_configuration_adds_is_sent_under_its_own_subject, needs(NatsServer), || {
    let server = NatsServer::start();
    server.create_stream("fleet", &json!({"subjects": ["fleet.>"]}));
    let exporting = Exporting::to(&server);
    let more = "subject = \"fleet.{protocol}.{port}.{host}.{event}\"\ncommand_lines = true\n";
    let _agent = exporting.agent(more);
    let _owner = Part::other().on_port(exporting.port).start();
    let subject = format!("fleet.tcp.{}.a_b.listen", exporting.port);
    until("it arrives", || server.has("fleet", &subject));
    let messages = server.messages("fleet");
    let message = messages.iter().find(|message| message.subject == subject).unwrap();
    assert_eq!(message.payload["process"]["argv"][0], "some-server");
});

scenario!(nothing_can_be_asked_for_over_nats, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent(CREATE);
    exporting.happen(1);
    until("something is sent", || metric(&agent, "gatewatch_export_sent_total") > 0);
    let page = server.page("connz?subs=1");
    let clients = page["connections"].as_array().unwrap();
    let own = clients.iter().find(|client| client["name"] == "gatewatch").unwrap();
    // then it listens to nothing but the confirmations of its own
    let subjects = own["subscriptions_list"].as_array().unwrap();
    let is_inbox = |subject: &Value| subject.as_str().unwrap().starts_with("_INBOX.");
    assert!(!subjects.is_empty() && subjects.iter().all(is_inbox), "{own}");
});

scenario!(nothing_is_lost_and_nothing_told_twice_where_the_server_is_killed, needs(NatsServer), || {
    let mut server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent(CREATE);
    for _ in 0..3 {
        exporting.happen(100);
        let before = metric(&agent, "gatewatch_export_sent_total");
        until("some of it is sent", || metric(&agent, "gatewatch_export_sent_total") > before);
        exporting.happen(100);
        server.kill();
        exporting.happen(50);
        server.start_again();
    }
    until("all is sent", || made(&agent).len() >= 3000 && waiting(&agent) == 0 && !is_degraded(&agent));
    all_arrive_once(&agent, &server);
    assert_eq!(server.count(STREAM), Some(made(&agent).len() as u64));
    assert_eq!(metric(&agent, "gatewatch_export_dropped_total"), 0);
});

scenario!(an_agent_starts_without_the_server_and_counts_what_does_not_fit, needs(NatsServer), || {
    const ROOM: u64 = 60;
    let mut server = NatsServer::absent();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent(&format!("spool_events = {ROOM}\n{CREATE}"));
    until("it says that nothing is exported", || is_degraded(&agent));
    let degraded = agent.get("/v1/status").json()["degraded"].to_string();
    assert!(degraded.contains("events are not exported") && degraded.contains(&server.url()), "{degraded}");
    exporting.happen(50);
    until("the rest is dropped", || {
        let made = made(&agent);
        made.len() >= 200
            && waiting(&agent) == ROOM
            && metric(&agent, "gatewatch_export_dropped_total") == made.len() as u64 - ROOM
    });
    // when the server comes
    server.start_again();
    until("all that waited is sent", || waiting(&agent) == 0 && !is_degraded(&agent));
    // then what was sent and what was dropped are all, and the newest came through
    let made = made(&agent);
    let arrived = numbers(&server.messages(STREAM));
    assert_eq!(arrived, made[made.len() - arrived.len()..]);
    assert_eq!(arrived.len() as u64 + metric(&agent, "gatewatch_export_dropped_total"), made.len() as u64);
    assert_eq!(metric(&agent, "gatewatch_export_sent_total"), arrived.len() as u64);
});

scenario!(a_server_that_hangs_holds_nobody_up, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent(CREATE);
    exporting.happen(10);
    until("something is sent", || metric(&agent, "gatewatch_export_sent_total") > 0);
    server.signal(Signal::SIGSTOP);
    exporting.happen(200);
    // then ports are cleaned and events told meanwhile
    let gateway = Part::gateway().on_port(exporting.port).start();
    let mut events = agent.events(&format!("port={}", exporting.port));
    events.up_to("ready");
    assert_eq!(agent.answer(&["clean"], exporting.port).outcome(), "cleaned");
    assert!(events.up_to("free").iter().any(|line| line["pid"] == gateway.pid()));
    until("it says that nothing is exported", || is_degraded(&agent));
    server.signal(Signal::SIGCONT);
    until("all is sent", || waiting(&agent) == 0 && !is_degraded(&agent));
    all_arrive_once(&agent, &server);
    assert_eq!(server.count(STREAM), Some(made(&agent).len() as u64));
});

scenario!(an_agent_that_is_told_to_end_does_so_while_the_server_hangs, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let mut agent = exporting.agent(CREATE);
    exporting.happen(10);
    until("something is sent", || metric(&agent, "gatewatch_export_sent_total") > 0);
    server.signal(Signal::SIGSTOP);
    exporting.happen(100);
    until("it waits", || waiting(&agent) > 0);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.end(), Some(0), "{}", agent.log());
    // and what it had not sent is sent by the next one
    server.signal(Signal::SIGCONT);
    agent.replace();
    until("all is sent", || made(&agent).len() >= 440 && waiting(&agent) == 0 && !is_degraded(&agent));
    all_arrive_once(&agent, &server);
});

scenario!(what_an_agent_sends_again_after_it_was_killed_is_dropped_as_a_repeat, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let mut agent = exporting.agent(CREATE);
    let mut repeats = 0;
    // How far it came is written every few seconds, so that one of these falls in between.
    for _ in 0..5 {
        let before = server.count(STREAM).unwrap_or(0);
        exporting.happen(50);
        until("something arrives", || server.count(STREAM).unwrap_or(0) > before);
        agent.signal(Signal::SIGKILL);
        agent.end();
        agent.replace();
        until("all is sent", || waiting(&agent) == 0 && !is_degraded(&agent));
        all_arrive_once(&agent, &server);
        repeats += metric(&agent, "gatewatch_export_repeats_total");
    }
    assert!(repeats > 0, "nothing was sent twice, so nothing was shown");
    until("the stream has all, and each once", || {
        let made = made(&agent);
        waiting(&agent) == 0 && sorted(numbers(&server.messages(STREAM))) == made
    });
});

scenario!(an_event_that_the_server_refuses_is_counted_and_holds_up_no_other, needs(NatsServer), || {
    let server = NatsServer::start();
    server.create_stream(STREAM, &json!({"subjects": ["gatewatch.>"], "max_msg_size": 1400}));
    let exporting = Exporting::to(&server);
    let agent = exporting.agent("command_lines = true\n");
    let long = ["true".to_owned(), "x".repeat(1200)];
    let owner = Part::other().on_port(exporting.port).running(&long).start();
    // its command line is read once the event comes, and is that of a process that lives
    let query = format!("port={}", exporting.port);
    let is_known = |line: &Value| line["event"] == "listen" && line["process"]["argv"].is_array();
    until("its command line is known", || agent.history(&query).iter().any(is_known));
    owner.ask_to_end();
    until("it has ended", || owner.is_gone());
    exporting.happen(5);
    until("all is sent but for what is too long", || {
        made(&agent).len() >= 20
            && waiting(&agent) == 0
            && metric(&agent, "gatewatch_export_dropped_total") > 0
    });
    let (made, arrived) = (made(&agent).len() as u64, server.count(STREAM).unwrap());
    assert_eq!(arrived + metric(&agent, "gatewatch_export_dropped_total"), made);
    assert!(!is_degraded(&agent));
});

scenario!(without_a_stream_the_agent_says_what_is_missing, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let agent = exporting.agent("");
    exporting.happen(1);
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    until("it says so", || degraded().contains("the server has no stream for the subject"));
    // and once there is one, all goes there
    server.create_stream("fleet", &json!({"subjects": ["gatewatch.>"]}));
    until("all is sent", || waiting(&agent) == 0 && !is_degraded(&agent));
    assert_eq!(sorted(numbers(&server.messages("fleet"))), made(&agent));
});

scenario!(a_file_of_credentials_that_others_can_read_is_refused, needs(NatsServer), || {
    let server = NatsServer::start();
    let exporting = Exporting::to(&server);
    let file = exporting.folder.path().join("nats.creds");
    let agent = exporting.agent(&format!("credentials = {file:?}\n{CREATE}"));
    let degraded = || agent.get("/v1/status").json()["degraded"].to_string();
    until("it says that there is none", || degraded().contains("No such file"));
    fs::write(&file, "nothing\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    until("it says who may not read it", || degraded().contains("can be read by others: `chmod 600` it"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    until("it says that it is of no use", || degraded().contains("can't be used"));
    assert_eq!(agent.get("/healthz").status, 200);
});

scenario!(an_export_that_can_not_work_is_refused_with_a_sentence, needs(RootsFiles), || {
    let place = folder();
    let nats = |lines: &str| {
        let mut text = String::from("[history]\n[export.nats]\n");
        let _ = writeln!(text, "{lines}");
        check(place.path(), &text)
    };
    assert_eq!(nats("url = \"nats://127.0.0.1:4222\"").0, 0);
    assert_eq!(
        nats("url = [\"tls://a.example:4222\", \"nats://b.example\"]\ncreate_stream.max_age = \"7d\"").0,
        0
    );
    for (lines, said) in [
        ("", "missing field `url`"),
        ("url = \"http://a\"", "is not a server: write nats://"),
        ("url = \"nats://me:secret@a\"", "name a file by `credentials`"),
        ("url = \"nats://:x:y\"", "is not a server's address"),
        ("url = []", "no server is named"),
        ("url = \"nats://a\"\nsubject = \"a.*\"", "is not a subject"),
        ("url = \"nats://a\"\nsubject = \"{host}.a\"", "must begin with a word"),
        ("url = \"nats://a\"\nspool_events = 0", "at least one event"),
        ("url = \"nats://a\"\nhost = \"\"", "tells no host from another"),
        ("url = \"nats://a\"\ncreate_stream.name = \"a.b\"", "is not a stream's name"),
        ("url = \"nats://a\"\ncreate_stream.max_age = \"soon\"", "is not a duration"),
        ("url = \"nats://a\"\ncredential = \"x\"", "did you mean `credentials`"),
    ] {
        let (status, err) = nats(lines);
        assert!(status == 2 && err.contains(said) && !err.contains("secret"), "{lines:?}: {status} {err}");
    }
    let (status, err) = check(place.path(), "[export.nats]\nurl = \"nats://a\"\n");
    assert!(status == 2 && err.contains("add a [history]"), "{err}");
});
