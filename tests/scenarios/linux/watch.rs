//! `watch` by kernel events: what the kernel program sees, and what becomes of it where parts are missing.

use std::net::TcpStream;

use gatewatch_tests::{Backend, Gatewatch, Needs, Part, send, unused_port};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clean::clean;
use crate::watch::{events, watch};
use crate::{OnceRule, Rule};

pub(crate) const RULES: &[Rule] =
    &[("a_forked_worker_keeps_the_port_from_being_released", &[], forked_worker_keeps_it)];

pub(crate) const EBPF_RULES: &[OnceRule] = &[
    ("an_event_says_who_where_and_when", &[Needs::Bpf], an_event_says_who),
    ("a_bind_without_listen_is_seen", &[Needs::Bpf], bind_without_listen),
    ("a_failed_bind_is_a_conflict_with_its_holder", &[Needs::Bpf], conflict),
    ("accepted_connections_are_no_events", &[Needs::Bpf], accepted_connections),
    ("a_listener_that_was_shut_down_is_released_when_it_closes", &[Needs::Bpf], shut_down),
    ("a_socket_in_flight_is_released_when_it_is_dropped", &[Needs::Bpf], in_flight),
    ("a_multipath_listener_is_one_socket", &[Needs::Bpf], multipath),
    ("gatewatchs_own_binds_are_left_out", &[Needs::Bpf], own_binds),
    ("a_bind_after_a_release_always_succeeds", &[Needs::Bpf], bind_after_release),
    ("lost_events_are_counted_exactly_and_followed_by_held", &[Needs::Bpf], lost),
    ("without_btf_the_plain_tracepoints_do", &[Needs::Bpf], without_btf),
    ("without_btf_an_owner_is_still_cleaned", &[Needs::Bpf], clean_without_btf),
    ("without_the_iterator_an_owner_is_still_cleaned", &[Needs::Bpf], clean_without_iterator),
    ("a_missing_hook_is_said_and_the_rest_works", &[Needs::Bpf], missing_hook),
    ("verbose_brings_the_kernel_programs_diagnostics", &[Needs::Bpf], diagnostics),
    ("a_short_lived_listener_is_not_missed", &[Needs::Bpf], short_lived),
];

fn forked_worker_keeps_it(backend: Backend) {
    let owner = Part::other().on_port(unused_port()).with(&["--workers", "1"]).start();
    let mut watch = watch(backend, owner.port());
    let mut held: Vec<u64> = watch.held.iter().filter_map(|line| line["pid"].as_u64()).collect();
    held.sort_unstable();
    let mut pids: Vec<u64> = owner.pids.iter().map(|&pid| pid.into()).collect();
    pids.sort_unstable();
    assert_eq!(held, pids);
    // when the one that listened ends, nothing is released
    owner.ask_to_end();
    gatewatch_tests::until("the first holder has ended", || !owner.alive()[0]);
    assert!(owner.alive()[1]);
    // and when the worker does, it is
    send(owner.pids[1], Signal::SIGKILL);
    let release = watch.expect("release");
    watch.expect("free");
    if backend == Backend::Ebpf {
        assert_eq!(release["pid"], owner.pids[1], "the last holder releases");
    }
}

