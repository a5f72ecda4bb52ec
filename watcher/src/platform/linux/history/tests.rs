use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::model::{
    Action, Backend, CleanTold, Described, Gap, GapReason, LostIn, Outcome, OwnerTold, Port, Record, Span,
    Told, WatchEvent, WatchKind,
};
use crate::platform::contract::{Batch, Exported};

const PORT: Port = Port::tcp(80);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn event(number: u64, seconds: u64, kind: WatchKind) -> Record {
    let told = WatchEvent {
        time: at(seconds),
        pid: Some(7),
        uid: Some(0),
        comm: Some("server".to_owned()),
        thread: Some("worker".to_owned()),
        address: Some(([127, 0, 0, 1], 80).into()),
        netns: Some(5),
        cookie: Some(u64::MAX),
        delay: Some(Duration::from_micros(3)),
        monotonic_ns: Some(9),
        ..WatchEvent::now(kind, PORT, Backend::Ebpf)
    };
    let process = Described { argv: Some(vec!["server".to_owned(), String::new()]), ..Described::default() };
    Record { number, told: Told::Event(told), process, found: false }
}

/// A history with these records, each with the number of the record of its beginning if it ends a socket.
fn written(
    records: Vec<(Record, Option<u64>)>,
    opened: &[u64],
) -> (tempfile::TempDir, PathBuf, write::Writer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.sqlite");
    let mut writer = write::Writer::open(&path, at(0)).unwrap();
    let opened = opened.iter().map(|&number| (number, true)).collect();
    writer.append(&Batch { records, opened, closed: Vec::new() }).unwrap();
    (folder, path, writer)
}

fn span(since: u64, until: u64) -> Span {
    Span { ports: vec![PORT], netns: None, since: at(since), until: at(until) }
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.number).collect()
}

#[test]
fn records_are_read_as_they_were_written() {
    let clean = CleanTold {
        time: at(2),
        port: PORT,
        netns: Some(5),
        pid: Some(8),
        uid: Some(1000),
        comm: Some("sh".to_owned()),
        dry_run: false,
        outcome: Outcome::Cleaned,
        reason: None,
        elapsed: Duration::from_millis(3),
        owners: vec![OwnerTold {
            pid: Some(7),
            uid: Some(0),
            comm: Some("server".to_owned()),
            address: Some("[fe80::1%3]:80".parse().unwrap()),
            action: Action::Killed,
            ended_by: Some("SIGTERM".to_owned()),
            ended_after: Some(Duration::from_micros(9)),
            why: "it matches".to_owned(),
            process: Described { unit: Some("a.service".to_owned()), ..Described::default() },
        }],
    };
    let told = |number, told| Record { number, told, process: Described::default(), found: true };
    let records = vec![
        event(1, 1, WatchKind::Bind),
        told(2, Told::Clean(Box::new(clean))),
        told(3, Told::Gap(Gap { from: Some(at(2)), until: at(3), why: GapReason::Killed })),
        event(4, 4, WatchKind::Lost { count: Some(9), lost_in: LostIn::Anywhere }),
    ];
    let (_folder, path, writer) =
        written(records.iter().cloned().map(|record| (record, None)).collect(), &[]);
    let mut reader = read::Reader::open(&path).unwrap();
    assert_eq!(reader.page(&span(0, 9), 0, 10).unwrap(), records);
    // what concerns all ports is told with any of them
    let other = Span { ports: vec![Port::tcp(81)], ..span(0, 9) };
    assert_eq!(numbers(&reader.page(&other, 0, 10).unwrap()), [3, 4]);
    let many = Span { ports: (1..=200).map(Port::tcp).collect(), ..span(0, 9) };
    assert_eq!(reader.page(&many, 0, 10).unwrap(), records);
    // and a page goes on after the one before
    assert_eq!(numbers(&reader.page(&span(0, 9), 1, 2).unwrap()), [2, 3]);
    drop(writer);
}

