//! The host agent itself: its start and its end, its privileges, its configuration.

use gatewatch_tests::{Agent, Gatewatch, Managed, Needs, Part, config, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ROOT;
use crate::OnceRule;

pub(crate) const RULES: &[OnceRule] = &[
    ("it_describes_itself", ROOT, described),
    ("it_keeps_only_what_it_needs", ROOT, privileges),
    ("a_reload_changes_the_ports", ROOT, reload),
    ("sigterm_lets_a_clean_finish", ROOT, finishes),
    ("its_death_is_told_at_once", ROOT, death),
    ("a_second_agent_does_not_take_the_socket", ROOT, second),
    ("a_leftover_socket_is_replaced", ROOT, leftover),
    ("it_takes_the_service_managers_socket", ROOT, managed),
    ("an_ordinary_users_own_agent_serves_that_user", &[Needs::Root], own_agent),
    ("a_bad_configuration_is_refused", &[], bad_configuration),
    ("only_says_that_no_agent_answers", &[], absent),
];

fn described() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    assert_eq!(agent.answer(&["clean"], gateway.port()).status, 0);
    let api = agent.get("/v1/openapi.json").json();
    for path in ["/v1/ports", "/v1/ports/{port}/clean", "/v1/events", "/v1/status", "/metrics", "/healthz"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    assert!(api["components"]["schemas"]["CleanReport"]["properties"]["outcome"].is_object());
    let metrics = agent.get("/metrics");
    assert!(metrics.head.contains("application/openmetrics-text"));
    for part in ["gatewatch_cleans_total{outcome=\"cleaned\"", "gatewatch_ended_processes_total 1", "# EOF"] {
        assert!(metrics.body.contains(part), "{part}: {}", metrics.body);
    }
    let status = agent.get("/v1/status").json();
    assert_eq!(status["backend"], "ebpf");
    assert_eq!(status["ports"][0], gateway.port());
    assert_eq!(status["degraded"], Value::Array(Vec::new()));
}

fn privileges() {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let status = agent.get("/v1/status").json();
    assert_eq!(status["no_new_privileges"], true);
    let said = status["capabilities"].as_array().unwrap().len();
    let text = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
    assert_eq!(set("CapEff:").count_ones(), u32::try_from(said).unwrap());
    assert_eq!((set("CapEff:"), set("CapInh:"), set("CapAmb:")), (set("CapPrm:"), 0, 0));
    assert_eq!(field("NoNewPrivs:"), "1");
    // CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_DAC_OVERRIDE, CAP_SETUID
    for gone in [16, 17, 1, 7] {
        assert_eq!((set("CapEff:") | set("CapBnd:")) >> gone & 1, 0, "capability {gone}");
    }
}

fn reload() {
    let [first, second] = [(); 2].map(|()| Part::gateway().on_port(unused_port()).start());
    let agent = Agent::watching(&[(first.port(), "")]);
    assert_eq!(agent.get(&format!("/v1/ports/{}", second.port())).status, 404);
    agent.reconfigure(&config(&[(second.port(), "")]));
    until("the new port is watched", || agent.get(&format!("/v1/ports/{}", second.port())).status == 200);
    assert_eq!(agent.answer(&["owners"], second.port()).owner(second.pid())["identity"], "match");
    assert_eq!(agent.post(&format!("/v1/ports/{}/clean", first.port()), "").status, 404);
    assert!(first.is_alive());
    let mut events = agent.events("");
    events.up_to("ready");
    second.ask_to_end();
    assert_eq!(events.line()["event"], "release");
    // given a configuration that is wrong, the old one goes on
    agent.reconfigure("[[watch]]\nport = 0\n");
    until("the agent has said so", || agent.log().contains("the old one goes on"));
    assert_eq!(agent.get(&format!("/v1/ports/{}", second.port())).status, 200);
}

fn finishes() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:400"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "10s"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    agent.signal(Signal::SIGTERM);
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(agent.end(), Some(0));
    assert!(gateway.is_gone());
}

