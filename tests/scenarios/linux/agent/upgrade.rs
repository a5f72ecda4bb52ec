//! The host agent is replaced, as by an upgrade: nobody who asks, waits or watches has to notice.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use gatewatch_tests::{Connection, Gatewatch, Managed, Part, config, until, unused_port};
use nix::sys::signal::Signal;

/// Set once this is dropped, also by a failure: who asks all the time would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A command that asks the agent there.
fn ask(socket: &Path, choice: &str, command: &[&str], port: u16) -> Gatewatch {
    Gatewatch::new(command).with(&["--agent", choice, "--socket", socket.to_str().unwrap()]).with(&[
        "--format",
        "json",
        "-p",
        &port.to_string(),
    ])
}

scenario!(an_upgrade_under_load_fails_no_caller, needs(Bpf), || {
    const UPGRADES: usize = 3;
    let gateway = Part::gateway().on_port(unused_port()).start();
    let (held, free, later) = (gateway.port(), unused_port(), unused_port());
    let mut agent = Managed::start(&config(&[(held, ""), (free, ""), (later, "")]));
    agent.notice("READY=1");
    // given some who wait and watch for long
    let socket = &agent.socket();
    let mut watching = ask(socket, "only", &["watch"], later).watch();
    let waiting = ["only", "auto"].map(|choice| {
        let command = ["wait", "listening", "--timeout", "5m"];
        ask(socket, choice, &command, later).spawn()
    });
    // and many who ask all the time
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let commands: [(&[&str], u16); 4] = [
        (&["owners"], held),
        (&["wait", "listening", "--timeout", "1m"], held),
        (&["wait", "free", "--timeout", "1m"], free),
        (&["clean"], free),
    ];
    let askers = ["only", "auto"].iter().flat_map(|choice| commands.map(|command| (choice, command)));
    let askers: Vec<_> = askers.collect();
    thread::scope(|scope| {
        let (over, answered) = (&over, &answered);
        for &(choice, (command, port)) in &askers {
            scope.spawn(move || {
                let _over = Over(over);
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(socket, choice, command, port).run();
                    assert_eq!(answer.status, 0, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // when it is upgraded again and again
        let _over = Over(over);
        for _ in 0..UPGRADES {
            let before = answered.load(Ordering::Relaxed);
            let more = || answered.load(Ordering::Relaxed) >= before + askers.len();
            until("they were answered", more);
            agent.replace();
            agent.notice("READY=1");
        }
    });
    // then those who waited are told, and who watched, too, after what was lost
    let _owner = Part::other().on_port(later).start();
    for waiting in waiting {
        let answer = waiting.finish();
        assert_eq!((answer.status, answer.outcome().as_str()), (0, "listening"), "{answer:?}");
    }
    let lines = watching.up_to("listen");
    let lost = lines.iter().filter(|line| line["event"] == "lost").count();
    assert!((1..=UPGRADES).contains(&lost), "{lines:?}");
    assert!(gateway.is_alive());
});

scenario!(sigterm_ends_waits_and_watches_at_once, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Managed::start(&config(&[(gateway.port(), "")]));
    agent.notice("READY=1");
    // given one who waits, one who watches, one who watches and reads nothing, and one who has not asked yet
    let [mut waiting, mut watching, mut stuck, mut late] = [(); 4].map(|()| Connection::new(&agent.socket()));
    let port = gateway.port();
    assert!(waiting.write(&format!("GET /v1/ports/{port}/wait?until=free HTTP/1.1\r\nhost: x\r\n\r\n")));
    assert!(watching.write("GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n"));
    assert!(stuck.write("GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n"));
    until("the watches have begun", || watching.has_answered() && stuck.has_answered());
    // as the last one's connection is taken, so are those before it
    assert_eq!(agent.get("/healthz").status, 200);
    // when the agent has to end
    agent.signal(Signal::SIGTERM);
    agent.notice("STOPPING=1");
    // then the one who asks now is answered
    let answer = late.ask_and_stay("/healthz");
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = waiting.rest();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.to_lowercase().contains("retry-after"), "{answer:?}");
    // and the stream ends as HTTP's do, not in the middle
    assert!(watching.rest().body.ends_with("0\r\n\r\n"));
});
