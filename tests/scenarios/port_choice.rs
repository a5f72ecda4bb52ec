//! Which port is meant: the flag's, the environment's, the configuration's, 18789.

use gatewatch_tests::{Answer, Gatewatch, Part, unused_port};

fn owners() -> Gatewatch {
    Gatewatch::new(&["owners", "--backend", "poll", "--format", "json"])
}

fn port(answer: &Answer) -> u64 {
    answer.json()["port"].as_u64().unwrap()
}

scenario!(the_default_is_18789, || {
    assert_eq!(port(&owners().run()), 18_789);
});

scenario!(the_environment_comes_before_the_default, || {
    for text in ["4567", "localhost:4567", "[::1]:4567"] {
        assert_eq!(port(&owners().env("OPENCLAW_GATEWAY_PORT", text).run()), 4567, "{text}");
    }
});

scenario!(a_bad_environment_is_ignored_with_a_warning, || {
    for text in ["0", "65536", "x", "::1:80", "1.5"] {
        let answer = owners().env("OPENCLAW_GATEWAY_PORT", text).run();
        assert_eq!(port(&answer), 18_789, "{text}");
        assert!(answer.err.contains("OPENCLAW_GATEWAY_PORT") && answer.err.contains("ignored"), "{answer:?}");
    }
});

scenario!(the_configuration_comes_before_the_default, || {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[[watch]]\nport = 4568\n").unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(port(&owners().with(&["--config", config]).run()), 4568);
    let both = owners().with(&["--config", config]).env("OPENCLAW_GATEWAY_PORT", "4567").run();
    assert_eq!(port(&both), 4567);
});

scenario!(a_named_profile_has_a_port_of_its_own, || {
    for (profile, expected) in [("work", 41_984), ("default", 18_789), ("no/name", 18_789)] {
        assert_eq!(port(&owners().env("OPENCLAW_PROFILE", profile).run()), expected, "{profile}");
    }
    let both = owners().env("OPENCLAW_PROFILE", "work").env("OPENCLAW_GATEWAY_PORT", "4567").run();
    assert_eq!(port(&both), 4567);
});

scenario!(the_flag_comes_first, || {
    let answer = owners().with(&["--port", "4569"]).env("OPENCLAW_GATEWAY_PORT", "4567").run();
    assert_eq!(port(&answer), 4569);
});

scenario!(owners_takes_many_ports, || {
    let first = Part::other().on_port(unused_port()).start();
    let second = unused_port();
    let answer = owners().with(&["-p", &first.port().to_string(), "-p", &second.to_string()]).run();
    let lines: Vec<serde_json::Value> =
        answer.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["owners"][0]["pid"], first.pid());
    assert_eq!((&lines[1]["port"], &lines[1]["owners"]), (&second.into(), &serde_json::json!([])));
});