fn an_event_says_who() {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let owner = Part::other().on_port(port).with(&["--comm", "some-server"]).start();
    let bind = watch.expect("bind");
    let listen = watch.expect("listen");
    for line in [&bind, &listen] {
        assert_eq!(line["pid"], owner.pid());
        assert_eq!(line["uid"], 0);
        assert_eq!(line["comm"], "some-server");
        assert_eq!(line["address"], owner.address().to_string());
        assert_eq!(line["port"], port);
        assert_eq!(line["backend"], "ebpf");
        assert!(line["delay_us"].is_u64());
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(bind["socket"], listen["socket"]);
    assert!(bind["socket"].as_str().unwrap().starts_with("0x"));
    assert!(bind["monotonic_ns"].as_u64() < listen["monotonic_ns"].as_u64());
    let here = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(here, format!("net:[{}]", listen["netns"]));
}

fn bind_without_listen() {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let owner = Part::other().on(([0, 0, 0, 0, 0, 0, 0, 1], port).into()).with(&["--bound"]).start();
    assert_eq!(watch.expect("bind")["address"], format!("[::1]:{port}"));
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
}

fn conflict() {
    let owner = Part::other().on_port(unused_port()).with(&["--try-again"]).start();
    // given a holder, and a watch on it
    let mut watch = watch(Backend::Ebpf, owner.port());
    // when another tries the same
    let rival = Part::named("rival").on(owner.address()).with(&["--comm", "rival"]);
    assert!(rival.try_to_start().is_none(), "its bind must fail");
    let conflict = watch.expect("conflict");
    assert_eq!(conflict["comm"], "rival");
    assert_eq!(conflict["holders"][0]["pid"], owner.pid());
    assert_eq!(conflict["address"], owner.address().to_string());
}

fn accepted_connections() {
    for without in ["", "btf"] {
        let port = unused_port();
        let mut watch = self::without(without, &["watch"], port).watch();
        let owner = Part::other().on_port(port).start();
        watch.up_to("listen");
        // when connections are made, of which the owner accepts none
        for _ in 0..50 {
            TcpStream::connect(owner.address()).unwrap();
        }
        owner.ask_to_end();
        // then only the listener's own end is told
        watch.expect("release");
        watch.expect("free");
        let _next = Part::other().on_port(port).start();
        assert_eq!(events(&watch.up_to("listen")).last(), Some(&"listen"));
    }
}

fn shut_down() {
    let owner = Part::other().on_port(unused_port()).with(&["--shut-down"]).start();
    let mut watch = watch(Backend::Ebpf, owner.port());
    assert_eq!(watch.held.len(), 1, "it still holds the port");
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
}

fn in_flight() {
    let sender = Part::other().on_port(unused_port()).with(&["--in-flight"]).start();
    let mut watch = watch(Backend::Ebpf, sender.port());
    assert_eq!(watch.held[0]["pid"], Value::Null);
    sender.ask_to_end();
    watch.expect("release");
    watch.expect("free");
}

fn multipath() {
    if !std::path::Path::new("/proc/sys/net/mptcp/enabled").exists() {
        // The kernel has no multipath sockets, so there is nothing to see.
        return;
    }
    // given one that was there before the watch
    let before = Part::other().on_port(unused_port()).with(&["--multipath"]).start();
    let mut seen = watch(Backend::Ebpf, before.port());
    assert_eq!(seen.held.len(), 1, "{:?}", seen.held);
    assert_eq!(seen.held[0]["pid"], before.pid());
    before.ask_to_end();
    seen.expect("release");
    seen.expect("free");
    // and one that came after it
    let port = unused_port();
    let mut seen = watch(Backend::Ebpf, port);
    let after = Part::other().on_port(port).with(&["--multipath"]).start();
    seen.expect("bind");
    seen.expect("listen");
    after.ask_to_end();
    seen.expect("release");
    seen.expect("free");
}

fn own_binds() {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let mut watch = watch(Backend::Ebpf, gateway.port());
    // when others clean the port, and wait for it: each ends with a bind
    assert_eq!(clean(Backend::Ebpf, gateway.port(), &[]).status, 0);
    assert_eq!(clean(Backend::Poll, gateway.port(), &[]).status, 0);
    assert_eq!(Gatewatch::on(Backend::Ebpf, &["wait", "free"], gateway.port()).run().status, 0);
    // then only the gateway's end is seen, up to the next owner
    let _next = Part::other().on_port(gateway.port()).start();
    assert_eq!(events(&watch.up_to("listen")), ["release", "free", "bind", "listen"]);
}

fn bind_after_release() {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    for _ in 0..100 {
        let owner = Part::other().on_port(port).start();
        watch.up_to("listen");
        send(owner.pid(), Signal::SIGKILL);
        watch.expect("release");
        // at once, with no retry
        let rebound = gatewatch_tests::can_bind(owner.address());
        assert!(rebound, "the bind after a release failed");
        assert_eq!(events(&watch.up_to("listen")), ["free", "bind", "listen"]);
        watch.expect("release");
        watch.expect("free");
    }
}

fn lost() {
    // given a watch that is stopped, and has no events of binds that fail, as some of the actor's may
    let port = unused_port();
    let mut watch = without("conflict", &["watch"], port).watch();
    send(watch.pid(), Signal::SIGSTOP);
    // when more happens than the ring holds: a bind, a listen, an end of listening and a release each time
    let rounds: u64 = 2000;
    let owner = Part::other().on_port(port).with(&["--churn", &rounds.to_string()]).start();
    send(watch.pid(), Signal::SIGCONT);
    // then what was lost is counted to the last event
    let lines = watch.up_to("lost");
    let told = lines
        .iter()
        .filter(|line| matches!(line["event"].as_str(), Some("bind" | "listen" | "release")))
        .count();
    let lost = lines.last().unwrap()["count"].as_u64().unwrap();
    // The end of listening is an event of the ring that makes no line, so those that were told count four for three.
    let whole = u64::try_from(told).unwrap() / 3 * 4 + u64::try_from(told).unwrap() % 3;
    let total = rounds * 4 + 2;
    assert!(whole + lost == total || whole + 1 + lost == total, "{whole} and {lost} of {total}");
    // and what holds the port now follows
    let held = watch.expect("held");
    assert_eq!(held["pid"], owner.pid());
}

fn without(what: &str, command: &[&str], port: u16) -> Gatewatch {
    Gatewatch::on(Backend::Ebpf, command, port).env("GATEWATCH_WITHOUT", what)
}

fn without_btf() {
    let before = Part::other().on_port(unused_port()).start();
    let mut watch = without("btf", &["watch"], before.port()).watch();
    assert_eq!(watch.held[0]["pid"], before.pid());
    before.ask_to_end();
    watch.expect("release");
    watch.expect("free");
    let after = Part::other().on_port(before.port()).start();
    assert_eq!(watch.up_to("listen").pop().unwrap()["pid"], after.pid());
}

fn clean_without_btf() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "2"]).start();
    crate::clean::assert_cleaned(&without("btf", &["clean"], gateway.port()).run(), &gateway);
    let bound = Part::gateway().on_port(unused_port()).with(&["--bound"]).start();
    let answer = without("btf", &["clean", "--free-timeout", "100ms"], bound.port()).run();
    // Since Linux 6.8 the kernel lists such sockets; before, it can't be seen, and that is said.
    assert!(matches!(answer.outcome().as_str(), "cleaned" | "unknown"), "{answer:?}");
    assert_eq!(answer.outcome() == "cleaned", bound.is_gone());
}

