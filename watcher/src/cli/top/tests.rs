//! The screen as it is drawn, and what keys do, without a terminal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::text::clock::Clock;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw::{Canvas, Theme};
use super::keys::Action;
use super::question::{Dialog, Plan};
use super::state::State;
use crate::model::{
    Backend, Described, Descriptor, Gap, GapReason, NamedProcess, Port, Process, Protocol, Record, Socket,
    SocketState, StartTime, Told, Verdict, WatchEvent, WatchKind,
};
use crate::steps::fake::process;
use crate::steps::owner::{Holding, Owner, Owners};

/// When all of this happens: 14:03:05 of a day.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(86_400 * 20_000 + 50_585)
}

fn after(seconds: u64) -> SystemTime {
    noon() + Duration::from_secs(seconds)
}

fn server(pid: u32, comm: &str, hours: u64) -> Process {
    let started = noon() - Duration::from_secs(3_600 * hours);
    Process {
        pid,
        comm: comm.to_owned(),
        start_time: StartTime { raw: u64::from(pid), wall: started },
        user: Some("me".to_owned()),
        unit: Some(format!("{comm}.service")),
        ..process(&[comm, "--serve"])
    }
}

fn owned_by(port: u16, processes: &[Process]) -> Owners {
    let owner = |process: &Process| {
        let address = ([127, 0, 0, 1], port).into();
        let descriptor = Descriptor { pid: process.pid, fd: None };
        let socket = Socket {
            descriptors: vec![descriptor.clone()],
            ..Socket::new(Protocol::Tcp, address, SocketState::Listen)
        };
        Owner {
            process: Some(process.clone()),
            pid: Some(process.pid),
            age: Some(Duration::from_secs(3_600)),
            uid: Some(1000),
            holdings: vec![Holding { socket, descriptor: Some(descriptor) }],
            other_ports: None,
            verdict: Verdict::Other,
            why: "its package is not OpenClaw".to_owned(),
            exclusion: None,
            spared_for: None,
            inherits: false,
        }
    };
    Owners { owners: processes.iter().map(owner).collect(), ..Owners::nobody(Port::tcp(port), Backend::Ebpf) }
}

fn event(kind: WatchKind, port: u16, pid: u32, comm: &str, second: u64) -> WatchEvent {
    WatchEvent {
        time: after(second),
        pid: Some(pid),
        comm: Some(comm.to_owned()),
        address: Some(([127, 0, 0, 1], port).into()),
        ..WatchEvent::now(kind, Port::tcp(port), Backend::Ebpf)
    }
}

fn conflict(port: u16, pid: u32, second: u64) -> WatchEvent {
    let holders = vec![NamedProcess { pid: Some(812), comm: Some("node".to_owned()), address: None }];
    event(WatchKind::Conflict { holders, total: 1 }, port, pid, "vite", second)
}

/// A host on which node holds 3000, a gateway 18789 with a worker, and postgres 5432; 8080 is free again.
fn state() -> State {
    let mut state = State::new(Vec::new(), "by kernel events".to_owned(), noon());
    let node = server(812, "node", 3);
    let gateway = [server(4100, "openclaw-gatewa", 26), server(4101, "openclaw-gatewa", 26)];
    let all = vec![
        owned_by(3000, &[node]),
        owned_by(18789, &gateway),
        owned_by(5432, &[server(77, "postgres", 300)]),
    ];
    state.owned_all(all, noon());
    for told in [
        event(WatchKind::Held, 3000, 812, "node", 0),
        event(WatchKind::Release, 8080, 500, "caddy", 10),
        event(WatchKind::Free, 8080, 500, "caddy", 10),
        event(WatchKind::Listen, 8080, 501, "caddy", 12),
        event(WatchKind::Release, 8080, 501, "caddy", 20),
        event(WatchKind::Free, 8080, 501, "caddy", 20),
        conflict(3000, 900, 30),
        conflict(3000, 901, 31),
        conflict(3000, 902, 40),
    ] {
        state.happened(&told);
    }
    state
}

