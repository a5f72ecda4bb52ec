//! `watch` by kernel events: what the kernel program sees, and what remains of that where parts are missing.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Instant;

use gatewatch_tests::{
    Backend, Flood, Gatewatch, PATIENCE, Part, folder, programs, send, until, unused_port,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clean::clean;
use crate::watch::{events, watch};

scenario!(an_event_says_who_where_and_when, needs(Bpf), || {
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
});

scenario!(a_bind_without_listen_is_seen, needs(Bpf), || {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let owner = Part::other().on(([0, 0, 0, 0, 0, 0, 0, 1], port).into()).with(&["--bound"]).start();
    assert_eq!(watch.expect("bind")["address"], format!("[::1]:{port}"));
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});

scenario!(a_failed_bind_is_a_conflict_with_its_holder, needs(Bpf), || {
    // however this kernel lets it be seen, and as on one that lets no function be followed
    for how in ["", "fexit"] {
        let owner = Part::other().on_port(unused_port()).with(&["--try-again"]).start();
        // given a holder, and a watch on it
        let mut watch = without(how, &["watch"], owner.port()).watch();
        // when another tries the same
        let rival = Part::named("rival").on(owner.address()).with(&["--comm", "rival"]);
        assert!(rival.try_to_start().is_none(), "its bind must fail");
        let conflict = watch.expect("conflict");
        assert_eq!(conflict["comm"], "rival");
        assert_eq!(conflict["holders"][0]["pid"], owner.pid());
        assert_eq!(conflict["address"], owner.address().to_string());
    }
});

scenario!(each_way_to_be_refused_a_port_is_a_conflict, needs(Bpf), || {
    for how in ["", "fexit"] {
        // given a holder of all IPv4 addresses, and a socket that was bound to them before the holder listened
        let port = unused_port();
        let holder = tcp_socket(Domain::IPV4);
        let (late, here) = (tcp_socket(Domain::IPV4), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        for socket in [&holder, &late] {
            socket.set_reuse_address(true).unwrap();
            socket.bind(&here.into()).unwrap();
        }
        holder.listen(1).unwrap();
        let mut watch = without(how, &["watch"], port).watch();
        // when it would listen as well
        assert_eq!(late.listen(1).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        // A listen that fails has begun: the kernel makes it a listener before it looks for others.
        let conflict = watch.up_to("conflict").pop().unwrap();
        assert_eq!(conflict["address"], here.to_string());
        // and others bind addresses of it, by multipath TCP where the kernel has it, over IPv4 and over IPv6
        let multipath = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).ok();
        let others = [
            (multipath, SocketAddr::from(([127, 0, 0, 1], port))),
            (Some(tcp_socket(Domain::IPV4)), SocketAddr::from(([127, 0, 0, 2], port))),
            (Some(tcp_socket(Domain::IPV6)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
            (Some(tcp_socket(Domain::IPV4)), SocketAddr::from(([127, 0, 0, 3], port))),
        ];
        for (socket, address) in others {
            let Some(socket) = socket else { continue };
            let refused = socket.bind(&address.into()).unwrap_err().raw_os_error();
            assert_eq!(refused, Some(libc::EADDRINUSE), "{address}");
            // then each is told once
            assert_eq!(watch.expect("conflict")["address"], address.to_string());
        }
    }
});

fn tcp_socket(domain: Domain) -> Socket {
    Socket::new(domain, Type::STREAM, None).unwrap()
}

scenario!(a_failed_bind_that_names_no_family_is_a_conflict, needs(Bpf), || {
    let owner = Part::other().on(([0, 0, 0, 0], unused_port()).into()).start();
    let mut watch = watch(Backend::Ebpf, owner.port());
    // when somebody binds all addresses without a family, which IPv4 takes for its own
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let mut address = [0_u8; size_of::<libc::sockaddr_in>()];
    address[2..4].copy_from_slice(&owner.port().to_be_bytes());
    // SAFETY: the address is as long as a sockaddr_in.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), 16) };
    assert_eq!(Errno::result(bound), Err(Errno::EADDRINUSE));
    // then
    assert_eq!(watch.expect("conflict")["address"], owner.address().to_string());
});

scenario!(the_end_of_a_client_is_not_blamed_on_its_peer, needs(Bpf), || {
    // given a client that is bound to the port, whose peer is this process
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = server.local_addr().unwrap().to_string();
    for _ in 0..8 {
        let port = unused_port();
        let mut watch = watch(Backend::Ebpf, port);
        let client = Part::other().on_port(port).with(&["--no-reuse", "--connect", &to]).start();
        assert_eq!(watch.expect("bind")["pid"], client.pid());
        let (mut peer, _) = server.accept().unwrap();
        // when it ends first, and the last segment comes from here
        send(client.pid(), Signal::SIGKILL);
        let _ = peer.read(&mut [0]);
        drop(peer);
        // then its end is its own, or nobody's
        for line in watch.up_to("free") {
            let pid = &line["pid"];
            assert!(pid.is_null() || *pid == client.pid(), "{line}");
            assert!(!pid.is_null() || line["comm"].is_null(), "{line}");
            assert_eq!(line["uid"], 0, "{line}");
        }
    }
});

scenario!(the_release_of_an_inherited_listener_names_its_last_holder, needs(Bpf), || {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let owner = Part::other().on_port(port).with(&["--heir", "some-tool"]).start();
    let (maker, heir) = (owner.started_pid(), owner.pids[1]);
    assert_eq!(watch.up_to("listen").pop().unwrap()["pid"], maker);
    send(heir, Signal::SIGKILL);
    for line in watch.up_to("free") {
        assert_eq!(line["pid"], heir, "{line}");
    }
});

scenario!(an_event_of_a_thread_names_its_process, needs(Bpf), || {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    let begin = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let listener = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("io-worker-7".to_owned());
        let listener = thread.spawn_scoped(scope, || {
            let listener = begin();
            // The thread is there while it is looked for.
            let lines = watch.up_to("listen");
            (listener, lines)
        });
        let (listener, lines) = listener.unwrap().join().unwrap();
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        for line in lines {
            assert_eq!((&line["comm"], &line["thread"]), (&own.trim_end().into(), &"io-worker-7".into()));
        }
        listener
    });
    drop(listener);
});

scenario!(an_event_of_a_thread_that_has_ended_names_its_process, needs(Bpf), || {
    let port = unused_port();
    let mut watch = watch(Backend::Ebpf, port);
    send(watch.pid(), Signal::SIGSTOP);
    // when a thread binds, and ends before anybody can look for it
    let bind = move || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let thread = std::thread::Builder::new().name("short-lived".to_owned());
    let _listener = thread.spawn(bind).unwrap().join().unwrap();
    send(watch.pid(), Signal::SIGCONT);
    // then
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    for line in watch.up_to("listen") {
        assert_eq!(
            (&line["comm"], &line["thread"]),
            (&own.trim_end().into(), &"short-lived".into()),
            "{line}"
        );
    }
});

scenario!(accepted_connections_are_no_events, needs(Bpf), || {
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
        // then only the listener's own end is reported
        watch.expect("release");
        watch.expect("free");
        let _next = Part::other().on_port(port).start();
        assert_eq!(events(&watch.up_to("listen")).last(), Some(&"listen"));
    }
});

scenario!(a_listener_that_was_shut_down_is_released_when_it_closes, needs(Bpf), || {
    let owner = Part::other().on_port(unused_port()).with(&["--shut-down"]).start();
    let mut watch = watch(Backend::Ebpf, owner.port());
    assert_eq!(watch.held.len(), 1, "it still holds the port");
    owner.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});

scenario!(a_socket_in_flight_is_released_when_it_is_dropped, needs(Bpf), || {
    let sender = Part::other().on_port(unused_port()).with(&["--in-flight"]).start();
    let mut watch = watch(Backend::Ebpf, sender.port());
    assert_eq!(watch.held[0]["pid"], Value::Null);
    sender.ask_to_end();
    watch.expect("release");
    watch.expect("free");
});

scenario!(a_multipath_listener_is_one_socket, needs(Bpf, Multipath), || {
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
});

scenario!(gatewatchs_own_binds_are_left_out, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let mut watch = watch(Backend::Ebpf, gateway.port());
    // when others clean the port, and wait for it: each ends with a bind
    assert_eq!(clean(Backend::Ebpf, gateway.port(), &[]).status, 0);
    assert_eq!(clean(Backend::Poll, gateway.port(), &[]).status, 0);
    assert_eq!(Gatewatch::on(Backend::Ebpf, &["wait", "free"], gateway.port()).run().status, 0);
    // then only the gateway's end is seen, up to the next owner
    let _next = Part::other().on_port(gateway.port()).start();
    assert_eq!(events(&watch.up_to("listen")), ["release", "free", "bind", "listen"]);
});

