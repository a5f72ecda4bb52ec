//! What the host agent's log says of cleans and refusals, and in which fields the journal has it.

use gatewatch_tests::{Agent, Part, config, unused_port};

/// The user `nobody`.
const NOBODY: &str = "65534";

scenario!(the_journal_has_a_cleans_fields, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let (agent, journal) = Agent::in_journal(&config(&[(port, "")]), true);
    assert_eq!(journal.entry("watching")["PRIORITY"], "6");
    let answer = agent.answer(&["clean"], port).json();
    let entry = journal.entry("a clean of port");
    let wanted = [
        ("PRIORITY", "6".to_owned()),
        ("SYSLOG_IDENTIFIER", "gatewatch".to_owned()),
        ("PORT", port.to_string()),
        ("OUTCOME", "cleaned".to_owned()),
        ("PID", gateway.pid().to_string()),
        ("SIGNAL", "SIGTERM".to_owned()),
        ("REQUESTER_UID", "0".to_owned()),
        ("DRY_RUN", "false".to_owned()),
    ];
    for (name, value) in wanted {
        assert_eq!(entry.get(name), Some(&value), "{name}: {entry:?}");
    }
    assert_eq!(entry["ELAPSED_US"], answer["elapsed_us"].to_string(), "{entry:?}");
    let message = &entry["MESSAGE"];
    let pid = format!("(pid {}", gateway.pid());
    for said in ["killed", &pid, "openclaw-gateway", "because its title is", "by SIGTERM after"] {
        assert!(message.contains(said), "{said}: {message}");
    }
    // and standard error, which is the same journal, has it not once more
    assert_eq!(agent.log(), "");
});

scenario!(one_who_may_not_is_told_to_the_journal_and_one_who_only_asks_is_not, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let (port, other) = (gateway.port(), unused_port());
    let (agent, journal) = Agent::in_journal(&config(&[(port, "")]), true);
    let refused = || {
        let metrics = agent.get("/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("gatewatch_refused_requests_total "));
        line.unwrap().to_owned()
    };
    // given what every user's every command does before it goes on by itself
    for path in ["/v1/ports".to_owned(), format!("/v1/ports/{port}"), "/v1/events".to_owned()] {
        assert_eq!(agent.as_nobody("GET", &path, "").status, 403, "{path}");
    }
    assert_eq!(agent.as_nobody("POST", &format!("/v1/ports/{other}/clean"), "").status, 403);
    assert_eq!(agent.post(&format!("/v1/ports/{other}/clean"), "").status, 404);
    assert_eq!(refused(), "0");
    // when one asks for a port that is watched
    assert_eq!(agent.as_nobody("POST", &format!("/v1/ports/{port}/clean"), "").status, 403);
    assert_eq!(refused(), "1");
    // then that is the first warning
    let entry = journal.entry("refused");
    assert_eq!(
        (entry["PRIORITY"].as_str(), entry["PORT"].as_str()),
        ("4", port.to_string().as_str()),
        "{entry:?}"
    );
    assert_eq!(entry["REQUESTER_UID"], NOBODY, "{entry:?}");
    assert!(gateway.is_alive());
});

scenario!(a_log_that_is_not_the_journal_is_text, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    // given a variable of the journal's that is inherited, and standard error led elsewhere since
    let (agent, _journal) = Agent::in_journal(&config(&[(gateway.port(), "")]), false);
    assert_eq!(agent.answer(&["clean"], gateway.port()).outcome(), "cleaned");
    assert!(agent.log().contains("a clean of port"), "{}", agent.log());
});

scenario!(an_owner_cannot_forge_a_line_of_the_log, needs(Bpf), || {
    let port = unused_port();
    let title = "openclaw-gateway \n WARN forged \u{1b}[31m";
    let gateway = Part::named(title).on_port(port).start();
    let agent = Agent::watching(&[(port, "identity = \"any\"")]);
    assert_eq!(agent.answer(&["clean"], port).outcome(), "cleaned");
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("a clean of port")).unwrap();
    assert!(line.contains("\\u{a} WARN forged") && !log.contains("\u{1b}[31m"), "{log}");
    assert!(gateway.is_gone());
});
