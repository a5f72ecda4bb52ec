//! `watch`: what happens to a port, reported as it happens.

use std::time::Duration;

use gatewatch_tests::{Backend, Gatewatch, Part, Watch, unused_port};
use serde_json::Value;

pub(crate) fn watch(backend: Backend, port: u16) -> Watch {
    Gatewatch::on(backend, &["watch", "--poll-interval", "2ms"], port).watch()
}

pub(crate) fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

scenario!(an_owner_that_is_there_is_held_before_ready, |backend| {
    let owner = Part::other().on_port(unused_port()).start();
    let watch = watch(backend, owner.port());
    assert_eq!(watch.held.len(), 1, "{:?}", watch.held);
    assert_eq!(watch.held[0]["event"], "held");
    assert_eq!(watch.held[0]["pid"], owner.pid());
    assert_eq!(watch.held[0]["address"], owner.address().to_string());
    assert_eq!(watch.held[0]["backend"], backend.name());
});

scenario!(listen_and_release_come_in_order_and_free_is_last, |backend| {
    let port = unused_port();
    let mut watch = watch(backend, port);
    let mut owner = Part::other().on_port(port).start();
    let listen = watch.up_to("listen").pop().unwrap();
    assert_eq!(listen["pid"], owner.pid());
    owner.end();
    let ends = watch.up_to("free");
    assert_eq!(events(&ends), ["release", "free"]);
    // and it is named, though it has ended by the time that it can be looked at
    assert_eq!((&ends[0]["pid"], &ends[0]["comm"]), (&owner.pid().into(), &owner.file_name().into()));
});

scenario!(the_last_of_two_owners_makes_it_free, |backend| {
    let port = unused_port();
    let mut first = Part::other().on_port(port).start();
    let mut second = Part::other().on(([127, 0, 0, 2], port).into()).start();
    let mut watch = watch(backend, port);
    assert_eq!(watch.held.len(), 2);
    first.end();
    watch.expect("release");
    second.end();
    watch.expect("release");
    watch.expect("free");
});

scenario!(count_ends_the_watch, |backend| {
    let port = unused_port();
    let counting = ["watch", "--count", "1", "--poll-interval", "2ms"];
    let mut watch = Gatewatch::on(backend, &counting, port).watch();
    let _owner = Part::other().on_port(port).start();
    watch.line();
    assert_eq!(watch.end(), 0);
});

scenario!(a_time_ends_the_watch, |backend| {
    let answer = Gatewatch::on(backend, &["watch", "--for", "50ms"], unused_port()).run();
    assert_eq!(answer.status, 0);
    assert_eq!(answer.out.lines().count(), 1, "ready alone: {answer:?}");
});

scenario!(an_interrupt_ends_the_watch_in_order, |backend| {
    let mut watch = watch(backend, unused_port());
    // Wine was seen to lose a key that was pressed on a busy machine; a person would press it again.
    gatewatch_tests::until("an interrupt ends the watch", || {
        watch.interrupt();
        watch.ends_within(Duration::from_secs(3))
    });
    assert_eq!(watch.end(), 0);
});

scenario!(a_reader_that_goes_is_no_failure, |backend| {
    // given a watch that nobody reads any more
    let port = unused_port();
    let mut watch = watch(backend, port);
    watch.stop_reading();
    // when it has something to print, again and again
    gatewatch_tests::until("it finds that out", || {
        // The previous one may be in the way for a moment on systems where servers do not reuse addresses.
        let _owner = Part::other().on_port(port).try_to_start();
        watch.ends_within(Duration::from_secs(1))
    });
    // then it ends, and that is no failure
    assert_eq!(watch.end(), 0);
});