fn clean_without_iterator() {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--dead-leader"]).start();
    crate::clean::assert_cleaned(&without("iter", &["clean"], gateway.port()).run(), &gateway);
}

fn missing_hook() {
    let port = unused_port();
    let answer = without("bind,conflict", &["watch", "--for", "10ms"], port).run();
    assert_eq!(answer.status, 0);
    for said in ["no bind events", "no conflict events"] {
        assert!(answer.err.contains(said), "{answer:?}");
    }
    let doctor =
        Gatewatch::new(&["doctor", "--format", "json"]).env("GATEWATCH_WITHOUT", "bind").run().json();
    assert_eq!(doctor["backends"][0]["state"], "degraded");
}

fn diagnostics() {
    let port = unused_port();
    let watch = Gatewatch::on(Backend::Ebpf, &["-vv", "watch", "--count", "1"], port).watch();
    send(watch.pid(), Signal::SIGSTOP);
    let _owner = Part::other().on_port(port).with(&["--churn", "3000"]).start();
    send(watch.pid(), Signal::SIGCONT);
    let said = watch.err();
    assert!(said.contains("the event ring is full"), "{}", &said[..said.len().min(3000)]);
}

fn short_lived() {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let _owner = Part::other().on_port(port).with(&["--churn", "20"]).start();
    for _ in 0..20 {
        for event in ["bind", "listen", "release", "free"] {
            watch.expect(event);
        }
    }
    watch.expect("bind");
    watch.expect("listen");
}
