//! What a look finds, and what it must not take for something else.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gatewatch_tests::{Agent, Backend, Gatewatch, Part, detach_cgroup_hooks, run, send, until, unused_port};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clean::{assert_cleaned, clean};
use crate::watch::watch;

scenario!(what_begins_to_listen_during_the_look_is_new, needs(Bpf), || {
    // given so many descriptors that a look at them takes a while
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let each = (most - 500).min(50_000);
    let (each, workers) = (each.to_string(), (1_500_000 / each).to_string());
    let _crowd = Part::other().with(&["--descriptors", &each, "--workers", &workers]).start();
    let port = unused_port();
    // when a gateway begins to listen after the look has begun; its pid is the highest, so it is visited last
    let mut cleaning = Gatewatch::on(Backend::Ebpf, &["clean"], port).spawn();
    let fds = format!("/proc/{}/fd", cleaning.pid());
    let reads = || {
        let fds = fs::read_dir(&fds).into_iter().flatten().filter_map(Result::ok);
        fds.filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| link.to_string_lossy().contains("bpf_iter"))
    };
    until("the look begins, or is over", || reads() || !cleaning.is_running());
    let gateway = Part::gateway().on_port(port).start();
    let answer = cleaning.finish();
    // then it is no stale owner, whether the look has found it or not
    assert!(gateway.is_alive(), "{answer:?}");
    assert!(answer.killed().is_empty(), "{answer:?}");
});

scenario!(a_dual_stack_port_is_proved_for_both_families, |backend| {
    // given a dual-stack gateway with a connection over IPv4 that lingers
    let mut gateway = Part::gateway()
        .on(([0, 0, 0, 0, 0, 0, 0, 0], unused_port()).into())
        .with(&["--accept-and-close"])
        .start();
    let mut client = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    assert_eq!(gateway.line(), "closed");
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    // then a plain bind to both families fails, though one to IPv6 alone does not
    assert_eq!(answer.json()["released"]["plain_bind"], false, "{answer:?}");
});

scenario!(a_listener_on_a_mapped_address_is_cleaned, |backend| {
    let address = format!("[::ffff:127.0.0.1]:{}", unused_port()).parse().unwrap();
    let gateway = Part::gateway().on(address).start();
    let answer = clean(backend, gateway.port(), &[]);
    assert_cleaned(&answer, &gateway);
    assert_ne!(answer.json()["released"]["plain_bind"], Value::Null, "{answer:?}");
});

scenario!(a_listener_on_a_link_local_address_is_cleaned, needs(Root), |backend| {
    // also where the table that is read does not name the interface, without which such an address can't be bound
    for without in ["", "diag", "diag,iter"] {
        let port = unused_port();
        let gateway = Part::gateway().start_on_link_local("fe80::7", port);
        let clean = |netns: &str, format: &str| {
            Gatewatch::new(&["clean", "--backend", run().flag(backend), "--format", format])
                .with(&["--netns", netns, "-p", &port.to_string()])
                .env("GATEWATCH_WITHOUT", without)
                .run()
        };
        let answer = clean(&gateway.netns(), "json");
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{without}: {answer:?}");
        assert!(gateway.is_gone());
        let json = answer.json();
        assert_eq!(json["owners"][0]["listeners"][0], format!("[fe80::7%1]:{port}"), "{without}: {answer:?}");
        assert_ne!(json["released"]["proof"], "poll", "{without}: {answer:?}");
        assert_ne!(json["released"]["plain_bind"], Value::Null, "{without}: {answer:?}");
        let gateway = Part::gateway().start_on_link_local("fe80::7", port);
        let text = clean(&gateway.netns(), "text");
        assert!(text.out.contains("a bind succeeded") && !text.out.contains("may not bind"), "{text:?}");
    }
});

