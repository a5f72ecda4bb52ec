//! What is a restart, and what is none.

use super::*;
use crate::model::{Backend, Port};

const OURS: Whose = Whose::AskedFor(By::Command);

fn event(kind: WatchKind, cookie: u64, at: u64) -> WatchEvent {
    let event = WatchEvent::now(kind, Port::tcp(80), Backend::Ebpf);
    WatchEvent { monotonic_ns: Some(at), cookie: Some(cookie), pid: Some(7), ..event }
}

fn conflict(pid: u32) -> WatchEvent {
    let kind = WatchKind::Conflict { holders: Vec::new(), total: 0 };
    WatchEvent { cookie: None, pid: Some(pid), ..event(kind, 0, 2) }
}

fn started() -> Restart {
    let mut restart = Restart::default();
    restart.command_started(1, Some(7));
    restart
}

#[test]
fn only_a_new_sockets_listen_is_a_restart() {
    let mut restart = Restart::default();
    restart.held_before(&event(WatchKind::Held, 1, 0));
    restart.follow(&event(WatchKind::Release, 1, 5_000), Whose::Unseen);
    restart.command_started(6_000, None);
    restart.follow(&event(WatchKind::Bind, 2, 8_000), OURS);
    assert!(!restart.is_respawned());
    assert_eq!(restart.outcome(), None);
    restart.follow(&event(WatchKind::Listen, 2, 9_000), OURS);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
}

#[test]
fn a_listener_that_is_closed_is_not_the_end_while_its_process_lives() {
    let mut restart = started();
    restart.follow(&event(WatchKind::Listen, 2, 2), OURS);
    restart.follow(&event(WatchKind::Release, 2, 3), OURS);
    assert_eq!(restart.outcome(), None);
    restart.follow(&event(WatchKind::Listen, 3, 4), OURS);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
    // and its end is
    restart.follow(&event(WatchKind::Release, 3, 5), OURS);
    restart.command_ended(6, Some(7), Some(0), false);
    assert_eq!(restart.outcome(), Some(Outcome::Crashed));
}

#[test]
fn a_front_end_that_has_tried_the_port_and_leaves_a_daemon_has_not_crashed() {
    let mut restart = started();
    restart.follow(&event(WatchKind::Listen, 2, 2), OURS);
    restart.follow(&event(WatchKind::Release, 2, 3), OURS);
    restart.command_ended(6, Some(7), Some(0), true);
    assert_eq!(restart.outcome(), None);
}

#[test]
fn nobody_elses_listener_is_the_commands_success() {
    let mut restart = started();
    restart.follow(&event(WatchKind::Listen, 2, 2), Whose::Stranger);
    assert_eq!(restart.outcome(), Some(Outcome::Respawned));
    // a match may be a supervisor's work for the command, until that ends
    for (status, outcome) in [(0, Outcome::Restarted), (1, Outcome::Respawned)] {
        let mut restart = started();
        restart.follow(&event(WatchKind::Listen, 2, 2), Whose::Matching);
        assert_eq!(restart.outcome(), None);
        restart.command_ended(3, Some(9), Some(status), false);
        assert_eq!(restart.outcome(), Some(outcome));
    }
}

#[test]
fn a_match_counts_beside_a_command_that_runs_on_and_does_not_want_the_port() {
    let matching = || {
        let mut restart = started();
        let event = WatchEvent { pid: Some(9), ..event(WatchKind::Listen, 2, 2) };
        restart.follow(&event, Whose::Matching);
        restart
    };
    // a look that is not to be repeated is not yet the end of the time
    assert_eq!((matching().outcome(), matching().out_of_time()), (None, Outcome::Respawned));
    let mut restart = matching();
    restart.time_is_over();
    assert_eq!(restart.out_of_time(), Outcome::Restarted);
    // also one that was refused the port itself before
    let mut late = started();
    late.follow(&conflict(9), Whose::Matching);
    late.follow(&WatchEvent { pid: Some(9), ..event(WatchKind::Listen, 2, 3) }, Whose::Matching);
    late.time_is_over();
    assert_eq!(late.out_of_time(), Outcome::Restarted);
    // nor beside one that is a match itself: it wants the port, and need not be seen to be refused it
    let mut rival = matching();
    rival.is_wanted();
    rival.time_is_over();
    assert_eq!(rival.out_of_time(), Outcome::Respawned);
    // nor beside one whose server was refused it, also when that has ended and will be started again
    let mut refused = matching();
    refused.follow(&conflict(8), OURS);
    refused.ended(8);
    refused.time_is_over();
    assert_eq!(refused.out_of_time(), Outcome::Respawned);
}

