//! The agent is killed, suspended, or robbed of what it needs while it is asked: its clients, under `--agent auto`, always
//! end, and what they answer is true.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{
    Actor, Agent, Answer, Frozen, Gatewatch, Mounted, Part, can_bind, config, detach_cgroup_hooks, send,
    unused_port,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use super::{Busy, Random, Rounds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    Ended,
    Suspended,
    /// By a control group: not even SIGKILL reaches it.
    Frozen,
    NoDescriptors,
    /// It gets no more from the kernel, and may end of that.
    NoMemory,
    /// The disk of its history is full.
    NoDisk,
    HooksDetached,
    Reloaded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Owners,
    Clean,
    WaitFree,
    WaitListening,
    /// For a port that is held: the client's own time runs out.
    WaitInVain,
}

const TROUBLES: &[Trouble] = &[
    Trouble::Killed,
    Trouble::Ended,
    Trouble::Suspended,
    Trouble::Frozen,
    Trouble::NoDescriptors,
    Trouble::NoMemory,
    Trouble::NoDisk,
    Trouble::HooksDetached,
    Trouble::Reloaded,
];

const ASKED: &[Asked] =
    &[Asked::Owners, Asked::Clean, Asked::WaitFree, Asked::WaitListening, Asked::WaitInVain];

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let port = unused_port();
    let folder = gatewatch_tests::folder();
    // A small disk, which is full soon.
    let disk = Mounted::of("tmpfs", &folder.path().join("disk"), Some("size=4m,mode=700"));
    let text =
        format!("[history]\npath = {:?}\n{}", disk.path().join("history.sqlite"), config(&[(port, "")]));
    let mut agent = Agent::with(&text);
    let _busy = Busy::begin();
    while rounds.go_on() {
        let held = rounds.round(|random| {
            let (trouble, asked) = (*random.of(TROUBLES), *random.of(ASKED));
            let outcome = ask(random, &Scene { agent: &agent, disk: &disk, port }, trouble, asked)
                .with_context(|| format!("{asked:?} while the agent is {trouble:?}"))?;
            if matches!(trouble, Trouble::Killed | Trouble::Ended | Trouble::NoMemory) {
                agent.replace();
            } else {
                answers_again(&agent).with_context(|| format!("after it was {trouble:?}"))?;
            }
            Ok(format!("{asked:?}/{outcome}"))
        });
        if !held {
            agent = Agent::with(&text);
        }
    }
    Ok(())
}

fn answers_again(agent: &Agent) -> Result<()> {
    let answers = || {
        agent.wait_until_ready();
        true
    };
    let said = || format!("the agent answers no more; its log ends with: {}", tail(&agent.log()));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(answers))
        .map(drop)
        .map_err(|_| anyhow::anyhow!(said()))
}

struct Scene<'a> {
    agent: &'a Agent,
    disk: &'a Mounted,
    port: u16,
}

fn ask(random: &mut Random, scene: &Scene<'_>, trouble: Trouble, asked: Asked) -> Result<String> {
    let Scene { agent, disk, port } = *scene;
    let owner = (asked != Asked::WaitFree).then(|| Part::gateway().on_port(port).start());
    let command: &[&str] = match asked {
        Asked::Owners => &["owners"],
        Asked::Clean => &["clean", "--term-timeout", "5s", "--kill-timeout", "5s", "--free-timeout", "5s"],
        Asked::WaitFree => &["wait", "free", "--timeout", "10s"],
        Asked::WaitListening => &["wait", "listening", "--timeout", "10s"],
        Asked::WaitInVain => &["wait", "free", "--timeout", "300ms"],
    };
    let socket = agent.socket();
    let socket = socket.to_str().context("a path that is text")?;
    // Two cleans of one port are no contradiction, but who of them ended the owner would be.
    let clients = if asked == Asked::Clean { 1 } else { 1 + random.below(4) };
    let early = random.chance();
    let mut made = None;
    if early {
        made = Some(Made::make(trouble, agent, disk)?);
    }
    let running: Vec<_> = (0..clients)
        .map(|_| {
            let asks = ["--agent", "auto", "--socket", socket, "--format", "json", "-p", &port.to_string()];
            Gatewatch::new(command).with(&asks).spawn()
        })
        .collect();
    if !early {
        let (begun, after) = (Instant::now(), random.shorter(Duration::from_millis(60)));
        while begun.elapsed() < after {
            std::thread::yield_now();
        }
        made = Some(Made::make(trouble, agent, disk)?);
    }
    let answers: Vec<Answer> = running.into_iter().map(gatewatch_tests::Running::finish).collect();
    drop(made);
    let mut said = String::new();
    for answer in &answers {
        said = judge(answer, trouble, asked, owner.as_ref(), port)
            .with_context(|| format!("all answers: {answers:?}, the agent's log: {}", tail(&agent.log())))?;
    }
    Ok(said)
}

