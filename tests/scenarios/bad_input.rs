//! Bad input gets one clear sentence with the fix, status 2, and nothing is signalled.

use gatewatch_tests::{Gatewatch, Part, unused_port};

pub(crate) fn assert_refused(arguments: &[&str], fix: &str) {
    let answer = Gatewatch::plain(arguments);
    assert_eq!(answer.status, 2, "{arguments:?}: {answer:?}");
    assert_eq!(answer.out, "", "{arguments:?}");
    assert!(answer.err.contains(fix), "{fix:?} is not in {answer:?}");
}

scenario!(a_bad_flag_is_one_sentence_and_status_2, || {
    for port in ["0", "65536", "http", "-1", "", "1.5", "18789x"] {
        assert_refused(&["clean", &format!("--port={port}")], "a port is a number from 1 to 65535");
        assert_refused(&["owners", &format!("-p={port}")], "a port is a number from 1 to 65535");
    }
    assert_refused(&["clean", "--identity", "nobody"], "openclaw-gateway, any");
    assert_refused(&["clean", "--match-argv", "("], "unclosed group");
    assert_refused(&["clean", "--term-timeout", "600"], "600ms, 2s, 1m");
    assert_refused(&["wait", "free", "--timeout", "soon"], "600ms, 2s, 1m");
    assert_refused(&["watch", "--poll-interval", "0s"], "50ms");
    assert_refused(&["watch", "--backend", "magic"], "auto, ebpf, poll");
    assert_refused(&["wait", "later"], "free, listening");
    assert_refused(&["clean", "--protect", "0"], "1..");
    assert_refused(&["watch", "--count", "0"], "1..");
    assert_refused(&["clean", "--prot", "18789"], "--port");
    assert_refused(&["cleen"], "clean");
});

scenario!(a_bad_configuration_says_line_and_column, || {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let name = path.to_str().unwrap();
    let arguments = ["clean", "--config", name];
    for (text, place) in [
        ("[[watch]]\nport = \n", "config.toml:2:8"),
        ("[[watch]]\nport = 0\n", "config.toml:2:8"),
        ("[[watch]]\nport = 70000\n", "65535"),
        ("[[watch]]\nprot = 1\n", "config.toml:2:1"),
        ("[identity.a]\nargv = \"(\"\n", "config.toml:2:8"),
        ("[identity.a]\n", "says nothing"),
        ("[[watch]]\nport = 1\nidentity = \"x\"\n", "\"x\" is not known"),
        ("[identity.any]\ncomm = \"x\"\n", "built in"),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_refused(&arguments, place);
    }
    assert_refused(&["clean", "--config", "/no/such/file"], "/no/such/file");
});

scenario!(nothing_is_signalled_on_bad_input, || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port().to_string();
    for bad in [
        ["--identity", "nobody"],
        ["--match-argv", "("],
        ["--config", "/no/such/file"],
        ["--netns", "/no/such/namespace"],
    ] {
        assert_eq!(Gatewatch::new(&["clean", "-p", &port]).with(&bad).run().status, 2);
        assert!(gateway.is_alive());
    }
});