scenario!(where_no_table_can_be_read_nobody_is_not_the_answer, needs(Root), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    for command in
        [&["owners"][..], &["clean"], &["wait", "free", "--timeout", "1s"], &["restart", "--", "true"]]
    {
        // An empty table of one family says nothing of the other.
        for tables in [&[][..], &["tcp"]] {
            let (own, rest) =
                command.split_at(command.iter().position(|&word| word == "--").unwrap_or(command.len()));
            let answer = Gatewatch::on(Backend::Poll, own, gateway.port())
                .with(rest)
                .env("GATEWATCH_WITHOUT", "diag")
                .without_proc_net(tables)
                .run();
            assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{command:?} {tables:?}: {answer:?}");
            assert!(answer.err.contains("/proc/net/tcp"), "{answer:?}");
        }
    }
    assert!(gateway.is_alive());
});

scenario!(without_netlinks_table_an_owner_is_still_cleaned, |backend| {
    for without in ["diag", "diag,iter"] {
        let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "1"]).start();
        let answer =
            Gatewatch::on(backend, &["clean"], gateway.port()).env("GATEWATCH_WITHOUT", without).run();
        assert_cleaned(&answer, &gateway);
    }
});

scenario!(a_bound_socket_that_goes_is_released, |backend| {
    let owner = Part::other().on_port(unused_port()).with(&["--bound"]).start();
    let mut watch = watch(backend, owner.port());
    if watch.held.is_empty() && backend == Backend::Poll {
        // Before Linux 6.8 it is not listed.
        return;
    }
    assert_eq!(watch.held[0]["pid"], owner.pid());
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});

scenario!(a_client_that_was_bound_is_released, needs(Bpf), || {
    for without in ["", "btf"] {
        for options in [&["--no-reuse"][..], &[]] {
            let server = Part::other().on_port(unused_port()).start();
            let port = unused_port();
            let mut watch =
                Gatewatch::on(Backend::Ebpf, &["watch"], port).env("GATEWATCH_WITHOUT", without).watch();
            let to = server.address().to_string();
            let client = Part::other().on_port(port).with(&["--connect", &to]).with(options).start();
            watch.expect("bind");
            // The server closes first, so that the client's port is not kept by a connection that lingers.
            drop(server);
            client.ask_to_end();
            watch.expect("release");
            watch.expect("free");
        }
    }
});

scenario!(the_first_moments_of_a_watch_of_two_ports_are_whole, needs(Bpf), || {
    for _ in 0..5 {
        let port = unused_port();
        let second = unused_port().to_string();
        // given listeners that come and go on the port that is looked at first, each on the next address; slowly enough
        // that the ring has room for most of a second
        let over = AtomicBool::new(false);
        let (numbers, is_lost) = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1u16.. {
                    let [high, low] = number.to_be_bytes();
                    let _listener = TcpListener::bind((Ipv4Addr::new(127, 1, high, low), port)).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let mut watch = Gatewatch::on(Backend::Ebpf, &["watch"], port).with(&["-p", &second]).watch();
            let mut lines: Vec<Value> = watch.held.drain(..).collect();
            lines.extend((0..100).map(|_| watch.line()));
            over.store(true, Ordering::Relaxed);
            let number = |line: &Value| match line["address"].as_str()?.parse().unwrap() {
                SocketAddr::V4(address) => {
                    let [_, _, high, low] = address.ip().octets();
                    Some(u16::from_be_bytes([high, low]))
                }
                SocketAddr::V6(_) => None,
            };
            // A listener that is closed while it is looked at is `held` without a process, and its bind is no news. It may
            // also linger from long before, so it does not say where the beginning is.
            let begins = |line: &&Value| line["event"] == "held" || line["event"] == "bind";
            let told: BTreeSet<u16> = lines.iter().filter(begins).filter_map(number).collect();
            let is_open = |line: &&Value| line["event"] == "bind" || line["pid"] == std::process::id();
            let first = lines.iter().filter(begins).filter(is_open).filter_map(number).min().unwrap();
            let is_lost = lines.iter().any(|line| line["event"] == "lost");
            (told.range(first..).copied().collect::<BTreeSet<u16>>(), is_lost)
        });
        // then none of them is left out, from the first that is reported to the last
        let all = numbers.last().unwrap() - numbers.first().unwrap() + 1;
        assert!(is_lost || numbers.len() == usize::from(all), "{numbers:?}");
    }
});

