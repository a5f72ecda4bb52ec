//! UDP ports: what is bound and not connected serves, and the same number is another port than TCP's.

use gatewatch_tests::{
    Actor, Answer, Backend, Gatewatch, Part, Watch, can_bind, can_bind_udp, run, until, unused_port,
};

use crate::clean::{assert_ended, clean};
use crate::restart::{self, actor};
use crate::watch::events;

/// An owner of a UDP port.
pub(crate) fn udp(part: Part) -> Part {
    part.with(&["--udp"])
}

pub(crate) fn clean_udp(backend: Backend, port: u16, arguments: &[&str]) -> Answer {
    Gatewatch::on_udp(backend, &["clean"], port).with(arguments).run()
}

pub(crate) fn owners_udp(backend: Backend, port: u16) -> Answer {
    Gatewatch::on_udp(backend, &["owners"], port).run()
}

/// The actor is gone, and a server can take its place at once.
pub(crate) fn assert_udp_cleaned(answer: &Answer, actor: &Actor) {
    assert_ended(answer, actor);
    assert!(can_bind_udp(actor.address()), "{answer:?}");
}

pub(crate) fn watch_udp(backend: Backend, port: u16) -> Watch {
    Gatewatch::on_udp(backend, &["watch", "--poll-interval", "2ms"], port).watch()
}

/// A command that is a server on the UDP port.
pub(crate) fn udp_command(name: &str, port: u16) -> Vec<String> {
    actor(name, &["--udp", "--on", &format!("127.0.0.1:{port}"), "--stay", "--live-for", "60000"])
}

pub(crate) fn restart_udp(backend: Backend, port: u16, arguments: &[&str], command: &[String]) -> Answer {
    restart::run(Gatewatch::on_udp(backend, restart::RESTART, port).with(arguments), command)
}

/// Two owners of one number: by TCP and by UDP.
fn two(part: fn() -> Part) -> (Actor, Actor) {
    let port = unused_port();
    (part().on_port(port).start(), udp(part()).on_port(port).start())
}

scenario!(a_held_udp_port_is_told_beside_the_tcp_port_that_nobody_holds, |backend| {
    let by_udp = udp(Part::other()).on_port(unused_port()).start();
    let (number, pid) = (by_udp.port(), by_udp.pid());
    let told = format!("UDP port {number} is held by ");
    let how = format!("(pid {pid}): `gatewatch owners {number}/udp`");
    for command in [&["owners"][..], &["clean"]] {
        let answer = Gatewatch::in_text(backend, command, number).run();
        assert_eq!(answer.status, 0, "{answer:?}");
        let lines: Vec<&str> = answer.out.lines().filter(|line| line.contains("UDP")).collect();
        assert!(lines.len() == 1 && lines[0].contains(&told) && lines[0].contains(&how), "{answer:?}");
        // but not where programs read it
        let answer = Gatewatch::on(backend, command, number).run();
        assert_eq!(answer.json()["owners"], serde_json::json!([]), "{answer:?}");
        // nor where the TCP port is the one that is asked for and held, or the UDP port is free
        let answer = Gatewatch::in_text(backend, command, unused_port()).run();
        assert!(!answer.out.contains("UDP"), "{answer:?}");
    }
    let _by_tcp = Part::other().on_port(number).start();
    let answer = Gatewatch::in_text(backend, &["owners"], number).run();
    assert!(!answer.out.contains("UDP"), "{answer:?}");
    assert!(by_udp.is_alive());
});

scenario!(the_owner_of_a_udp_port_is_not_that_of_the_tcp_port, |backend| {
    let (tcp, by_udp) = two(Part::other);
    let answer = owners_udp(backend, by_udp.port());
    let json = answer.json();
    assert_eq!((&json["port"], &json["protocol"]), (&by_udp.port().into(), &"udp".into()), "{json}");
    assert_eq!(json["owners"].as_array().unwrap().len(), 1, "{json}");
    let owner = answer.owner(by_udp.pid());
    assert_eq!(owner["listeners"][0], by_udp.address().to_string());
    assert_eq!(owner["sockets"][0]["state"], "bound");
    let json = Gatewatch::on(backend, &["owners"], tcp.port()).run().json();
    assert_eq!((&json["protocol"], &json["owners"][0]["pid"]), (&"tcp".into(), &tcp.pid().into()), "{json}");
    assert_eq!(json["owners"].as_array().unwrap().len(), 1, "{json}");
});

