//! `restart --keep-listening`: the port never stops listening.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use gatewatch_tests::{
    Actor, Answer, Backend, Clients, Gatewatch, Part, Running, ask, patience, until, unused_port,
};
use serde_json::Value;

use crate::restart::{actor, end, gateway_command, restart};

const KEEP: &[&str] = &["--keep-listening"];

/// A gateway that answers.
fn answering(port: u16) -> Actor {
    Part::gateway().on_port(port).with(&["--answers"]).start()
}

/// A command that is a gateway on the sockets that it is given.
fn activated() -> Vec<String> {
    actor("openclaw-gateway", &["--activated", "--answers", "--stay", "--live-for", "60000"])
}

/// A command that waits for a file, and says by another that it does, and then becomes this one.
pub(crate) fn held_back(folder: &Path, command: &[String]) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.01; done; exec {}",
        file("ready"),
        file("go"),
        command.join(" ")
    );
    ["sh", "-c", &script].map(str::to_owned).into()
}

/// A restart whose command takes the sockets over once it is let go.
fn restart_held_back(backend: Backend, port: u16, folder: &Path) -> Running {
    let command = held_back(folder, &activated());
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    Gatewatch::on(backend, &["restart", "--keep-listening"], port).with(&["--"]).with(&words).spawn()
}

/// Waits until this gatewatch has counted who waits, once more at least: between two counts its thread sleeps.
pub(crate) fn until_counted(gatewatch: u32) {
    let sleeps = || -> Option<u64> {
        let tasks = std::fs::read_dir(format!("/proc/{gatewatch}/task")).ok()?;
        tasks.flatten().find_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
            (field("Name:")? == "counts-waiting").then(|| field("voluntary_ctxt_switches:")?.parse().ok())?
        })
    };
    let mut before = None;
    until("gatewatch counts who waits", || {
        let now = sleeps();
        before = before.or(now);
        now.zip(before).is_some_and(|(now, before)| now >= before + 3)
    });
}

pub(crate) fn assert_kept(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["refused"], &json["fallback"]), (&0.into(), &Value::Null), "{answer:?}");
    assert_eq!(
        (&json["downtime_us"], &json["new_owner"]["by"]),
        (&0.into(), &"command".into()),
        "{answer:?}"
    );
    json
}

/// The steps of a restart, in order.
fn steps(json: &Value) -> Vec<&str> {
    json["timeline"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

scenario!(no_connection_is_refused_while_the_sockets_are_kept, |backend| {
    // given clients that connect all the time
    let port = unused_port();
    let old = answering(port);
    let clients = Clients::of(port);
    clients.until_answered(100);
    // when its server is restarted three times
    for round in 0..3 {
        let answer = restart(backend, port, KEEP, &activated());
        let json = assert_kept(&answer);
        let kept = &json["kept"];
        assert_eq!((&kept[0]["fd"], &kept[0]["name"]), (&3.into(), &port.to_string().into()), "{json}");
        assert_eq!(kept[0]["address"], format!("127.0.0.1:{port}"));
        assert_eq!(steps(&json)[..2], ["kept", "sigterm"], "{json}");
        assert_eq!(json["killed"].as_array().unwrap().len(), 1, "round {round}: {json}");
        clients.until_answered(300);
    }
    // then each connection was answered
    let counts = clients.end();
    assert!(old.is_gone());
    assert_eq!((counts.refused, counts.reset), (0, 0), "{counts:?}");
    assert!(counts.answered >= 1000, "{counts:?}");
    end(backend, port);
});

scenario!(who_connects_while_nobody_accepts_is_served_late, |backend| {
    let port = unused_port();
    let _old = answering(port);
    let folder = tempfile::tempdir().unwrap();
    let running = restart_held_back(backend, port, folder.path());
    // given five connections that come after the old owner's end
    until("the command runs", || folder.path().join("ready").exists());
    let late: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()).collect();
    until_counted(running.pid());
    std::fs::File::create(folder.path().join("go")).unwrap();
    let json = assert_kept(&running.finish());
    assert_eq!(json["served_late"], 5, "{json}");
    for mut connection in late {
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"x");
    }
    end(backend, port);
});

