//! `--owner-record`: the live gateway that OpenClaw's own record names is spared.

use std::fs;
use std::path::{Path, PathBuf};

use gatewatch_tests::{Answer, Backend, Gatewatch, Part, unused_port};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, chown, mkfifo};
use rusqlite::Connection;

use crate::clean::{assert_cleaned, clean};

/// OpenClaw's state folder.
struct State {
    folder: tempfile::TempDir,
    /// OpenClaw has its database open as long as it runs.
    database: Connection,
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        let database = Connection::open(database_in(folder.path())).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE state_leases (
                   scope TEXT NOT NULL, lease_key TEXT NOT NULL, owner TEXT NOT NULL, expires_at INTEGER,
                   heartbeat_at INTEGER, payload_json TEXT, created_at INTEGER NOT NULL,
                   updated_at INTEGER NOT NULL, PRIMARY KEY (scope, lease_key)) STRICT;",
            )
            .unwrap();
        Self { folder, database }
    }

    /// With the record of a gateway.
    fn naming(pid: u32, started_at: u64) -> Self {
        let state = Self::new();
        state.write(&format!(
            r#"{{"owner":{{"pid":{pid},"host":"here","startedAt":{started_at}}},"port":1,"mode":"local"}}"#
        ));
        state
    }

    fn write(&self, payload: &str) {
        self.database
            .execute(
                "INSERT OR REPLACE INTO state_leases VALUES ('gateway-owner', 'global', 'x', 1, 1, ?1, 1, 1)",
                [payload],
            )
            .unwrap();
    }

    fn path(&self) -> PathBuf {
        database_in(self.folder.path())
    }
}

fn database_in(state: &Path) -> PathBuf {
    state.join("state/openclaw.sqlite")
}

/// Field 22 of `/proc/PID/stat`.
fn started_at(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
}

fn clean_by(backend: Backend, port: u16, record: &Path) -> Answer {
    clean(backend, port, &["--owner-record", record.to_str().unwrap()])
}

fn assert_spared(answer: &Answer, pid: u32) {
    assert_eq!((answer.status, answer.outcome().as_str()), (4, "held_by_protected"), "{answer:?}");
    assert_eq!(answer.json()["reason"], "protected_by_record");
    assert_eq!(answer.owner(pid)["relation"], "protected");
    assert!(answer.killed().is_empty());
}

/// It is refused in one sentence that says this, and nobody is asked to end.
fn assert_refused(answer: &Answer, said: &str) {
    assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{answer:?}");
    let sentences: Vec<&str> = answer.err.lines().filter(|line| line.contains("--owner-record")).collect();
    assert_eq!(sentences.len(), 1, "{answer:?}");
    assert!(sentences[0].contains(said), "{said:?} is not in {answer:?}");
}

scenario!(the_gateway_that_a_record_names_is_spared, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    // given a row that only the log of changes has as yet
    assert!(fs::metadata(state.path().with_extension("sqlite-wal")).unwrap().len() > 0);
    assert_spared(&clean_by(backend, gateway.port(), &state.path()), gateway.pid());
    let dry =
        clean(backend, gateway.port(), &["--dry-run", "--owner-record", state.path().to_str().unwrap()]);
    assert_spared(&dry, gateway.pid());
    assert!(gateway.is_alive());
    // then not without the flag
    assert_cleaned(&clean(backend, gateway.port(), &[]), &gateway);
});

scenario!(a_restart_spares_the_gateway_that_a_record_names, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    let record = ["--owner-record", state.path().to_str().unwrap(), "--", "true"].map(str::to_owned);
    let record: Vec<&str> = record.iter().map(String::as_str).collect();
    let answer = Gatewatch::on(backend, &["restart"], gateway.port()).with(&record).run();
    assert_spared(&answer, gateway.pid());
    assert_eq!(answer.json()["command"], serde_json::Value::Null);
    assert!(gateway.is_alive());
});

scenario!(a_record_that_openclaw_has_closed_still_counts, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let State { folder, database } = State::naming(gateway.pid(), started_at(gateway.pid()));
    // given no log of changes any more
    database.close().unwrap();
    assert_spared(&clean_by(backend, gateway.port(), &database_in(folder.path())), gateway.pid());
});

scenario!(auto_finds_the_record_by_state_folder_and_by_home, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    let auto = || {
        let clean = Gatewatch::on(backend, &["clean"], gateway.port()).with(&["--owner-record", "auto"]);
        clean.env("OPENCLAW_STATE_DIR", "")
    };
    let by_folder = auto().env("OPENCLAW_STATE_DIR", state.folder.path().to_str().unwrap());
    assert_spared(&by_folder.run(), gateway.pid());
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(state.folder.path(), home.path().join(".openclaw")).unwrap();
    assert_spared(&auto().env("HOME", home.path().to_str().unwrap()).run(), gateway.pid());
    assert!(gateway.is_alive());
    // then a file that is not there is no error
    let empty = tempfile::tempdir().unwrap();
    let answer = auto().env("OPENCLAW_STATE_DIR", empty.path().to_str().unwrap()).run();
    assert_cleaned(&answer, &gateway);
    assert!(!answer.err.contains("owner"), "{answer:?}");
});

scenario!(another_start_time_in_a_record_protects_nobody, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()) - 1);
    assert_cleaned(&clean_by(backend, gateway.port(), &state.path()), &gateway);
});