scenario!(a_bare_udp_port_shows_its_owner, |backend| {
    let owner = udp(Part::other()).on_port(unused_port()).start();
    let port = format!("{}/udp", owner.port());
    let answer = Gatewatch::plain(&["--backend", run().flag(backend), &port]);
    assert!(answer.out.contains(&format!("port {port} is held by one process")), "{answer:?}");
    assert!(answer.out.contains(&format!("(pid {})", owner.pid())), "{answer:?}");
});

scenario!(list_tells_udp_from_tcp, |backend| {
    let (tcp, by_udp) = two(Part::other);
    let listed = |flags: &[&str]| {
        let list = Gatewatch::new(&["list", "--backend", run().flag(backend), "--format", "json"]);
        let lines = list.with(flags).run().lines().into_iter();
        let ours = lines.filter(|line| line["port"] == tcp.port());
        ours.map(|line| (line["protocol"].clone(), line["owners"][0]["pid"].clone())).collect::<Vec<_>>()
    };
    let of_tcp = ("tcp".into(), tcp.pid().into());
    let of_udp = ("udp".into(), by_udp.pid().into());
    assert_eq!(listed(&["--udp"]), std::slice::from_ref(&of_udp));
    assert_eq!(listed(&["--tcp"]), std::slice::from_ref(&of_tcp));
    for both in [&["--tcp", "--udp"][..], &[]] {
        assert_eq!(listed(both), [of_tcp.clone(), of_udp.clone()]);
    }
});

scenario!(a_udp_gateway_is_asked_to_end_and_its_port_is_proved, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).start();
    let answer = clean_udp(backend, gateway.port(), &["--term-timeout", "15s"]);
    assert_udp_cleaned(&answer, &gateway);
    let json = answer.json();
    assert_eq!((&json["protocol"], &json["backend"]), (&"udp".into(), &backend.name().into()), "{json}");
    assert_eq!((&json["released"]["proof"], &json["released"]["plain_bind"]), (&"bind".into(), &true.into()));
});

scenario!(a_udp_gateway_that_does_not_obey_is_ended_by_force, |backend| {
    let gateway = udp(Part::gateway()).on_port(unused_port()).with(&["--on-term", "ignore"]).start();
    let answer = clean_udp(backend, gateway.port(), &["--term-timeout", "50ms"]);
    assert_udp_cleaned(&answer, &gateway);
});