scenario!(a_bind_after_a_release_always_succeeds, needs(Bpf), || {
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
});

scenario!(lost_events_are_counted_exactly_and_followed_by_held, needs(Bpf), || {
    // given a watch that is stopped, and sees no failed binds, because some of the actor's may fail
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
    // The end of listening takes room in the ring too, but is no line.
    let total = rounds * 3 + 2;
    assert_eq!(u64::try_from(told).unwrap() + lost, total);
    // and what holds the port now follows
    let held = watch.expect("held");
    assert_eq!(held["pid"], owner.pid());
});

fn without(what: &str, command: &[&str], port: u16) -> Gatewatch {
    Gatewatch::on(Backend::Ebpf, command, port).env("GATEWATCH_WITHOUT", what)
}

scenario!(without_btf_the_plain_tracepoints_do, needs(Bpf), || {
    let before = Part::other().on_port(unused_port()).start();
    let mut watch = without("btf", &["watch"], before.port()).watch();
    assert_eq!(watch.held[0]["pid"], before.pid());
    before.ask_to_end();
    watch.expect("release");
    watch.expect("free");
    let after = Part::other().on_port(before.port()).start();
    assert_eq!(watch.up_to("listen").pop().unwrap()["pid"], after.pid());
});

scenario!(without_btf_an_owner_is_still_cleaned, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "2"]).start();
    crate::clean::assert_cleaned(&without("btf", &["clean"], gateway.port()).run(), &gateway);
    let bound = Part::gateway().on_port(unused_port()).with(&["--bound"]).start();
    let answer = without("btf", &["clean", "--free-timeout", "100ms"], bound.port()).run();
    // From Linux 6.8 on the kernel lists such sockets; before, it can't be seen, and the answer says so.
    assert!(matches!(answer.outcome().as_str(), "cleaned" | "unknown"), "{answer:?}");
    assert_eq!(answer.outcome() == "cleaned", bound.is_gone());
});