scenario!(a_command_that_opens_the_port_by_itself_is_started_again_without_the_sockets, |backend| {
    let port = unused_port();
    let old = answering(port);
    let answer = restart(backend, port, KEEP, &gateway_command(port, "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(old.is_gone());
    let json = answer.json();
    assert!(json["fallback"].is_string(), "{answer:?}");
    assert_eq!((&json["refused"], &json["served_late"]), (&Value::Null, &Value::Null), "{answer:?}");
    // twice, and the second one has the port
    assert_eq!(steps(&json).iter().filter(|step| **step == "command_started").count(), 2, "{answer:?}");
    // By polling, one look can see both the release and the new listener.
    let downtime = json["downtime_us"].as_u64().unwrap();
    assert!(downtime > 0 || backend == Backend::Poll, "{answer:?}");
    end(backend, port);
});

scenario!(a_command_that_merely_inherits_the_sockets_is_no_new_owner, |backend| {
    let port = unused_port();
    let _old = answering(port);
    let command = ["sleep", "60"].map(str::to_owned);
    let limits = ["--keep-listening", "--listen-timeout", "400ms", "--kill-on-failure"];
    let answer = restart(backend, port, &limits, &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let json = answer.json();
    assert!(json["fallback"].as_str().unwrap().contains("did not wait"), "{answer:?}");
    assert_eq!(json["refused"], Value::Null, "{answer:?}");
    // and it does not hold the port either
    let left = Gatewatch::on(backend, &["owners"], port).run();
    assert_eq!(left.json()["owners"], Value::Array(Vec::new()), "{left:?}");
});

scenario!(a_command_with_a_socket_of_its_own_beside_the_kept_one_is_started_again, |backend| {
    // given an owner whose port others of its user may share
    let port = unused_port();
    let _old = Part::gateway().on_port(port).with(&["--answers", "--reuse-port"]).start();
    let address = format!("127.0.0.1:{port}");
    let words = ["--on", &address, "--answers", "--reuse-port", "--stay", "--live-for", "60000"];
    // when the command opens another one, and leaves the one that it got alone
    let answer = restart(backend, port, KEEP, &actor("openclaw-gateway", &words));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(answer.json()["fallback"].as_str().unwrap().contains("by itself"), "{answer:?}");
    // then nobody's connection ends up in a queue that nobody reads
    for _ in 0..20 {
        assert!(ask(port).unwrap());
    }
    end(backend, port);
});

scenario!(the_sockets_of_all_addresses_and_workers_are_handed_on, |backend| {
    let port = unused_port();
    let [first, second] = ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{port}"));
    let part = Part::gateway().with(&["--on", &second, "--on", &first, "--workers", "2", "--answers"]);
    let old = part.start();
    let answer = restart(backend, port, KEEP, &activated());
    let json = assert_kept(&answer);
    assert!(old.is_gone());
    let kept: Vec<(&Value, &Value)> =
        json["kept"].as_array().unwrap().iter().map(|kept| (&kept["address"], &kept["fd"])).collect();
    assert_eq!(kept, [(&first.into(), &3.into()), (&second.into(), &4.into())], "{json}");
    let answers = |address: SocketAddr| {
        let mut answer = Vec::new();
        TcpStream::connect(address).unwrap().read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"x");
    };
    answers(([127, 0, 0, 1], port).into());
    answers((std::net::Ipv6Addr::LOCALHOST, port).into());
    end(backend, port);
});

scenario!(the_sockets_of_several_ports_are_handed_on_in_the_order_asked, |backend| {
    let ports = [unused_port(), unused_port()];
    let [first, second] = ports.map(|port| format!("127.0.0.1:{port}"));
    let _old = Part::gateway().with(&["--on", &first, "--on", &second, "--answers"]).start();
    let command = activated();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let more = [&ports[0].to_string(), "--keep-listening", "--"];
    let answer = Gatewatch::on(backend, &["restart"], ports[1]).with(&more).with(&words).run();
    assert_eq!(answer.status, 0, "{answer:?}");
    let lines = answer.lines();
    let fds: Vec<&Value> = lines.iter().map(|line| &line["kept"][0]["fd"]).collect();
    assert_eq!(fds, [3, 4], "{answer:?}");
    assert_eq!(lines.iter().map(|line| &line["refused"]).collect::<Vec<_>>(), [0, 0], "{answer:?}");
    assert!(ports.into_iter().all(|port| ask(port).unwrap()));
    end(backend, ports[0]);
});

scenario!(an_owner_that_lets_go_of_the_socket_and_lives_on_is_not_waited_for, |backend| {
    let port = unused_port();
    let old = Part::gateway().on_port(port).with(&["--on-term", "close"]).start();
    let words = ["--keep-listening", "--until", "released", "--term-timeout", "20s"];
    let answer = restart(backend, port, &words, &activated());
    assert_kept(&answer);
    assert!(old.is_alive());
    assert!(ask(port).unwrap());
    end(backend, port);
});

scenario!(an_owner_that_shuts_its_listener_down_stops_it_for_a_moment, |backend| {
    // given an owner that stops the socket for all that hold it
    let port = unused_port();
    let _old = Part::gateway().on_port(port).with(&["--on-term", "shut-down"]).start();
    let answer = restart(backend, port, KEEP, &activated());
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    // then nobody claims that none was refused, and it listens again
    assert_eq!((&answer.json()["refused"], &answer.json()["fallback"]), (&Value::Null, &Value::Null));
    assert!(ask(port).unwrap());
    end(backend, port);
});

scenario!(the_socket_of_a_udp_port_is_handed_on, |backend| {
    let port = unused_port();
    let _old = Part::gateway().on_port(port).with(&["--udp", "--answers"]).start();
    let command = activated();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer =
        Gatewatch::on_udp(backend, &["restart", "--keep-listening"], port).with(&["--"]).with(&words).run();
    let json = assert_kept(&answer);
    assert_eq!(json["kept"][0]["name"], format!("{port}-udp"), "{json}");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(patience())).unwrap();
    client.send_to(b"y", (Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(client.recv(&mut [0; 1]).unwrap(), 1);
    let ended = Gatewatch::on_udp(backend, &["clean", "--any"], port).run();
    assert_eq!(ended.status, 0, "{ended:?}");
});

scenario!(where_nobody_listened_there_is_no_socket_to_keep, |backend| {
    let port = unused_port();
    let answer = restart(backend, port, KEEP, &gateway_command(port, "60000"));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let json = answer.json();
    assert!(json["fallback"].as_str().unwrap().contains("nobody listened"), "{answer:?}");
    assert_eq!(json["kept"], Value::Array(Vec::new()), "{answer:?}");
    end(backend, port);
});

scenario!(a_dry_run_names_the_sockets_and_signals_nobody, |backend| {
    let old = answering(unused_port());
    let answer =
        restart(backend, old.port(), &["--keep-listening", "--dry-run"], &actor("never-run", &["--stay"]));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["kept"][0]["fd"], &json["refused"]), (&3.into(), &Value::Null), "{answer:?}");
    assert!(old.is_alive());
    assert!(ask(old.port()).unwrap());
});

scenario!(the_sockets_of_who_is_no_match_are_left_alone, |backend| {
    let other = Part::other().on_port(unused_port()).with(&["--answers"]).start();
    let answer = restart(backend, other.port(), KEEP, &activated());
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["kept"], &json["fallback"]), (&Value::Array(Vec::new()), &Value::Null), "{answer:?}");
    assert!(other.is_alive());
    // and neither are those of a match that somebody else has as well
    let old = Part::gateway().on_port(unused_port()).with(&["--sharer", "some-heir", "--answers"]).start();
    let answer = restart(backend, old.port(), KEEP, &activated());
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "inherited", "{answer:?}");
    assert!(old.is_alive());
});