scenario!(a_clean_of_one_protocol_leaves_the_others_owner_alone, |backend| {
    // given a gateway of each protocol on one number
    let (tcp, by_udp) = two(Part::gateway);
    assert_udp_cleaned(&clean_udp(backend, tcp.port(), &[]), &by_udp);
    // then the TCP one lives, and is not counted as the UDP port's when that is cleaned of anybody
    let answer = clean_udp(backend, tcp.port(), &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    assert!(tcp.is_alive() && !can_bind(tcp.address()));
    // and the other way round
    let (tcp, by_udp) = two(Part::gateway);
    assert_eq!(clean(backend, tcp.port(), &[]).outcome(), "cleaned");
    let answer = clean(backend, tcp.port(), &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    assert!(tcp.is_gone() && by_udp.is_alive() && !can_bind_udp(by_udp.address()));
});

scenario!(another_owner_of_a_udp_port_is_left_alone, |backend| {
    let other = udp(Part::other()).on_port(unused_port()).start();
    let answer = clean_udp(backend, other.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(other.is_alive());
    let answer = clean_udp(backend, other.port(), &["--any", "--dry-run"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "would_clean"), "{answer:?}");
    let answer = clean_udp(backend, other.port(), &["--any", "--protect", &other.pid().to_string()]);
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert!(other.is_alive());
});

scenario!(nobody_on_a_udp_port_is_free, |backend| {
    let answer = clean_udp(backend, unused_port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
});

scenario!(a_wait_for_a_udp_port_ends_when_the_owner_lets_go, |backend| {
    let mut owner = udp(Part::other()).on_port(unused_port()).start();
    let answer = Gatewatch::on_udp(backend, &["wait", "free", "--timeout", "100ms"], owner.port()).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let mut waiting = Gatewatch::on_udp(backend, &["wait", "free"], owner.port()).spawn();
    assert!(waiting.is_running());
    owner.end();
    let answer = waiting.finish();
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    assert_eq!(answer.json()["protocol"], "udp");
    assert!(can_bind_udp(owner.address()));
});

scenario!(a_wait_for_an_owner_ends_when_the_udp_port_is_bound, |backend| {
    let port = unused_port();
    // given an owner by TCP, which does not count
    let _tcp = Part::other().on_port(port).start();
    let answer = Gatewatch::on_udp(backend, &["wait", "bound", "--timeout", "100ms"], port).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    let waiting =
        ["bound", "listening"].map(|what| Gatewatch::on_udp(backend, &["wait", what], port).spawn());
    let owner = udp(Part::other()).on_port(port).start();
    for answer in waiting.map(gatewatch_tests::Running::finish) {
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "listening"), "{answer:?}");
        assert_eq!(answer.json()["owner"]["pid"], owner.pid(), "{answer:?}");
    }
});

scenario!(a_watch_tells_of_a_udp_port_from_bind_to_free, |backend| {
    let port = unused_port();
    let mut watch = watch_udp(backend, port);
    // when an owner by TCP comes, and goes
    let mut tcp = Part::other().on_port(port).start();
    tcp.end();
    until("the owner by TCP has ended", || tcp.is_gone());
    // and one by UDP
    let mut owner = udp(Part::other()).on_port(port).start();
    let bind = watch.expect("bind");
    assert_eq!((&bind["protocol"], &bind["pid"]), (&"udp".into(), &owner.pid().into()), "{bind}");
    assert_eq!((&bind["address"], &bind["port"]), (&owner.address().to_string().into(), &port.into()));
    owner.end();
    // then only the latter is told
    let ends = watch.up_to("free");
    assert_eq!(events(&ends), ["release", "free"]);
    assert_eq!((&ends[0]["pid"], &ends[0]["comm"]), (&owner.pid().into(), &owner.file_name().into()));
});

scenario!(a_udp_owner_that_is_there_is_held_before_ready, |backend| {
    let owner = udp(Part::other()).on_port(unused_port()).start();
    let watch = watch_udp(backend, owner.port());
    assert_eq!(watch.held.len(), 1, "{:?}", watch.held);
    let held = &watch.held[0];
    assert_eq!((&held["event"], &held["pid"]), (&"held".into(), &owner.pid().into()), "{held}");
});

scenario!(both_protocols_of_a_port_are_watched_at_once, |backend| {
    let port = unused_port();
    let mut watch = Gatewatch::on(backend, &["watch", "--poll-interval", "2ms"], port)
        .with(&["-p", &format!("{port}/udp")])
        .watch();
    // That of the second port.
    watch.expect("ready");
    let _by_udp = udp(Part::other()).on_port(port).start();
    assert_eq!(watch.expect("bind")["protocol"], "udp");
    let _tcp = Part::other().on_port(port).start();
    let listen = watch.up_to("listen").pop().unwrap();
    assert!(listen["protocol"].is_null(), "{listen}");
});

scenario!(a_restart_ends_when_the_new_owner_is_bound, |backend| {
    let old = udp(Part::gateway()).on_port(unused_port()).start();
    let command = udp_command("openclaw-gateway", old.port());
    let answer = restart_udp(backend, old.port(), &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(old.pid())]);
    assert!(old.is_gone());
    let json = answer.json();
    assert_eq!(json["new_owner"]["by"], "command", "{json}");
    assert!(json["downtime_us"].is_u64(), "{json}");
    assert_eq!(clean_udp(backend, old.port(), &["--any"]).status, 0);
});

scenario!(a_udp_port_is_freed_for_the_command_that_is_executed, |backend| {
    let old = udp(Part::gateway()).on_port(unused_port()).start();
    let command = actor("actor", &["--exit", "7"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer = Gatewatch::on_udp(backend, &["exec"], old.port()).with(&["--"]).with(&command).run();
    assert_eq!(answer.status, 7, "{answer:?}");
    assert!(old.is_gone());
});