fn death() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "1m"], gateway.port()).spawn();
    let mut watching = agent.ask(&["watch"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    assert!(watching.goes_on());
    agent.signal(Signal::SIGKILL);
    agent.end();
    for running in [waiting, watching] {
        let answer = running.finish();
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.err.contains("went away"), "{answer:?}");
    }
    assert!(gateway.is_alive());
}

fn second() {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let answer = Gatewatch::plain(&["agent", "--socket", agent.socket().to_str().unwrap()]);
    assert_eq!(answer.status, 1);
    assert!(answer.err.contains("another agent answers there"), "{answer:?}");
    assert_eq!(agent.get("/healthz").status, 200);
}

fn leftover() {
    let mut agent = Agent::watching(&[(unused_port(), "")]);
    agent.replace();
    assert_eq!(agent.get("/healthz").status, 200);
    // but a file of that name is somebody's
    let file = tempfile::NamedTempFile::new().unwrap();
    let answer = Gatewatch::plain(&["agent", "--socket", file.path().to_str().unwrap()]);
    assert_eq!(answer.status, 1, "{answer:?}");
    assert!(file.path().exists());
}

fn managed() {
    let port = unused_port();
    let managed = Managed::start(&config(&[(port, "")]));
    let ready = managed.notice("READY=1");
    assert!(ready.contains(&format!("STATUS=watching {port} by ebpf")), "{ready}");
    assert_eq!(managed.get("/healthz").status, 200);
    managed.notice("WATCHDOG=1");
    managed.notice("WATCHDOG=1");
    managed.signal(Signal::SIGHUP);
    managed.notice("RELOADING=1");
    managed.notice("READY=1");
    managed.signal(Signal::SIGTERM);
    managed.notice("STOPPING=1");
}

fn own_agent() {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let roots = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::as_nobody_with(&config(&[(gateway.port(), ""), (roots.port(), "")]));
    let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
    crate::clean::assert_cleaned(&answer, &gateway);
    // but it can do no more than the user could
    let answer = agent.ask(&["clean"], roots.port()).as_nobody().run();
    assert_ne!(answer.status, 0, "{answer:?}");
    assert!(roots.is_alive());
}

fn bad_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (text, said) in [
        ("[[watch]]\nprot = 1\n", "did you mean `port`?"),
        ("[agent]\nsokcet = \"/x\"\n", "did you mean `socket`?"),
        ("[agent]\ngroup = \"no-such-group\"\n", "no-such-group"),
        ("[[watch]]\nport = 5\nclean = { users = [\"no-such-user\"] }\n", "no-such-user"),
        ("[[watch]]\nport = 5\nclean = { user = [\"root\"] }\n", "did you mean `users`?"),
        ("[[watch]]\nport = 5\nidentity = \"nothing\"\n", "nothing"),
    ] {
        std::fs::write(&file, text).unwrap();
        for more in [&["--check-config"][..], &[]] {
            let answer = Gatewatch::new(&["agent", "--config", file.to_str().unwrap()]).with(more).run();
            assert_eq!(answer.status, 2, "{text}: {answer:?}");
            assert!(answer.err.contains(said), "{text}: {answer:?}");
        }
    }
    std::fs::write(&file, "[[watch]]\nport = 5\n").unwrap();
    let answer = Gatewatch::plain(&["agent", "--check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(answer.status, 0, "{answer:?}");
}

fn absent() {
    let port = unused_port().to_string();
    for command in [&["owners"][..], &["clean"], &["watch"], &["wait", "free"]] {
        let answer = Gatewatch::new(command).with(&[
            "-p",
            &port,
            "--agent",
            "only",
            "--socket",
            "/nowhere/agent.sock",
        ]);
        let answer = answer.run();
        assert_eq!(answer.status, 6, "{answer:?}");
        assert!(answer.err.contains("no agent answers at /nowhere/agent.sock"), "{answer:?}");
    }
}