#[test]
fn a_listen_that_is_refused_was_none() {
    let mut restart = started();
    restart.follow(&WatchEvent { pid: Some(9), ..event(WatchKind::Listen, 2, 2) }, Whose::Matching);
    restart.follow(&event(WatchKind::Listen, 3, 3), OURS);
    restart.follow(&conflict(7), OURS);
    restart.follow(&event(WatchKind::Release, 3, 4), OURS);
    restart.command_ended(5, Some(7), Some(1), false);
    assert_eq!(restart.outcome(), Some(Outcome::Respawned));
}

#[test]
fn a_stranger_on_another_address_is_in_nobodys_way() {
    let on = |last, cookie| WatchEvent {
        address: Some(([127, 0, 0, last], 80).into()),
        ..event(WatchKind::Listen, cookie, 2)
    };
    for (whose, adopt) in [(Whose::Stranger, false), (Whose::Stranger, true), (Whose::Unseen, false)] {
        let mut restart = Restart { addresses: wanted(1), ..Restart::new(adopt) };
        restart.follow(&on(2, 2), whose);
        assert!(!restart.is_respawned());
        restart.command_started(1, Some(7));
        assert_eq!((restart.outcome(), restart.out_of_time()), (None, Outcome::TimedOut));
        restart.give_up_elsewhere();
        assert!(!restart.has_unseen());
        restart.follow(&on(1, 3), OURS);
        assert_eq!(restart.outcome(), Some(Outcome::Restarted));
    }
    let mut restart = Restart { addresses: wanted(1), ..started() };
    restart.follow(&on(1, 2), Whose::Stranger);
    assert_eq!(restart.outcome(), Some(Outcome::Respawned));
}

#[test]
fn a_stranger_on_all_ipv6_addresses_is_in_ipv4s_way_unless_it_leaves_ipv4_alone() {
    let stranger = WatchEvent {
        address: Some((std::net::Ipv6Addr::UNSPECIFIED, 80).into()),
        ..event(WatchKind::Listen, 2, 2)
    };
    for (alone, outcome) in [(false, Some(Outcome::Respawned)), (true, None)] {
        let mut restart = Restart { addresses: wanted(1), ..started() };
        if alone {
            restart.is_ipv6_alone(&stranger);
        }
        restart.follow(&stranger, Whose::Stranger);
        assert_eq!(restart.outcome(), outcome);
    }
}

fn wanted(last: u8) -> Vec<BindAddress> {
    let address = ([127, 0, 0, last], 80).into();
    vec![BindAddress { protocol: Protocol::Tcp, address, v6_only: true }]
}

#[test]
fn any_owner_can_be_adopted() {
    let mut restart = Restart::new(true);
    restart.follow(&event(WatchKind::Listen, 2, 2), Whose::Stranger);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
}

#[test]
fn the_downtime_is_what_the_timelines_numbers_give() {
    // given moments whose fractions of a microsecond would round in different directions
    let mut restart = Restart::default();
    restart.held_before(&event(WatchKind::Held, 1, 0));
    restart.command_started(100, None);
    restart.follow(&event(WatchKind::Release, 1, 1_900), OURS);
    restart.follow(&event(WatchKind::Listen, 2, 3_100), OURS);
    let cleaned = Cleaned {
        port: Port::tcp(80),
        outcome: Outcome::Cleaned,
        reason: None,
        free_in: None,
        backend: Backend::Ebpf,
        owners: Vec::new(),
        left_out: crate::clean::LeftOut::default(),
        ended_before: None,
        gateways_elsewhere: Vec::new(),
        proof: None,
        elapsed: Duration::ZERO,
    };
    let restarted = restart.finish(cleaned, Outcome::Restarted, None, None);
    let at = |step| restarted.timeline.iter().find(|at| at.step == step).unwrap().at_us;
    let difference = at(Step::Listen) - at(Step::Released);
    assert_eq!(restarted.downtime, u64::try_from(difference).ok().map(Duration::from_micros));
}