scenario!(without_the_iterator_an_owner_is_still_cleaned, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--dead-leader"]).start();
    crate::clean::assert_cleaned(&without("iter", &["clean"], gateway.port()).run(), &gateway);
});

scenario!(a_missing_hook_is_said_and_the_rest_works, needs(Bpf), || {
    let port = unused_port();
    let answer = without("bind,conflict", &["watch", "--for", "10ms"], port).run();
    assert_eq!(answer.status, 0);
    for said in ["no bind events", "no conflict events"] {
        assert!(answer.err.contains(said), "{answer:?}");
    }
    // in one line, and only where it changes the answer
    assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
    let clean = without("bind,conflict", &["clean"], port).run();
    assert_eq!((clean.status, clean.err.as_str()), (0, ""), "{clean:?}");
    let doctor =
        Gatewatch::new(&["doctor", "--format", "json"]).env("GATEWATCH_WITHOUT", "bind").run().json();
    assert_eq!(doctor["backends"][0]["state"], "degraded");
});

scenario!(a_watch_that_is_never_without_an_event_ends_all_the_same, needs(Bpf), || {
    let port = unused_port();
    let mut asked = watch(Backend::Ebpf, port);
    // given binds that come faster than they can be told
    let _flood = Flood::of(port);
    (0..1000).for_each(|_| drop(asked.line()));
    // when it is asked to end, then it does
    send(asked.pid(), Signal::SIGTERM);
    assert!(asked.ends_within(PATIENCE), "it goes on");
    // and so when its time is over
    let mut limited = Gatewatch::on(Backend::Ebpf, &["watch", "--for", "300ms"], port).watch();
    assert_eq!(limited.end(), 0);
});