scenario!(nobody_is_signalled_for_sockets_that_nobody_could_get, |backend| {
    let old = answering(unused_port());
    // given no command; a command beside a unit; a unit that does not exist, or no systemd that could be asked
    let systemctl = ["systemctl", "restart", "no-such-unit"].map(str::to_owned);
    let unit: &[&str] = &["--keep-listening", "--unit", "no-such-unit"];
    let has_systemctl = Command::new("systemctl").arg("--version").output().is_ok();
    let why_not = if has_systemctl { "no-such-unit: " } else { "systemctl can't be run" };
    for (flags, command, why) in [
        (KEEP, &[][..], "needs a command or a unit"),
        (unit, &activated(), "leave the command out"),
        (unit, &[], why_not),
        (KEEP, &systemctl, why_not),
    ] {
        let answer = restart(backend, old.port(), flags, command);
        assert_eq!(answer.status, 2, "{answer:?}");
        assert!(answer.err.contains(why) && answer.err.contains("no process was signalled"), "{answer:?}");
        assert_eq!(answer.json()["reason"], "cannot_keep_listening", "{answer:?}");
    }
    // nor for a command whose check fails, or that can't be found
    let check = restart(backend, old.port(), &["--keep-listening", "--check", "exit 3"], &activated());
    assert_eq!((check.status, &check.json()["reason"]), (1, &"check_failed".into()), "{check:?}");
    let typo = restart(backend, old.port(), KEEP, &["no-such-program".to_owned()]);
    assert_eq!((typo.status, &typo.json()["reason"]), (2, &"no_such_command".into()), "{typo:?}");
    assert!(old.is_alive());
});