#[test]
fn the_order_is_that_of_the_numbers_where_the_clock_was_set_back() {
    let records = vec![
        (event(1, 3000, WatchKind::Listen), None),
        (event(2, 3001, WatchKind::Release), Some(1)),
        (event(3, 100, WatchKind::Listen), None),
        (event(4, 101, WatchKind::Release), Some(3)),
        (event(5, 3000, WatchKind::Listen), None),
    ];
    let (_folder, path, _writer) = written(records, &[5]);
    let mut reader = read::Reader::open(&path).unwrap();
    assert_eq!(numbers(&reader.page(&span(0, 9000), 0, 10).unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(&reader.page(&span(2000, 9000), 0, 10).unwrap()), [1, 2, 5]);
    assert_eq!(numbers(&reader.held(&span(101, 200)).unwrap()), [3]);
    assert_eq!(numbers(&reader.held(&span(9000, 9001)).unwrap()), [5]);
}

#[test]
fn whoever_held_the_port_when_the_span_began_is_held() {
    let records = vec![
        (event(1, 10, WatchKind::Listen), None),
        (event(2, 20, WatchKind::Release), Some(1)),
        (event(3, 30, WatchKind::Listen), None),
    ];
    let (_folder, path, mut writer) = written(records, &[3]);
    let mut reader = read::Reader::open(&path).unwrap();
    for (since, held) in [(5, vec![]), (11, vec![1]), (20, vec![1]), (21, vec![]), (31, vec![3])] {
        assert_eq!(numbers(&reader.held(&span(since, 100)).unwrap()), held, "{since}");
    }
    let record = reader.held(&span(11, 100)).unwrap().remove(0);
    assert!(matches!(&record.told, Told::Event(told) if told.kind == WatchKind::Held && told.time == at(10)));
    // in another namespace nobody did
    assert!(reader.held(&Span { netns: Some(6), ..span(11, 100) }).unwrap().is_empty());
    // and what is old goes, but not the beginning of what still is
    while writer.trim(Duration::ZERO, 1 << 30).unwrap() {}
    assert!(reader.page(&span(0, 29), 0, 10).unwrap().is_empty());
    assert_eq!(numbers(&reader.held(&span(31, 100)).unwrap()), [3]);
    assert!(reader.reach().unwrap().since > at(20));
    let open = writer.open_sockets().unwrap();
    assert_eq!((open.len(), open[0].began, open[0].key.cookie), (1, 3, Some(u64::MAX)));
}

#[test]
fn what_events_have_in_common_is_written_once() {
    let records = (1..=100).map(|number| (event(number, number, WatchKind::Listen), None)).collect();
    let (_folder, path, mut writer) = written(records, &[]);
    writer
        .append(&Batch { records: vec![(event(101, 101, WatchKind::Free), None)], ..Batch::default() })
        .unwrap();
    let database = Connection::open(&path).unwrap();
    for table in ["process", "description"] {
        let count = database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        assert_eq!(count, Ok(1), "{table}");
    }
}

#[test]
fn no_number_is_given_twice_also_where_all_was_deleted() {
    let records = vec![(event(1, 0, WatchKind::Listen), None), (event(2, 1, WatchKind::Free), None)];
    let (_folder, path, mut writer) = written(records, &[]);
    assert!(writer.trim(Duration::from_secs(1), u64::MAX).unwrap());
    drop(writer);
    assert_eq!(write::Writer::open(&path, at(2)).unwrap().next_number(), 3);
    let numbers = read::Reader::open(&path).unwrap().numbers().unwrap();
    assert_eq!((numbers.last, numbers.trimmed, numbers.exported), (2, 2, None));
}

#[test]
fn how_far_the_records_were_exported_is_kept_with_them() {
    let records = (1..=3).map(|number| (event(number, number, WatchKind::Free), None)).collect();
    let (_folder, path, mut writer) = written(records, &[]);
    let exported = Exported { through: 1, origin: 0 };
    writer.note_exported(exported).unwrap();
    drop(writer);
    let mut reader = read::Reader::open(&path).unwrap();
    assert_eq!(reader.numbers().unwrap().exported, Some(exported));
    assert_eq!(numbers(&reader.after(1, 10).unwrap()), [2, 3]);
    assert_eq!(numbers(&reader.after(0, 2).unwrap()), [1, 2]);
}