scenario!(a_watch_tells_who_comes_while_events_are_lost_without_end, needs(Bpf), || {
    let port = unused_port();
    let mut asked = watch(Backend::Ebpf, port);
    let _flood = Flood::of(port);
    // There is always another line.
    let mut up_to = |what: &str, is_it: &dyn Fn(&Value) -> bool| {
        let begun = Instant::now();
        while !is_it(&asked.line()) {
            assert!(begun.elapsed() < PATIENCE, "{what} is not told");
        }
    };
    // given that some were lost, and it still never catches up
    up_to("a loss", &|line| line["event"] == "lost");
    for _ in 0..5 {
        let server = Part::other().on_port(port).start();
        let is_told = |line: &Value| matches!(line["event"].as_str(), Some("listen" | "held"));
        up_to("who listens", &|line| is_told(line) && line["pid"] == server.pid());
    }
});

scenario!(verbose_brings_the_kernel_programs_diagnostics, needs(Bpf), || {
    let port = unused_port();
    let watch = Gatewatch::on(Backend::Ebpf, &["-vv", "watch", "--count", "1"], port).watch();
    send(watch.pid(), Signal::SIGSTOP);
    let _owner = Part::other().on_port(port).with(&["--churn", "3000"]).start();
    send(watch.pid(), Signal::SIGCONT);
    let said = watch.err();
    assert!(said.contains("the event ring is full"), "{}", &said[..said.len().min(3000)]);
});

scenario!(a_short_lived_listener_is_not_missed, needs(Bpf), || {
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
});

scenario!(a_users_own_clean_makes_no_conflict, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let mut watch = Gatewatch::on(Backend::Ebpf, &["watch"], port).watch();
    // when a user who may not end it tries whether the port can be had
    let answer = Gatewatch::on(Backend::Poll, &["clean"], port).as_nobody().run();
    assert_ne!(answer.status, 0, "{answer:?}");
    // then the first conflict is a server's
    assert!(Part::other().on_port(port).try_to_start().is_none());
    let conflict = watch.expect("conflict");
    assert_ne!(conflict["comm"], "gatewatch", "{conflict}");
});

scenario!(the_binds_by_which_a_user_proves_a_port_free_are_no_events, needs(Bpf), || {
    // given a user who has been granted what kernel events take, and nothing else
    let port = unused_port();
    let by_user =
        |command: &str| Gatewatch::on(Backend::Ebpf, &[command], port).as_nobody_with_kernel_events();
    let mut watch = by_user("watch").watch();
    // when the user's own program binds the port to prove that it is free
    for _ in 0..3 {
        let answer = by_user("clean").run();
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    }
    // then the first event is another's
    let owner = Part::other().on_port(port).start();
    assert_eq!(watch.line()["pid"], owner.pid());
    // and a socket of the user's with the same mark that is not its program's is an event
    let part = Part::other().on(([127, 0, 0, 2], port).into());
    let imitator = part.with(&["--mark", "1734440037"]).as_nobody_with_kernel_events().start();
    assert_eq!(watch.up_to("bind").pop().unwrap()["pid"], imitator.pid());
});

// Before Linux 6.9 neither would ever end if the watch followed the kernel's functions there, as it does elsewhere.
scenario!(a_watch_that_is_killed_with_its_pid_namespace_has_ended, needs(Bpf), || {
    // given a watch whose pid namespace ends with a shell, once it is ready
    let folder = folder();
    let port = unused_port();
    let script = format!(
        "\"$0\" watch {port} --backend ebpf --agent never --format json >\"$1\" & until grep -q ready \"$1\"; do :; done"
    );
    let mut namespace = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", &script])
        .args([programs().join("gatewatch"), folder.path().join("said")])
        .spawn()
        .unwrap();
    until("the namespace has ended", || namespace.try_wait().unwrap().is_some());
    // and nobody who follows functions later waits for it
    let mut watch = watch(Backend::Ebpf, port);
    let owner = Part::other().on_port(port).start();
    assert_eq!(watch.expect("bind")["pid"], owner.pid());
});
