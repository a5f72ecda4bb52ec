//! The look at all holders, however many descriptors there are.

use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gatewatch_tests::{Backend, Gatewatch, Part, unused_port};
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, accept, bind, connect, getsockname, listen,
    setsockopt, socket, sockopt,
};
use serde_json::Value;

// A read of the kernel's iterator that visits so many and has nothing to show fails.
scenario!(a_million_descriptors_hide_no_owner, needs(Bpf), || {
    const ALL: u64 = 1_050_000;
    // given a crowd with as many, and an owner that began after it, and so is visited after it
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let each = (most - 500).min(50_000);
    let (each, workers) = (each.to_string(), (ALL / each).to_string());
    let _crowd = Part::other().with(&["--descriptors", &each, "--workers", &workers]).start();
    let owner = Part::other().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], owner.port()).run();
    assert_eq!(answer.owner(owner.pid())["identity"], "other");
});

// What is found at one process is more than there is room for, which ends a read; the next one goes on behind it.
scenario!(a_process_with_thousands_of_listeners_is_shown_with_all, needs(Bpf), || {
    const LISTENERS: u16 = 3000;
    let port = unused_port();
    let addresses: Vec<String> =
        (1..=LISTENERS).map(|host| format!("127.1.{}.{}:{port}", host / 250, host % 250 + 1)).collect();
    let options: Vec<&str> = addresses.iter().flat_map(|address| ["--on", address]).collect();
    let owner = Part::other().on(([127, 0, 0, 1], port).into()).with(&options).start();
    let answer = Gatewatch::on(Backend::Ebpf, &["owners"], port).run();
    let mut listeners = answer.owner(owner.pid())["listeners"].as_array().unwrap().clone();
    listeners.sort_unstable_by_key(ToString::to_string);
    listeners.dedup();
    assert_eq!(listeners.len(), usize::from(LISTENERS) + 1);
});

// As on kernels before Linux 5.17.
scenario!(without_loops_in_the_kernel_program_all_holders_are_found, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--workers", "2"]).start();
    let owners =
        Gatewatch::on(Backend::Ebpf, &["owners"], gateway.port()).env("GATEWATCH_WITHOUT", "loops").run();
    assert_eq!(owners.json()["owners"].as_array().unwrap().len(), 3, "{owners:?}");
    // by the other iterator, and not from /proc, which is read where there is none
    let doctor =
        Gatewatch::new(&["doctor", "--format", "json"]).env("GATEWATCH_WITHOUT", "loops").run().json();
    let hooks = doctor["backends"][0]["hooks"].as_array().unwrap();
    let iterator = hooks.iter().find(|hook| hook["name"] == "iter/task_file").unwrap();
    assert_eq!(iterator["state"], "active", "{iterator}");
});

// The socket keeps the number of a port that the kernel had chosen for it, and has given back since.
scenario!(a_port_that_a_failed_connection_had_is_nobodys, needs(Bpf), || {
    // given a connection that was refused, whose socket is open
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let nobody = SockaddrIn::new(127, 0, 0, 1, unused_port());
    assert_eq!(connect(client.as_raw_fd(), &nobody), Err(Errno::ECONNREFUSED));
    let port = getsockname::<SockaddrIn>(client.as_raw_fd()).unwrap().port();
    assert_ne!(port, 0);
    for without in ["", "bucket", "loops"] {
        // when its port's owners are asked for, which nobody else has, and then somebody
        let ask = || Gatewatch::on(Backend::Ebpf, &["owners"], port).env("GATEWATCH_WITHOUT", without).run();
        assert_eq!(ask().json()["owners"], Value::Array(Vec::new()), "without {without:?}");
        let owner = Part::other().on_port(port).start();
        // then it is none of them
        let owners = ask().json()["owners"].clone();
        assert_eq!(owners.as_array().map(Vec::len), Some(1), "without {without:?}: {owners}");
        assert_eq!(owners[0]["pid"], owner.pid());
    }
});

// The quick way asks the kernel which sockets have the port, before it looks and after; others have it every time.
scenario!(while_connections_come_and_go_the_owner_is_found, needs(Bpf), || {
    // given a server whose connections keep the port as well, because it does not set SO_REUSEADDR, and one after the other
    let port = unused_port();
    let server = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = SockaddrIn::new(127, 0, 0, 1, port);
    bind(server.as_raw_fd(), &address).unwrap();
    listen(&server, Backlog::new(16).unwrap()).unwrap();
    let is_over = AtomicBool::new(false);
    let serve = || {
        while !is_over.load(Ordering::Relaxed) {
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // So that nothing is left of it.
            setsockopt(&client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
            // SAFETY: the descriptor is new.
            let accepted = unsafe { OwnedFd::from_raw_fd(accept(server.as_raw_fd()).unwrap()) };
            drop((client, accepted));
        }
    };
    let answers: Vec<_> = thread::scope(|scope| {
        scope.spawn(serve);
        // when its owners are asked for again and again
        let answers = (0..30).map(|_| Gatewatch::on(Backend::Ebpf, &["owners"], port).run()).collect();
        is_over.store(true, Ordering::Relaxed);
        answers
    });
    // then it is there each time, with its listener
    for answer in answers {
        let listeners = answer.owner(std::process::id())["listeners"].to_string();
        assert!(listeners.contains(&format!("127.0.0.1:{port}")), "{answer:?}");
    }
});
