//! Rules of the systems where ports can only be polled.

use gatewatch_tests::{Gatewatch, Part, unused_port};

scenario!(polling_says_what_it_can_miss, |backend| {
    let port = unused_port();
    let answer =
        Gatewatch::on(backend, &["watch", "--for", "10ms", "--poll-interval", "40ms"], port).run().json();
    assert_eq!((&answer["event"], &answer["resolution_us"]), (&"ready".into(), &40_000.into()));
});

scenario!(the_kernel_backend_is_linuxs, || {
    let owner = Part::gateway().on_port(unused_port()).start();
    let port = owner.port().to_string();
    for command in ["owners", "clean", "watch"] {
        let answer = Gatewatch::plain(&[command, "--backend", "ebpf", "-p", &port]);
        assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
        assert!(answer.err.contains("Linux"), "{answer:?}");
    }
    assert!(owner.is_alive());
});

scenario!(network_namespaces_are_linuxs, || {
    let answer = Gatewatch::plain(&["owners", "--netns", "/run/netns/x"]);
    assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
    assert!(answer.err.contains("Linux"), "{answer:?}");
});
