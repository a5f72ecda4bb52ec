//! The host agent remembers what it ended, and for how many callers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use gatewatch_tests::{Agent, Gatewatch, Part, unused_port};
use serde_json::{Value, json};

/// A supervisor: a shell that runs a command whenever it is told to.
struct Supervisor(Child);

impl Supervisor {
    fn new(command: &Gatewatch) -> Self {
        // A subshell, as most supervisors start one for a command.
        let script = "while read -r line; do (\"$@\"; true); done";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).args(command.words()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(shell.spawn().unwrap())
    }

    /// Runs the command on a new gateway on the port; what the command answers.
    fn clean(&mut self, port: u16) -> Value {
        let gateway = Part::gateway().on_port(port).start();
        writeln!(self.0.stdin.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["outcome"], "cleaned", "{answer}");
        assert!(gateway.is_gone());
        answer
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

scenario!(it_tells_of_two_supervisors_that_end_each_others_gateways, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let command = agent.ask(&["clean"], port);
    let [mut first, mut second] = [(); 2].map(|()| Supervisor::new(&command));
    assert_eq!(first.clean(port)["ended_before"], Value::Null);
    assert_eq!(second.clean(port)["ended_before"]["count"], 1);
    first.clean(port);
    let answer = second.clean(port);
    let before = &answer["ended_before"];
    assert_eq!((&before["count"], &before["callers"]), (&json!(3), &json!(2)), "{answer}");
    assert!(before["within_ms"].is_u64(), "{answer}");
    assert!(agent.log().contains("ended 3 times"), "{}", agent.log());
    assert!(agent.log().contains("by two callers"), "{}", agent.log());
    // and people read it too, also where this time nobody is ended
    let socket = agent.socket().display().to_string();
    let text = Gatewatch::new(&["clean", "--agent", "only", "--socket", &socket, "-p", &port.to_string()]);
    let text = text.run().out;
    assert!(text.contains("ended 4 times") && text.contains("`--min-age`"), "{text}");
});

scenario!(one_supervisor_is_one_caller, needs(Bpf), || {
    let [port, other] = [unused_port(), unused_port()];
    let agent = Agent::watching(&[(port, ""), (other, "")]);
    let mut supervisor = Supervisor::new(&agent.ask(&["clean"], port));
    for _ in 0..3 {
        supervisor.clean(port);
    }
    let answer = supervisor.clean(port);
    let before = &answer["ended_before"];
    assert_eq!((&before["count"], &before["callers"]), (&json!(3), &json!(1)), "{answer}");
    // nothing of that concerns another port
    let gateway = Part::gateway().on_port(other).start();
    let answer = agent.answer(&["clean"], other);
    crate::clean::assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["ended_before"], Value::Null, "{answer:?}");
});

scenario!(it_spares_who_has_just_begun_where_it_is_asked_to, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    let answer = agent.answer(&["clean", "--min-age", "60m"], gateway.port());
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert_eq!((&answer.json()["reason"], &answer.json()["backend"]), (&"too_young".into(), &"agent".into()));
    assert!(gateway.is_alive());
    let answer = agent.answer(&["clean", "--min-age", "0s"], gateway.port());
    crate::clean::assert_cleaned(&answer, &gateway);
});
