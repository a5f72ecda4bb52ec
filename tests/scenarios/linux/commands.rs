//! The other commands, by kernel events and for ordinary users.

use gatewatch_tests::Gatewatch;

scenario!(doctor_says_what_mends_a_missing_privilege, needs(Root), || {
    let answer = Gatewatch::new(&["doctor", "--format", "json"]).as_nobody().run().json();
    assert_eq!(answer["backend"], "poll");
    assert_eq!(answer["backends"][0]["state"], "unavailable");
    assert!(answer["backends"][0]["mend"].as_str().unwrap().contains("CAP_BPF"));
    assert_eq!(Gatewatch::new(&["doctor", "--backend", "ebpf"]).as_nobody().run().status, 6);
});

scenario!(the_demo_cleans_a_stale_gateway, needs(Bpf), || {
    let answer = Gatewatch::plain(&["demo"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    for part in
        ["listen", "match: its title is openclaw-gateway", "by SIGTERM", "release", "free", "first attempt"]
    {
        assert!(answer.out.contains(part), "{part} is not in {}", answer.out);
    }
});

scenario!(the_demo_works_for_an_ordinary_user, needs(Root), || {
    let answer = Gatewatch::new(&["demo"]).as_nobody().run();
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(answer.out.contains("As root, the kernel itself tells"), "{answer:?}");
});