#[test]
fn who_lets_go_of_a_free_port_once_the_command_runs_has_not_released_it() {
    // given an old owner, and one in nobody's way, which lets go of the port later
    for (is_free, released) in [(true, 1_000), (false, 3_000)] {
        let mut restart = Restart { is_free, ..Restart::default() };
        restart.held_before(&event(WatchKind::Held, 1, 0));
        restart.held_before(&event(WatchKind::Held, 2, 0));
        restart.follow(&event(WatchKind::Release, 1, 1_000), Whose::Unseen);
        restart.command_started(2_000, None);
        restart.follow(&event(WatchKind::Release, 2, 3_000), Whose::Unseen);
        // then that counts only where the command was started although the port was not free, as a unit's is
        assert_eq!(restart.released, Some(released));
    }
}

#[test]
fn what_nobody_holds_after_a_loss_is_forgotten() {
    let of = |kind, socket: u32| WatchEvent { pid: Some(socket), ..event(kind, socket.into(), 200) };
    let mut restart = Restart::default();
    restart.held_before(&of(WatchKind::Held, 1));
    restart.command_started(100, None);
    restart.follow(&of(WatchKind::Listen, 2), OURS);
    assert!(restart.is_listening());
    // given another observer, which knows no cookies
    let both = [1, 2].map(|socket| WatchEvent { cookie: None, ..of(WatchKind::Held, socket) });
    restart.held_now(&both);
    for held in &both {
        restart.follow(held, OURS);
    }
    assert_eq!(restart.listeners.len(), 1);
    // when the new owner has gone meanwhile
    restart.held_now(&both[..1]);
    assert!(!restart.is_listening());
}

#[test]
fn who_takes_the_port_before_the_command_is_a_supervisors() {
    let mut restart = Restart::default();
    restart.follow(&event(WatchKind::Bind, 2, 1), Whose::Matching);
    assert!(restart.is_respawned());
}

#[test]
fn what_fails_before_the_command_is_not_counted_against_it() {
    let mut restart = Restart::default();
    for pid in [1, 2] {
        restart.follow(&WatchEvent { pid: Some(pid), ..event(WatchKind::Bind, 2, 1) }, Whose::Matching);
        restart.ended(pid);
    }
    restart.command_started(3, None);
    restart.follow(&event(WatchKind::Bind, 3, 4), OURS);
    restart.ended(7);
    assert_eq!(restart.outcome(), None);
    assert_eq!(
        restart.why.as_deref(),
        Some("a new process took the port and ended before it listened, once")
    );
}

#[test]
fn where_ports_are_polled_an_old_owner_is_known_by_address_and_pid() {
    let polled = |kind, pid, at| WatchEvent {
        cookie: None,
        address: Some(([127, 0, 0, 1], 80).into()),
        pid: Some(pid),
        ..event(kind, 0, at)
    };
    let mut restart = Restart::default();
    restart.held_before(&polled(WatchKind::Held, 7, 0));
    restart.follow(&polled(WatchKind::Release, 7, 1), Whose::Unseen);
    restart.command_started(2, None);
    restart.follow(&polled(WatchKind::Listen, 8, 3), OURS);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
}

#[test]
fn a_holder_that_was_unseen_at_first_is_found_later() {
    let listen = WatchEvent { pid: None, ..event(WatchKind::Listen, 2, 2) };
    let mut restart = started();
    restart.follow(&listen, Whose::Unseen);
    assert!(restart.has_unseen());
    assert_eq!((restart.outcome(), restart.out_of_time()), (None, Outcome::Unknown));
    restart.is_held_by(&event(WatchKind::Held, 2, 3), OURS);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
}