/// Whether the answer is true; what it says.
fn judge(
    answer: &Answer,
    trouble: Trouble,
    asked: Asked,
    owner: Option<&Actor>,
    port: u16,
) -> Result<String> {
    let gone =
        matches!(trouble, Trouble::Killed | Trouble::Ended | Trouble::NoDescriptors | Trouble::NoMemory);
    if answer.status == 1 && gone && answer.err.contains("went away before it had answered") {
        // What became of a request that was on its way can't be known.
        return Ok("the agent went away".to_owned());
    }
    if asked == Asked::Owners {
        let pid = owner.map_or(0, Actor::pid);
        ensure!(answer.status == 0 && answer.owner(pid)["pid"] == pid, "{answer:?}");
        return Ok("named".to_owned());
    }
    let wanted = match asked {
        Asked::Clean => (0, "cleaned"),
        Asked::WaitFree => (0, "free"),
        Asked::WaitListening => (0, "listening"),
        _ => (7, "timed_out"),
    };
    let outcome = answer.outcome();
    // The agent had signalled the owner when it could not go on, and refused, or was silent; the client then found nobody.
    let was_left = match trouble {
        Trouble::NoDescriptors | Trouble::NoMemory => {
            ["the agent refuses", "says nothing", "went away before it had answered"]
                .iter()
                .any(|why| answer.err.contains(why))
        }
        Trouble::Suspended | Trouble::Frozen => answer.err.contains("says nothing"),
        Trouble::Killed | Trouble::Ended => answer.err.contains("went away before it had answered"),
        Trouble::Reloaded | Trouble::HooksDetached | Trouble::NoDisk => false,
    };
    let fine = (answer.status, outcome.as_str()) == wanted
        || asked == Asked::Clean && was_left && (answer.status, outcome.as_str()) == (0, "free");
    ensure!(fine, "{answer:?}");
    if asked == Asked::Clean {
        ensure!(owner.is_none_or(Actor::is_gone), "the owner is left: {answer:?}");
        ensure!(can_bind(([127, 0, 0, 1], port).into()), "the port is busy: {answer:?}");
    } else {
        ensure!(owner.is_none_or(Actor::is_alive), "the owner was ended: {answer:?}");
    }
    Ok(outcome)
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Trouble that is over when this is dropped, where it can be.
struct Made {
    trouble: Trouble,
    agent: u32,
    limited: Option<(Limited, libc::rlimit)>,
    frozen: Option<Frozen>,
    filler: Option<PathBuf>,
}

type Limited = libc::__rlimit_resource_t;

impl Made {
    fn make(trouble: Trouble, agent: &Agent, disk: &Mounted) -> Result<Self> {
        let mut made = Self { trouble, agent: agent.pid(), limited: None, frozen: None, filler: None };
        match trouble {
            Trouble::Killed => agent.signal(Signal::SIGKILL),
            Trouble::Ended => agent.signal(Signal::SIGTERM),
            Trouble::Suspended => agent.signal(Signal::SIGSTOP),
            Trouble::Frozen => made.frozen = Some(Frozen::new(made.agent)),
            Trouble::Reloaded => agent.signal(Signal::SIGHUP),
            Trouble::NoDescriptors => made.limit(libc::RLIMIT_NOFILE)?,
            Trouble::NoMemory => made.limit(libc::RLIMIT_AS)?,
            Trouble::NoDisk => made.filler = Some(disk.fill()),
            Trouble::HooksDetached => {
                // The agent may be attaching them again in this moment; then there is nothing to detach.
                let pid = made.agent;
                let _ = std::panic::catch_unwind(|| detach_cgroup_hooks(pid));
            }
        }
        Ok(made)
    }

    /// Lets the agent have no more of this.
    fn limit(&mut self, what: Limited) -> Result<()> {
        let before = limit(self.agent, what, None)?;
        limit(self.agent, what, Some(libc::rlimit { rlim_cur: 1, ..before }))?;
        self.limited = Some((what, before));
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.trouble == Trouble::Suspended {
            send(self.agent, Signal::SIGCONT);
        }
        if let Some((what, before)) = self.limited {
            let _ = limit(self.agent, what, Some(before));
        }
        if let Some(filler) = &self.filler {
            let _ = std::fs::remove_file(filler);
        }
    }
}

/// A process's limit of something, which is changed if another is given.
fn limit(pid: u32, what: Limited, new: Option<libc::rlimit>) -> Result<libc::rlimit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), |new| &raw const *new);
    // SAFETY: prlimit(2) reads the one and writes the other, or takes null.
    let result = unsafe { libc::prlimit(pid.try_into()?, what, new, &raw mut old) };
    Errno::result(result)?;
    Ok(old)
}