/// What is drawn at so many columns and lines, a minute later.
fn drawn(state: &mut State, columns: u16, lines: u16) -> String {
    drawn_at(state, columns, lines, after(60))
}

fn drawn_at(state: &mut State, columns: u16, lines: u16, now: SystemTime) -> String {
    let mut canvas = Canvas::new(Theme { has_colours: false }, Clock::new(true));
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| canvas.draw(frame, state, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let text = buffer.content.chunks(columns.into()).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    text.collect()
}

fn press(state: &mut State, key: KeyCode) -> Option<Action> {
    state.press(KeyEvent::new(key, KeyModifiers::NONE), after(60))
}

fn type_all(state: &mut State, text: &str) {
    for sign in text.chars() {
        assert!(press(state, KeyCode::Char(sign)).is_none());
    }
}

fn plan() -> Plan {
    let answer = vec!["port 3000 would be cleaned".to_owned()];
    let targets = vec![server(812, "node", 3)];
    Plan { port: Port::tcp(3000), answer, chosen: targets.clone(), targets, by_agent: false }
}

#[test]
fn sixty_columns_are_enough() {
    let expected = "\
3 ports held, 1 free  by kernel events, since 14:03:05
  PORT▼  OWNER            LAST EVENT      AGE    CONF  REST
> 3000   node 812         conflict 20 s   3 h    3
  5432   postgres 77                      12 d
  8080   free             free 40 s                    1
  18789  opencla… 4100 +1                 1 d

Enter detail  / filter  s sort  c clean  ? help  q quit
";
    assert_eq!(drawn(&mut state(), 60, 8), expected);
}

#[test]
fn what_was_said_leaves_the_keys_where_they_are() {
    let mut state = state();
    state.note =
        Some("ports are polled, so no bind or conflict is seen; run as root (-v says why)".to_owned());
    let shown = drawn(&mut state, 60, 10);
    let lines: Vec<&str> = shown.lines().rev().take(3).collect();
    assert_eq!(
        lines,
        [
            "Enter detail  / filter  s sort  c clean  ? help  q quit",
            "root (-v says why)",
            "ports are polled, so no bind or conflict is seen; run as"
        ]
    );
    // and however long it is, ports are seen
    state.note = Some("said ".repeat(500));
    assert!(drawn(&mut state, 60, 10).contains("5432"));
}

#[test]
fn a_wide_terminal_has_all_columns_and_a_narrow_one_the_first() {
    let wide = drawn(&mut state(), 150, 8);
    let titles = "PORT▼  OWNER            LAST EVENT      AGE    CONF  REST  UNIT                 USER       ADDRESS          COMMAND";
    assert_eq!(wide.lines().nth(1).unwrap().trim(), titles);
    assert!(wide.contains("postgres.service     me         127.0.0.1        postgres --serve"), "{wide}");
    let narrow = drawn(&mut state(), 30, 6);
    assert_eq!(narrow.lines().nth(2).unwrap(), "> 3000   node 812");
}

#[test]
fn a_udp_port_is_shown_whole_and_its_next_bind_is_a_restart() {
    let mut state = State::new(Vec::new(), String::new(), noon());
    let port = Port { protocol: Protocol::Udp, number: 50_053 };
    for (kind, second) in [(WatchKind::Bind, 1), (WatchKind::Free, 2), (WatchKind::Bind, 3)] {
        state.happened(&WatchEvent { port, ..event(kind, 50_053, 9, "dns", second) });
    }
    assert!(drawn(&mut state, 60, 6).contains("> 50053/udp "));
    assert_eq!(state.shown(after(60))[0].restarts.count(after(60)), 1);
}

#[test]
fn a_port_is_shown_with_its_owner_and_its_timeline() {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    let shown = drawn(&mut state, 60, 18);
    for part in [
        "port 3000 is held by one process\n  node (pid 812)\n        holds     127.0.0.1:3000\n",
        "        identity  other: its package is not OpenClaw\n",
        "since 14:03:05: 3 conflicts, no restart\n  14:03:35  conflict  vite (pid 900)  127.0.0.1; held by\nnode  ×3 in 10.00 s\n",
        "  14:03:05  held      node (pid 812)  127.0.0.1\n",
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
    // and a key leads back, with the same port selected
    press(&mut state, KeyCode::Esc);
    assert!(drawn(&mut state, 60, 8).contains("> 3000"));
}

/// A record of the history.
fn record(told: Told) -> Record {
    Record { number: 1, told, process: Described::default(), found: false }
}

#[test]
fn an_agents_history_is_counted_as_if_the_screen_had_been_there() {
    // given a history of two hours, with a restart and a conflict in it, and an agent that was started anew
    let mut state = State::new(Vec::new(), "by the agent".to_owned(), after(3_600));
    let gap = |from, until| Told::Gap(Gap { from, until, why: GapReason::Stopped });
    let conflict = conflict(8080, 900, 1_200);
    let begun = WatchEvent { cookie: Some(7), ..event(WatchKind::Listen, 8080, 501, "caddy", 3_599) };
    let past = [
        gap(None, noon()),
        Told::Event(event(WatchKind::Held, 8080, 500, "caddy", 60)),
        Told::Event(conflict),
        gap(Some(after(1_300)), after(1_400)),
        Told::Event(event(WatchKind::Free, 8080, 500, "caddy", 3_000)),
        Told::Event(begun.clone()),
    ];
    state.remember(&past.map(record), after(3_600));
    // when events come that it has told already, and the current owner
    state.happened(&begun);
    state.happened(&WatchEvent { kind: WatchKind::Held, time: after(3_600), ..begun });
    state.owned_all(vec![owned_by(8080, &[server(501, "caddy", 0)])], after(3_600));
    // then all is there once
    let shown = |state: &mut State| drawn_at(state, 60, 14, after(3_610));
    let list = shown(&mut state);
    assert!(list.starts_with("1 port held  by the agent, the last hour, with gaps\n"), "{list}");
    assert!(list.contains("> 8080   caddy 501        listen 11 s"), "{list}");
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::PageDown);
    let detail = shown(&mut state);
    let expected = "\
in the last hour, as far as it is known: 1 conflict, 1
restart
  15:03:04  listen    caddy (pid 501)  127.0.0.1
  14:53:05  free      caddy (pid 500)  127.0.0.1
  14:26:25  gap       nothing is known since 14:24:45
  14:23:05  conflict  vite (pid 900)  127.0.0.1; held by
node
  14:04:05  held      caddy (pid 500)  127.0.0.1
";
    assert!(detail.contains(expected), "{detail}");
}

#[test]
fn a_history_that_began_just_now_is_no_hour() {
    let mut state = State::new(Vec::new(), "by the agent".to_owned(), after(30));
    let gap = Gap { from: None, until: after(10), why: GapReason::NotKept };
    state.remember(&[record(Told::Gap(gap))], after(30));
    assert!(drawn(&mut state, 60, 8).starts_with("0 ports held  by the agent, since 14:03:15\n"));
}

#[test]
fn ports_are_sorted_by_each_column_and_the_other_way_round() {
    let mut state = state();
    let order =
        |state: &State| -> Vec<u16> { state.shown(after(60)).iter().map(|row| row.port.number).collect() };
    let mut seen = vec![order(&state)];
    for _ in 0..5 {
        press(&mut state, KeyCode::Char('s'));
        seen.push(order(&state));
    }
    let by_port = vec![3000, 5432, 8080, 18789];
    let by_owner = vec![3000, 18789, 5432, 8080];
    let by_last = vec![3000, 8080, 5432, 18789];
    let by_age = vec![5432, 18789, 3000, 8080];
    let by_conflicts = by_port.clone();
    let by_restarts = vec![8080, 3000, 5432, 18789];
    assert_eq!(seen, [by_port, by_owner, by_last, by_age, by_conflicts, by_restarts]);
    press(&mut state, KeyCode::Char('r'));
    assert_eq!(order(&state), [18789, 5432, 3000, 8080]);
    assert!(drawn(&mut state, 60, 8).contains("REST▲"));
    press(&mut state, KeyCode::Char('S'));
    assert_eq!(order(&state), [3000, 5432, 8080, 18789]);
}

#[test]
fn what_is_selected_stays_selected_where_the_order_changes() {
    let mut state = state();
    press(&mut state, KeyCode::Down);
    for _ in 0..8 {
        assert_eq!(state.chosen(after(60)), Some(Port::tcp(5432)));
        press(&mut state, KeyCode::Char('s'));
    }
    press(&mut state, KeyCode::End);
    assert_eq!(state.chosen(after(60)), Some(Port::tcp(18789)));
    press(&mut state, KeyCode::Home);
    assert_eq!(state.chosen(after(60)), Some(Port::tcp(3000)));
}

#[test]
fn typing_filters_by_port_name_unit_and_command() {
    for (text, ports) in [
        ("54", &[5432][..]),
        ("NODE", &[3000]),
        ("openclaw-gatewa.service", &[18789]),
        ("--serve", &[3000, 5432, 18789]),
        ("pid 4101", &[18789]),
        ("q", &[]),
    ] {
        let mut state = state();
        press(&mut state, KeyCode::Char('/'));
        // a letter that is a key elsewhere is only a letter here
        type_all(&mut state, text);
        let shown: Vec<u16> = state.shown(after(60)).iter().map(|row| row.port.number).collect();
        assert_eq!(shown, ports, "{text}");
        assert!(drawn(&mut state, 60, 8).contains(&format!("filter: {text}_")));
        press(&mut state, KeyCode::Enter);
        press(&mut state, KeyCode::Esc);
        assert_eq!(state.shown(after(60)).len(), 4);
    }
}

#[test]
fn a_clean_is_a_dry_run_first_and_its_question_is_no_unless_yes() {
    for (key, is_confirmed) in [
        (KeyCode::Char('y'), true),
        (KeyCode::Char('Y'), true),
        (KeyCode::Char('n'), false),
        (KeyCode::Char('c'), false),
        (KeyCode::Enter, false),
        (KeyCode::Esc, false),
        (KeyCode::Char('q'), false),
        (KeyCode::Char(' '), false),
    ] {
        let mut state = state();
        assert!(
            matches!(press(&mut state, KeyCode::Char('c')), Some(Action::DryRun(port)) if port.number == 3000)
        );
        // while the dry run goes on, a yes is nothing yet
        assert!(press(&mut state, KeyCode::Char('y')).is_none());
        assert!(matches!(state.dialog, Some(Dialog::Looking(_))));
        state.dialog = Some(Dialog::Ask(plan()));
        let shown = drawn(&mut state, 60, 14);
        assert!(
            shown.contains("dry run, no process was signalled") && shown.contains("End it? [y/N]"),
            "{shown}"
        );
        let action = press(&mut state, key);
        assert_eq!(matches!(action, Some(Action::Clean(_))), is_confirmed, "{key:?}");
        assert_eq!(matches!(state.dialog, Some(Dialog::Cleaning(_))), is_confirmed, "{key:?}");
    }
}

#[test]
fn the_question_is_seen_however_long_the_answer_is() {
    let mut state = state();
    let answer = (0..100).map(|line| format!("line {line}")).collect();
    state.dialog = Some(Dialog::Ask(Plan { answer, ..plan() }));
    assert!(drawn(&mut state, 60, 12).contains("End it? [y/N]"));
}

#[test]
fn a_plan_is_the_same_only_for_the_same_processes() {
    let plan = plan();
    assert!(plan.is_same(&plan));
    let mut later = server(812, "node", 3);
    later.start_time.raw += 1;
    let two = vec![server(812, "node", 3), server(813, "node", 3)];
    for targets in [vec![later], vec![server(813, "node", 3)], two, Vec::new()] {
        let other = Plan { targets, ..self::plan() };
        assert!(!plan.is_same(&other) && !other.is_same(&plan));
    }
}

#[test]
fn free_ports_are_forgotten_in_time_and_asked_ones_never() {
    let mut state = State::new(vec![Port::tcp(1)], String::new(), noon());
    for port in 10_000..11_000 {
        state.happened(&event(WatchKind::Free, port, 1, "x", u64::from(port - 10_000)));
    }
    state.owned_all(Vec::new(), after(1_000));
    let shown = state.shown(after(1_000));
    assert_eq!(shown.len(), 101);
    assert!(shown.iter().any(|row| row.port.number == 10_999) && shown[0].port.number == 1);
    state.owned_all(Vec::new(), after(10_000));
    assert_eq!(state.shown(after(10_000)).len(), 1);
}

#[test]
fn a_look_that_comes_before_the_event_forgets_nothing() {
    let mut state = state();
    state.owned_all(Vec::new(), after(9_000));
    assert!(state.shown(after(9_000)).iter().any(|row| row.port.number == 5432));
    state.happened(&event(WatchKind::Free, 5432, 77, "postgres", 9_000));
    state.happened(&event(WatchKind::Listen, 5432, 78, "postgres", 9_001));
    let shown = state.shown(after(9_001));
    assert_eq!(shown.iter().find(|row| row.port.number == 5432).unwrap().restarts.count(after(9_001)), 1);
}

#[test]
fn what_steers_a_terminal_is_not_drawn() {
    let mut state = State::new(Vec::new(), String::new(), noon());
    state.owned_all(vec![owned_by(80, &[server(7, "\u{1b}[2Jx\u{202e}", 1)])], noon());
    state.happened(&event(WatchKind::Listen, 80, 7, "\u{1b}]0;x\u{7}", 1));
    for _ in 0..2 {
        let shown = drawn(&mut state, 150, 14);
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
        press(&mut state, KeyCode::Enter);
    }
}

/// Keys that do something, and some that don't.
fn keys() -> impl Strategy<Value = KeyCode> {
    let named = [
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::PageDown,
        KeyCode::Backspace,
        KeyCode::Tab,
    ];
    prop_oneof![
        proptest::sample::select(named.to_vec()),
        proptest::sample::select("cyYnqsSr/jk?3 ".chars().map(KeyCode::Char).collect::<Vec<_>>()),
    ]
}

proptest! {
    /// Whatever is typed, and however often dry runs are answered in between: nothing is cleaned but by a yes to a question
    /// that was there.
    #[test]
    fn nothing_is_cleaned_without_a_yes(typed in prop::collection::vec(keys(), 0..200), answers in any::<u64>()) {
        let mut state = state();
        for (at, key) in typed.into_iter().enumerate() {
            let asked = matches!(state.dialog, Some(Dialog::Ask(_)));
            let is_yes = matches!(key, KeyCode::Char('y' | 'Y'));
            if let Some(Action::Clean(_)) = press(&mut state, key) {
                prop_assert!(asked && is_yes);
            }
            if answers >> (at % 64) & 1 == 1 && matches!(state.dialog, Some(Dialog::Looking(_))) {
                state.dialog = Some(Dialog::Ask(plan()));
            }
        }
    }

    #[test]
    fn any_size_can_be_drawn(columns in 0u16..200, lines in 0u16..60, typed in prop::collection::vec(keys(), 0..20)) {
        let mut state = state();
        for key in typed {
            press(&mut state, key);
        }
        if columns > 0 {
            drawn(&mut state, columns, lines);
            state.dialog = Some(Dialog::Ask(plan()));
            drawn(&mut state, columns, lines);
        }
    }
}
