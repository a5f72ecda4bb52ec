//! The host agent itself: its start and its end, its privileges, its configuration.

use gatewatch_tests::{Agent, Connection, Gatewatch, Managed, Part, config, folder, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::linux::lingering::lingers_without_reuse;

scenario!(it_describes_itself, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    assert_eq!(agent.answer(&["clean"], gateway.port()).status, 0);
    let api = agent.get("/v1/openapi.json").json();
    for path in ["/v1/ports", "/v1/ports/{port}/clean", "/v1/events", "/v1/status", "/metrics", "/healthz"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    assert!(api["components"]["schemas"]["CleanReport"]["properties"]["outcome"].is_object());
    let status = agent.get("/v1/status").json();
    assert_eq!(status["backend"], "ebpf");
    assert_eq!(status["ports"][0], gateway.port());
    assert_eq!(status["degraded"], Value::Array(Vec::new()));
});

scenario!(it_keeps_only_what_it_needs, needs(Bpf), || {
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
});

scenario!(a_reload_changes_the_ports, needs(Bpf), || {
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
    until("the agent has said so", || agent.log().contains("keeping the previous configuration"));
    assert_eq!(agent.get(&format!("/v1/ports/{}", second.port())).status, 200);
});

scenario!(sigterm_lets_a_clean_finish, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "drain:400"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "10s"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    agent.signal(Signal::SIGTERM);
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(agent.end(), Some(0));
    assert!(gateway.is_gone());
});

scenario!(sigterm_ends_a_clean_that_waits_and_has_signalled_nobody, needs(Bpf), || {
    // given a port that nobody holds, and that only time gives back
    let port = lingers_without_reuse().port();
    let mut agent = Agent::watching(&[(port, "")]);
    let mut waiting = Connection::new(&agent.socket());
    let body = "{\"free_timeout_ms\":200000}";
    let length = body.len();
    assert!(waiting.write(&format!(
        "POST /v1/ports/{port}/clean HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
    )));
    for _ in 0..20 {
        assert_eq!(agent.get("/healthz").status, 200);
    }
    assert!(!waiting.has_answered());
    agent.signal(Signal::SIGTERM);
    let answer = waiting.rest();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.to_lowercase().contains("retry-after"), "{answer:?}");
    assert_eq!(agent.end(), Some(0));
});

scenario!(its_death_is_told_at_once, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let mut agent = Agent::watching(&[(gateway.port(), "")]);
    let waiting = agent.ask(&["clean", "--term-timeout", "1m"], gateway.port()).spawn();
    let mut watching = agent.ask(&["watch"], gateway.port()).spawn();
    until("the gateway was asked to end", || agent.log().contains("asked to end"));
    agent.wait_for_client(watching.pid());
    assert!(watching.is_running());
    agent.signal(Signal::SIGKILL);
    agent.end();
    for running in [waiting, watching] {
        let answer = running.finish();
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.err.contains("went away"), "{answer:?}");
    }
    assert!(gateway.is_alive());
});

scenario!(a_second_agent_does_not_take_the_socket, needs(Bpf), || {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let answer = Gatewatch::plain(&["agent", "--socket", agent.socket().to_str().unwrap()]);
    assert_eq!(answer.status, 1);
    assert!(answer.err.contains("another agent answers there"), "{answer:?}");
    assert_eq!(agent.get("/healthz").status, 200);
});

scenario!(a_leftover_socket_is_replaced, needs(Bpf), || {
    let mut agent = Agent::watching(&[(unused_port(), "")]);
    agent.replace();
    assert_eq!(agent.get("/healthz").status, 200);
    // but a file of that name is left alone
    let file = tempfile::NamedTempFile::new().unwrap();
    let answer = Gatewatch::plain(&["agent", "--socket", file.path().to_str().unwrap()]);
    assert_eq!(answer.status, 1, "{answer:?}");
    assert!(file.path().exists());
});

scenario!(it_takes_the_service_managers_socket, needs(Bpf), || {
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
});

scenario!(a_service_manager_that_reads_nothing_does_not_hold_it_up, needs(Bpf), || {
    let mut managed = Managed::start(&config(&[(unused_port(), "")]));
    managed.notice("WATCHDOG=1");
    managed.stop_reading();
    // given a reload, of which it tells as well
    managed.signal(Signal::SIGHUP);
    until("it has reloaded", || managed.log().contains("configuration reloaded"));
    assert_eq!(managed.get("/healthz").status, 200);
    // then it also ends in order
    managed.replace();
});

