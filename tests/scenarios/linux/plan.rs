//! Nothing is signalled in vain: all is decided before the first signal.

use gatewatch_tests::{Actor, Answer, Gatewatch, Part, can_bind, until, unused_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::clean::{assert_cleaned, clean};

/// Longer than anybody waits, for owners that need not be waited for.
pub(super) const FORCED_AT_ONCE: &[&str] = &["--term-timeout", "10m", "--kill-timeout", "10m"];
/// Shorter than anybody's patience.
pub(super) const SHORT: &[&str] =
    &["--term-timeout", "300ms", "--kill-timeout", "300ms", "--free-timeout", "300ms"];

/// What the owners that were ended were asked with, and how each of them ended. They come in the order of their pids, which is
/// not that of time.
fn ends(answer: &Answer) -> Vec<(Value, Value)> {
    let json = answer.json();
    let ended = json["owners"].as_array().unwrap().iter().filter(|owner| owner["action"] == "killed");
    ended.map(|owner| (owner["asked_by"].clone(), owner["ended_by"].clone())).collect()
}

/// An owner that forks another when it is asked to end was asked, and the other one forced without being asked.
pub(super) fn assert_forced_at_the_second(answer: &Answer, hydra: &Actor) {
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    let mut ends = ends(answer);
    ends.sort_by_key(|(asked_by, _)| asked_by.is_null());
    let [asked, forced] = [("SIGTERM".into(), "SIGTERM".into()), (Value::Null, "SIGKILL".into())];
    assert_eq!(ends, [asked, forced], "{answer:?}");
    assert!(hydra.is_gone());
    assert!(can_bind(hydra.address()));
}

/// Owners of which there is always a next one were ended until the time was over: one was asked, and all others were forced. On a
/// busy machine there is time for few.
pub(super) fn assert_given_up(answer: &Answer, nest: &Actor) {
    assert!([5, 7].contains(&answer.status), "{answer:?}");
    let (asked, forced): (Vec<_>, Vec<_>) =
        ends(answer).into_iter().partition(|(asked_by, _)| !asked_by.is_null());
    assert_eq!(asked.len(), 1, "{answer:?}");
    assert!(forced.iter().all(|(_, ended_by)| ended_by == "SIGKILL"), "{answer:?}");
    assert!(nest.is_gone());
    assert!(!can_bind(nest.address()));
}

scenario!(a_match_whose_socket_another_program_shares_is_not_ended_in_vain, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--sharer", "some-tool"]).start();
    let sharer = gateway.pids[1];
    let answer = clean(backend, gateway.port(), &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "inherited");
    assert!(answer.killed().is_empty());
    assert_eq!(gateway.alive(), [true, true]);
    // then it says who shares it, and what would end both
    let why = answer.owner(gateway.pid())["why"].to_string();
    assert!(why.contains(&sharer.to_string()) && why.contains("--inherited"), "{why}");
    // and people are told by which descriptor each holds it, and the command
    let port = gateway.port().to_string();
    let text = Gatewatch::plain(&["clean", &port, "--backend", backend.name()]).out;
    assert_eq!(text.matches(&format!("it holds 127.0.0.1:{port} (fd ")).count(), 2, "{text}");
    let command = format!(" clean {port} --backend {} --inherited\n", backend.name());
    assert!(text.contains("to end all who hold it:  ") && text.ends_with(&command), "{text}");
});