#[test]
fn binds_that_fail_are_counted_by_the_processes_that_end_of_them() {
    let mut restart = started();
    for _ in 0..5 {
        restart.follow(&conflict(8), OURS);
    }
    assert_eq!(restart.outcome(), None);
    for pid in [8, 9, 10] {
        assert_eq!(restart.outcome(), None);
        restart.follow(&conflict(pid), OURS);
        restart.ended(pid);
    }
    assert_eq!(restart.outcome(), Some(Outcome::Crashed));
}

#[test]
fn a_listener_beside_the_sockets_that_the_command_got_is_no_new_owner() {
    let mut restart = Restart::default();
    restart.keeps(Instant::now());
    restart.command_started(1, Some(7));
    // the command has one of its own
    restart.follow(&event(WatchKind::Listen, 2, 2), OURS);
    assert!(!restart.is_listening());
    assert!(restart.wants_its_own());
    // nor is it one once it is started again: it belongs to the past
    restart.fell_back();
    restart.command_started(3, Some(7));
    assert!(!restart.is_listening());
    assert_eq!(restart.out_of_time(), Outcome::TimedOut);
    // but the one of the second start is
    restart.follow(&event(WatchKind::Listen, 3, 4), OURS);
    assert!(restart.is_listening());
}

#[test]
fn what_others_fail_to_do_while_the_sockets_are_kept_is_not_the_commands_failure() {
    let mut restart = Restart::default();
    restart.keeps(Instant::now());
    restart.command_started(1, Some(7));
    for pid in 20..30 {
        let whose = if pid % 2 == 0 { Whose::Matching } else { Whose::Unseen };
        restart.follow(&conflict(pid), whose);
        restart.ended(pid);
    }
    restart.follow(&conflict(30), Whose::Matching);
    restart.follow(&WatchEvent { pid: Some(31), ..event(WatchKind::Listen, 2, 2) }, Whose::Matching);
    assert_eq!((restart.outcome(), restart.wants_its_own()), (None, false));
    // but what its own processes do is
    restart.follow(&conflict(7), OURS);
    assert!(restart.wants_its_own());
}

#[test]
fn who_has_taken_the_port_when_the_sockets_are_closed_is_not_forgotten() {
    for (whose, status, outcome) in [
        (Whose::Stranger, None, Outcome::Respawned),
        (Whose::Matching, None, Outcome::Respawned),
        (Whose::Matching, Some(3), Outcome::Respawned),
        // A command that has ended well has had a supervisor start it.
        (Whose::Matching, Some(0), Outcome::Restarted),
    ] {
        let mut restart = Restart::default();
        restart.keeps(Instant::now());
        restart.command_started(1, Some(7));
        if let Some(status) = status {
            restart.command_ended(2, Some(7), Some(status), false);
        }
        restart.follow(&WatchEvent { pid: Some(8), ..event(WatchKind::Listen, 2, 2) }, whose);
        restart.fell_back();
        assert!(restart.is_taken());
        restart.is_not_started_again();
        assert_eq!(restart.outcome(), Some(outcome), "{whose:?} {status:?}");
        assert_eq!(restart.why().is_some(), outcome != Outcome::Restarted);
    }
}

#[test]
fn who_uses_the_sockets_that_were_kept_is_the_new_owner_as_long_as_it_does() {
    let mut restart = Restart::default();
    restart.keeps(Instant::now());
    restart.command_started(1, Some(7));
    let owner = NewOwner { pid: Some(7), uid: None, comm: None, address: None, by: None };
    restart.used_by(owner, By::Command);
    assert_eq!(restart.outcome(), Some(Outcome::Restarted));
    restart.is_used_by_none(None);
    assert_eq!((restart.outcome(), restart.out_of_time()), (None, Outcome::TimedOut));
    restart.is_used_by_none(Some("it can't be seen"));
    assert_eq!(restart.out_of_time(), Outcome::Unknown);
}