scenario!(an_ordinary_users_own_agent_serves_that_user, needs(Root), || {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let roots = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::as_nobody_with(&config(&[(gateway.port(), ""), (roots.port(), "")]));
    let answer = agent.ask(&["clean"], gateway.port()).as_nobody().run();
    crate::clean::assert_cleaned(&answer, &gateway);
    // but it can do no more than the user could
    let answer = agent.ask(&["clean"], roots.port()).as_nobody().run();
    assert_ne!(answer.status, 0, "{answer:?}");
    assert!(roots.is_alive());
});

scenario!(a_bad_configuration_is_refused, || {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (text, said) in [
        ("[[watch]]\nprot = 1\n", "did you mean `port`?"),
        ("[agent]\nsokcet = \"/x\"\n", "did you mean `socket`?"),
        ("[agent]\ngroup = \"no-such-group\"\n", "no-such-group"),
        ("[[watch]]\nport = 5\nclean = { users = [\"no-such-user\"] }\n", "no-such-user"),
        ("[[watch]]\nport = 5\nclean = { user = [\"root\"] }\n", "did you mean `users`?"),
        ("[[watch]]\nport = 5\nidentity = \"nothing\"\n", "nothing"),
        ("[[watch]]\nport = 5\n[[watch]]\nport = 6\n[[watch]]\nport = 5\n", "port 5 has two"),
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
});

scenario!(only_says_that_no_agent_answers, || {
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
});

scenario!(doctor_and_status_tell_what_is_in_force, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::with(&format!("[agent]\ngroup = \"daemon\"\n{}", config(&[(port, "")])));
    let told = agent.get("/v1/status").json();
    assert_eq!(
        (&told["pid"], &told["configuration"]["group"]),
        (&agent.pid().into(), &"daemon".into()),
        "{told}"
    );
    let socket = agent.socket().display().to_string();
    let file = agent.socket().with_file_name("config.toml").display().to_string();
    assert_eq!(
        (&told["socket"], &told["configuration"]["path"]),
        (&socket.as_str().into(), &file.as_str().into())
    );
    let doctor = |format: &str| {
        Gatewatch::new(&["doctor", "--socket", &socket, "--config", &file, "--format", format])
    };
    let answer = doctor("json").run().json();
    assert_eq!(
        (&answer["agent"]["state"], &answer["configuration"]["state"]),
        (&"ok".into(), &"ok".into()),
        "{answer}"
    );
    assert_eq!(answer["agent"]["status"]["pid"], agent.pid());
    let text = doctor("text").run().out;
    for said in [&port.to_string(), "group daemon", "CAP_KILL", &file, &socket] {
        assert!(text.contains(said), "{said}: {text}");
    }
    // given a user who may not read
    let answer = doctor("json").as_nobody().run().json();
    assert_eq!(answer["agent"]["state"], "refuses", "{answer}");
    assert!(answer["agent"]["mend"].as_str().unwrap().contains("group"));
    // given a configuration that has become wrong, the agent says so, too
    agent.reconfigure("[[watch]]\nprot = 1\n");
    until("the reload has failed", || {
        doctor("text").run().out.contains("keeping the previous configuration")
    });
    let answer = doctor("json").run().json();
    assert_eq!(answer["configuration"]["state"], "broken", "{answer}");
    assert!(answer["agent"]["status"]["configuration"]["reload_failed"].is_string(), "{answer}");
});

scenario!(doctor_tells_what_is_kept_and_followed_as_the_configuration_does, needs(Bpf), || {
    let (port, folder) = (unused_port(), folder());
    let history = format!("[history]\npath = {:?}\nkeep = \"14d\"\n", folder.path().join("kept/h.sqlite"));
    let doctor = |configuration: &str| {
        let agent = Agent::with(configuration);
        Gatewatch::new(&["doctor", "--socket", agent.socket().to_str().unwrap()]).run().out
    };
    let text = doctor(&format!("[agent]\nwatch = \"all\"\n{history}{}", config(&[(port, "")])));
    assert!(text.contains(" for 14d and up to 256 MiB"), "{text}");
    assert!(text.contains(&format!("watches all ports, {port} by its configuration, by ebpf")), "{text}");
    let text = doctor(&config(&[(port, "")]));
    assert!(text.contains(&format!("watches {port} by ebpf")), "{text}");
});

scenario!(doctor_tells_that_no_agent_answers, || {
    let answer = Gatewatch::plain(&["doctor", "--socket", "/nowhere/agent.sock", "--format", "json"]);
    assert_eq!((answer.status, &answer.json()["agent"]["state"]), (0, &"absent".into()), "{answer:?}");
});