scenario!(inherited_ends_those_that_share_the_socket_of_a_match, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--sharer", "some-tool"]).start();
    let other = Part::other().on(([127, 0, 0, 2], gateway.port()).into()).start();
    let answer = clean(backend, gateway.port(), &["--inherited"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert!(can_bind(gateway.address()));
    // The one that shares the socket also dies with its parent, and may be on its way out when it is looked at again.
    until("both have ended", || gateway.is_gone());
    // then not those that hold the port by a socket of their own
    assert!(other.is_alive());
});

scenario!(inherited_never_ends_an_ancestor, |backend| {
    // given a gateway whose listener the caller's own parent shares
    let port = unused_port();
    let clean = Gatewatch::on(backend, &["clean"], port).with(&["--inherited", "--match-argv", "^some-tool"]);
    let mut parent =
        Part::other().on_port(port).with(&["--sharer", "some-tool"]).running(&clean.words()).start();
    let lines = [parent.line(), parent.line()];
    assert!(lines.iter().any(|line| line.contains(r#""outcome":"held_by_protected""#)), "{lines:?}");
    assert_eq!(parent.alive(), [true, true]);
});

scenario!(a_restart_ends_nobody_where_the_address_stays_taken, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--sharer", "some-tool"]).start();
    let answer = Gatewatch::on(backend, &["restart"], gateway.port()).with(&["--", "true"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!(answer.json()["command"], Value::Null);
    assert_eq!(gateway.alive(), [true, true]);
});

scenario!(an_owner_that_forks_another_when_asked_is_forced_at_the_second, |backend| {
    let hydra = Part::gateway().on_port(unused_port()).with(&["--on-term", "fork"]).start();
    let answer = clean(backend, hydra.port(), FORCED_AT_ONCE);
    assert_forced_at_the_second(&answer, &hydra);
});

scenario!(owners_that_are_replaced_without_end_are_not_fought_without_end, |backend| {
    let nest = Part::gateway().on_port(unused_port()).with(&["--nest"]).start();
    let answer = clean(backend, nest.port(), SHORT);
    assert_given_up(&answer, &nest);
});

scenario!(a_suspended_owner_is_resumed_to_end_by_itself, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    signal(&gateway, Signal::SIGSTOP);
    let owners = Gatewatch::on(backend, &["owners"], gateway.port()).run();
    assert_eq!(owners.owner(gateway.pid())["stopped"], true, "{owners:?}");
    let answer = clean(backend, gateway.port(), &["--term-timeout", "20s"]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], "SIGTERM");
});

scenario!(another_signal_can_ask, |backend| {
    // given a program that ends by SIGINT as by any signal that it does not handle
    let port = unused_port();
    let gateway = Part::gateway().on_port(port).start();
    let answer = clean(backend, port, &["--signal", "int", "--term-timeout", "20s"]);
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.owner(gateway.pid())["ended_by"], "SIGINT");
});

scenario!(the_timeline_names_the_signal_that_asked, |backend| {
    // given an owner that ends by any signal that it does not handle
    let gateway = || Part::gateway().on_port(unused_port()).start();
    let restart = ["--signal", "HUP", "--term-timeout", "20s", "--listen-timeout", "1ms"];
    let owner = gateway();
    let answer = Gatewatch::on(backend, &["restart"], owner.port()).with(&restart).run().json();
    let first = &answer["timeline"][0];
    assert_eq!((&first["step"], &first["signal"]), (&"sigterm".into(), &"SIGHUP".into()), "{answer}");
    assert_eq!(answer["owners"][0]["asked_by"], "SIGHUP", "{answer}");
    let owner = gateway();
    let text = Gatewatch::in_text(backend, &["restart"], owner.port()).with(&restart).run();
    assert!(text.out.contains("SIGHUP sent") && !text.out.contains("SIGTERM"), "{text:?}");
});

scenario!(an_owner_that_somebody_else_has_killed_is_waited_for, |backend| {
    // given an owner whose memory takes the kernel a while to take back
    let gateway = Part::gateway().on_port(unused_port()).with(&["--memory", "512"]).start();
    signal(&gateway, Signal::SIGKILL);
    let answer = clean(backend, gateway.port(), &["--free-timeout", "20s"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(can_bind(gateway.address()));
});

scenario!(two_cleans_at_once_both_succeed, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).with(&["--memory", "64"]).start();
    let both = [(); 2].map(|()| Gatewatch::on(backend, &["clean"], gateway.port()).spawn());
    for answer in both.map(gatewatch_tests::Running::finish) {
        assert_eq!(answer.status, 0, "{answer:?}");
    }
    assert!(can_bind(gateway.address()));
});

scenario!(what_an_ended_owner_leaves_behind_is_named, |backend| {
    // given a gateway with a child that holds nothing of it
    let port = unused_port();
    let child = ["sleep".to_owned(), "20".to_owned()];
    let gateway = Part::gateway().on_port(port).running(&child).start();
    let answer = clean(backend, port, &[]);
    assert_cleaned(&answer, &gateway);
    let left: Vec<u64> = answer.owner(gateway.pid())["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pid| pid.as_u64().unwrap())
        .collect();
    assert_eq!(left.len(), 1, "{answer:?}");
    kill(Pid::from_raw(i32::try_from(left[0]).unwrap()), Signal::SIGKILL).unwrap();
});

scenario!(a_working_directory_tells_two_checkouts_apart, |backend| {
    let [mine, yours] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let port = unused_port();
    let gateway = Part::gateway().on_port(port).within(mine.path()).start();
    let elsewhere = yours.path().to_str().unwrap();
    let answer = clean(backend, port, &["--match-cwd", elsewhere]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(gateway.is_alive());
    let here = mine.path().to_str().unwrap();
    assert_cleaned(&clean(backend, port, &["--match-cwd", here]), &gateway);
});

fn signal(actor: &Actor, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(actor.pid()).unwrap()), signal).unwrap();
}