scenario!(where_a_socket_can_not_be_copied_nobody_is_signalled, needs(Root, Strace), |backend| {
    let old = answering(unused_port());
    // given an older kernel, and a user who may not
    for (error, status, why) in [("ENOSYS", 2, "Linux 5.6"), ("EPERM", 6, "may not copy")] {
        let command = activated();
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let call =
            Gatewatch::on(backend, &["restart", "--keep-listening"], old.port()).with(&["--"]).with(&words);
        let inject = format!("inject=pidfd_getfd:error={error}");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=pidfd_getfd", "-e", &inject, "-o", "/dev/null"]);
        strace.args(call.words()).env("GATEWATCH_SOCKET", "/nonexistent").stdin(Stdio::null());
        let output = strace.output().unwrap();
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(status), "{out}{err}");
        assert!(err.contains(why) && err.contains("no process was signalled"), "{err}");
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["reason"], "cannot_keep_listening", "{out}");
        assert!(old.is_alive());
    }
});

scenario!(a_command_that_ends_before_it_serves_is_started_again_without_the_sockets, |backend| {
    // given a command that ends the first time, and can't be told to take the sockets
    let port = unused_port();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark").display().to_string();
    let server = gateway_command(port, "60000").join(" ");
    for (number, first) in [(1, "exit 3"), (2, "exit 0")] {
        let _old = answering(port);
        let script = format!("[ -e {mark}{number} ] && exec {server}; touch {mark}{number}; {first}");
        let command = ["sh", "-c", &script].map(str::to_owned);
        let answer = restart(backend, port, KEEP, &command);
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
        assert!(answer.json()["fallback"].is_string(), "{answer:?}");
        end(backend, port);
    }
});