scenario!(the_record_of_a_dead_gateway_protects_nobody, |backend| {
    let mut dead = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(dead.pid(), started_at(dead.pid()));
    dead.end();
    gatewatch_tests::until("its end", || dead.is_gone());
    let gateway = Part::gateway().on_port(unused_port()).start();
    assert_cleaned(&clean_by(backend, gateway.port(), &state.path()), &gateway);
});

scenario!(a_malformed_record_protects_nobody_and_is_warned_of, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::new();
    state.write(r#"{"owner":{"pid":"secret"}}"#);
    let answer = clean_by(backend, gateway.port(), &state.path());
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.err.matches("malformed").count(), 1, "{answer:?}");
    assert!(!answer.err.contains("secret"), "{answer:?}");
});

scenario!(a_database_without_a_record_protects_nobody, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::new();
    assert_cleaned(&clean_by(backend, gateway.port(), &state.path()), &gateway);
});

scenario!(a_writer_does_not_wait_for_us_nor_we_for_it, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    // given a transaction that is under way, and holds every lock that a writer can
    state.database.execute_batch("BEGIN EXCLUSIVE; DELETE FROM state_leases;").unwrap();
    let wal = || fs::metadata(state.path().with_extension("sqlite-wal")).unwrap().len();
    let before = wal();
    // then what was committed counts
    assert_spared(&clean_by(backend, gateway.port(), &state.path()), gateway.pid());
    assert_eq!(wal(), before);
    state.database.execute_batch("COMMIT").unwrap();
    assert_cleaned(&clean_by(backend, gateway.port(), &state.path()), &gateway);
});

scenario!(a_record_that_is_written_all_the_time_is_read_as_a_whole, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    let path = state.path();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let pause = std::time::Duration::from_millis(5);
    // given heartbeats, and the log written back to the database each time
    let writer = std::thread::spawn(move || {
        while stopped.recv_timeout(pause).is_err_and(|why| why == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            state
                .database
                .execute_batch(
                    "UPDATE state_leases SET heartbeat_at = heartbeat_at + 1; PRAGMA wal_checkpoint(TRUNCATE);",
                )
                .unwrap();
        }
        state
    });
    assert_spared(&clean_by(backend, gateway.port(), &path), gateway.pid());
    drop(stop);
    writer.join().unwrap();
    assert!(gateway.is_alive());
});

scenario!(what_is_not_a_plain_database_is_refused_and_nobody_ended, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    mkfifo(&place("fifo"), Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink(state.path(), place("link")).unwrap();
    fs::create_dir(place("folder")).unwrap();
    fs::write(place("text"), "no database ".repeat(1000)).unwrap();
    fs::File::create(place("large")).unwrap().set_len((64 << 20) + 1).unwrap();
    fs::copy(state.path(), place("log")).unwrap();
    mkfifo(&place("log-wal"), Mode::S_IRWXU).unwrap();
    for (name, said) in [
        ("missing", "there is no such file"),
        ("fifo", "not a regular file"),
        ("link", "it is a link"),
        ("folder", "not a regular file"),
        ("text", "not a sound SQLite database"),
        ("large", "larger than 64 MiB"),
        ("log", "not a regular file"),
    ] {
        assert_refused(&clean_by(backend, gateway.port(), &place(name)), said);
        assert!(gateway.is_alive());
    }
    // then also where it was found rather than named
    for name in ["fifo", "link"] {
        let found = folder.path().join(format!("auto-{name}"));
        fs::create_dir_all(found.join("state")).unwrap();
        fs::rename(place(name), database_in(&found)).unwrap();
        let answer = Gatewatch::on(backend, &["clean"], gateway.port())
            .with(&["--owner-record", "auto"])
            .env("OPENCLAW_STATE_DIR", found.to_str().unwrap())
            .run();
        assert_refused(&answer, "");
        assert!(gateway.is_alive());
    }
});

scenario!(a_view_in_the_tables_place_is_not_run, |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::new();
    // given one that has no end
    state
        .database
        .execute_batch(
            "DROP TABLE state_leases;
             CREATE VIEW state_leases AS
               WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)
               SELECT 'gateway-owner' AS scope, 'global' AS lease_key, NULL AS payload_json
               FROM n WHERE i < 0;",
        )
        .unwrap();
    assert_cleaned(&clean_by(backend, gateway.port(), &state.path()), &gateway);
});

scenario!(a_strangers_record_is_refused, needs(Root), |backend| {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let state = State::naming(gateway.pid(), started_at(gateway.pid()));
    let nobody = Some(Uid::from_raw(65534));
    chown(&state.path(), nobody, None).unwrap();
    assert_refused(&clean_by(backend, gateway.port(), &state.path()), "it belongs to user 65534");
    // then not that of the user whose folder was named
    chown(&state.folder.path().join("state"), nobody, None).unwrap();
    assert_spared(&clean_by(backend, gateway.port(), &state.path()), gateway.pid());
});

scenario!(the_agent_cannot_be_asked_to_read_a_record, || {
    let port = unused_port().to_string();
    let words = ["clean", "-p", &port, "--agent", "only", "--owner-record", "auto"];
    let answer = Gatewatch::plain(&words);
    assert_eq!(answer.status, 2, "{answer:?}");
    assert!(answer.err.contains("the agent can't be asked"), "{answer:?}");
});