scenario!(a_watch_in_a_time_namespace_sees_what_happens, needs(Bpf), || {
    let port = unused_port();
    let mut watch = Gatewatch::on(Backend::Ebpf, &["watch"], port).in_own_time().watch();
    let owner = Part::other().on_port(port).start();
    watch.expect("bind");
    assert_eq!(watch.expect("listen")["pid"], owner.pid());
    owner.ask_to_end();
    let release = watch.expect("release");
    assert!(release["delay_us"].as_u64().unwrap() < 60_000_000, "{release}");
    watch.expect("free");
});

scenario!(a_port_is_free_in_each_namespace_by_itself, needs(Bpf), || {
    let port = unused_port();
    let elsewhere = Part::other().on(([127, 0, 0, 1], port).into()).in_own_network().start();
    let here = Part::other().on_port(port).start();
    let agent = Agent::watching(&[(port, "")]);
    let mut events = agent.events(&format!("port={port}"));
    events.up_to("ready");
    // when a bind fails here, then the holder elsewhere is not to blame
    assert!(Part::named("rival").on(here.address()).try_to_start().is_none());
    let conflict = events.up_to("conflict").pop().unwrap();
    let holders: Vec<&Value> =
        conflict["holders"].as_array().unwrap().iter().map(|holder| &holder["pid"]).collect();
    assert_eq!(holders, [&Value::from(here.pid())], "{conflict}");
    // and when the one here ends, the port is free here
    here.ask_to_end();
    let free = events.up_to("free").pop().unwrap();
    let namespace = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(namespace, format!("net:[{}]", free["netns"]), "{free}");
    assert!(elsewhere.is_alive());
});

scenario!(a_signal_during_the_load_is_no_failure, needs(Bpf), || {
    let port = unused_port();
    for round in 0..30 {
        let mut running = Gatewatch::on(Backend::Ebpf, &["watch", "--for", "1ms"], port).spawn();
        // when it is stopped and continued again and again while it loads its programs
        std::thread::sleep(Duration::from_millis(round));
        let begun = Instant::now();
        while running.is_running() && begun.elapsed() < Duration::from_secs(5) {
            send(running.pid(), Signal::SIGSTOP);
            send(running.pid(), Signal::SIGCONT);
            // More often, and on a busy machine no attempt of five has the time to succeed.
            std::thread::sleep(Duration::from_millis(40));
        }
        let answer = running.finish();
        assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{answer:?}");
    }
});

scenario!(records_without_a_family_are_understood, needs(Bpf), || {
    for address in ["127.0.0.1", "[::1]", "0.0.0.0", "[::]"] {
        let port = unused_port();
        let mut watch = Gatewatch::on(Backend::Ebpf, &["watch"], port)
            .env("GATEWATCH_WITHOUT", "btf,bind,family")
            .watch();
        let owner = Part::other().on(format!("{address}:{port}").parse().unwrap()).start();
        assert_eq!(watch.expect("listen")["address"], owner.address().to_string());
        owner.ask_to_end();
        assert_eq!(watch.expect("release")["address"], owner.address().to_string());
        watch.expect("free");
    }
});

scenario!(a_hook_that_another_program_detaches_is_attached_again, needs(Bpf), || {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let begun = Instant::now();
    assert_eq!(detach_cgroup_hooks(watch.pid()), 2);
    // then that is noticed within a second or so, and binds are seen again
    watch.expect("lost");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let owner = Part::other().on_port(port).start();
    assert_eq!(watch.expect("bind")["pid"], owner.pid());
    watch.expect("listen");
    // and conflicts, and an end
    assert!(Part::other().on_port(port).try_to_start().is_none());
    watch.expect("conflict");
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});