scenario!(an_answer_in_text_says_that_the_port_never_stopped_listening, |backend| {
    let port = unused_port();
    let _old = answering(port);
    let command = activated();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer =
        Gatewatch::in_text(backend, &["restart", "--keep-listening"], port).with(&["--"]).with(&words).run();
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(answer.out.contains("never stopped listening; 0 waited"), "{answer:?}");
    assert!(answer.out.contains("for the command as descriptor 3"), "{answer:?}");
    end(backend, port);
});

scenario!(a_match_that_can_not_have_the_kept_port_does_not_end_the_command, |backend| {
    // given a command that needs a while
    let port = unused_port();
    let _old = answering(port);
    let folder = tempfile::tempdir().unwrap();
    let running = restart_held_back(backend, port, folder.path());
    until("the command runs", || folder.path().join("ready").exists());
    // when a supervisor starts the old server again and again meanwhile
    let rival = gateway_command(port, "60000");
    for _ in 0..4 {
        let mut rival = Command::new(&rival[0]).args(&rival[1..]).stderr(Stdio::null()).spawn().unwrap();
        assert!(!rival.wait().unwrap().success());
    }
    until_counted(running.pid());
    std::fs::File::create(folder.path().join("go")).unwrap();
    // then the command takes over all the same
    let answer = running.finish();
    let json = assert_kept(&answer);
    assert_eq!(steps(&json).iter().filter(|step| **step == "command_started").count(), 1, "{answer:?}");
    end(backend, port);
});

scenario!(a_process_that_has_left_the_commands_group_does_not_keep_the_port, |backend| {
    // given a command that leaves a process with the sockets in a session of its own, and opens the port by itself
    let port = unused_port();
    let _old = answering(port);
    let script = format!("setsid -f sleep 20; exec {}", gateway_command(port, "60000").join(" "));
    let answer = restart(backend, port, KEEP, &["sh", "-c", &script].map(str::to_owned));
    // then it has the port once it is started again
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert!(answer.json()["fallback"].is_string(), "{answer:?}");
    let held = Gatewatch::on(backend, &["owners"], port).run();
    assert_eq!(held.json()["owners"].as_array().unwrap().len(), 1, "{held:?}");
    end(backend, port);
});

scenario!(a_group_is_not_signalled_once_all_of_it_have_ended, needs(Root, Strace), |backend| {
    // given a command that ends, so that its number can be another group's by then
    let old = answering(unused_port());
    let trace = tempfile::NamedTempFile::new().unwrap();
    let call = Gatewatch::on(backend, &["restart", "--keep-listening"], old.port());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=kill", "-o"]).arg(trace.path()).args(call.words());
    strace.args(["--", "sh", "-c", "exit 3"]).env("GATEWATCH_SOCKET", "/nonexistent").stdin(Stdio::null());
    let output = strace.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("command_failed"), "{output:?}");
    let text = std::fs::read_to_string(trace.path()).unwrap();
    assert!(!text.contains("kill(-"), "{text}");
});

scenario!(a_command_gets_the_variables_of_the_protocol_anew_and_all_others_as_they_are, |backend| {
    // given a gatewatch that a service manager has given sockets, too
    let port = unused_port();
    let _old = answering(port);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("variables").display().to_string();
    let script = format!("env | grep ^LISTEN_ | sort > {file}; exec {}", activated().join(" "));
    let call = Gatewatch::on(backend, &["restart", "--keep-listening"], port);
    let call = call
        .env("LISTEN_FDS", "9")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDNAMES", "a")
        .env("LISTEN_PIDFDID", "1");
    let answer = call.env("LISTEN_ADDRESS", "here").with(&["--", "sh", "-c", &script]).run();
    assert_kept(&answer);
    let pid = answer.json()["new_owner"]["pid"].as_u64().unwrap();
    let expected = format!("LISTEN_ADDRESS=here\nLISTEN_FDNAMES={port}\nLISTEN_FDS=1\nLISTEN_PID={pid}\n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    end(backend, port);
});
