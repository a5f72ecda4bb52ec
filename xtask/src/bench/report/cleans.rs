//! Ending an owner that obeys SIGTERM: from the command's start until it has ended and the port can be bound.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::contest::{Figures, How, Rounds, Trial, Way, in_turns, quiet};
use super::peers;
use super::place::{Owner, PORT, Place, asking, loading};
use crate::bench::{LSOF_AND_KILL, wall};

pub(super) const EVENTS: Way =
    Way { name: "`gatewatch clean`", label: "events", how: How::Command(|_| asking("clean", "ebpf")) };
const FIRST: Way = Way {
    name: "`gatewatch clean`, the first after a boot",
    label: "first",
    how: How::Command(|_| loading("clean")),
};
pub(super) const POLL: Way = Way {
    name: "`gatewatch clean --backend poll`",
    label: "polling",
    how: How::Command(|_| asking("clean", "poll")),
};
pub(super) const AGENT: Way = Way {
    name: "`gatewatch clean`, through the agent",
    label: "agent",
    how: How::Command(|place| Ok(place.agent.ask(&["clean"], PORT).into_quiet_command())),
};
pub(super) const FLOOR: Way = Way { name: "the floor", label: "floor", how: How::Floor };
pub(super) const KILLPORT: Way = Way {
    name: "`killport -s sigterm`",
    label: "killport",
    how: How::Command(|_| Ok(quiet(peers::of_crates("killport"), &["-s", "sigterm", &PORT.to_string()]))),
};
const KILLPORT_KILL: Way = Way {
    name: "`killport` (SIGKILL, its default)",
    label: "killport -9",
    how: How::Command(|_| Ok(quiet(peers::of_crates("killport"), &[&PORT.to_string()]))),
};
const FUSER: Way = Way {
    name: "`fuser -k -TERM`",
    label: "fuser",
    how: How::Command(|_| Ok(quiet("fuser", &["-k", "-TERM", &format!("{PORT}/tcp")]))),
};
const BY_HAND: Way = Way {
    name: "`lsof`, `kill`, and `lsof` each 50 ms",
    label: "lsof",
    how: How::Command(|_| Ok(quiet("bash", &["-c", LSOF_AND_KILL, &PORT.to_string()]))),
};
const KILL_PORT: Way = Way {
    name: "`kill-port` (npm; SIGKILL)",
    label: "kill-port",
    how: How::Command(|_| Ok(quiet(peers::of_npm("kill-port"), &[&PORT.to_string()]))),
};
const FKILL: Way = Way {
    name: "`fkill` (npm)",
    label: "fkill",
    how: How::Command(|_| Ok(quiet(peers::of_npm("fkill"), &[&format!(":{PORT}")]))),
};
const REPLACED: Way = Way {
    name: "the replaced module's way, in Node",
    label: "module",
    how: How::Command(|_| {
        Ok(quiet("node", &["--input-type=module", "--eval", REPLACED_MODULE, &PORT.to_string()]))
    }),
};

/// All that the table compares.
pub(super) const ALL: [&Way; 12] = [
    &EVENTS,
    &FIRST,
    &POLL,
    &AGENT,
    &FLOOR,
    &KILLPORT,
    &KILLPORT_KILL,
    &FUSER,
    &BY_HAND,
    &KILL_PORT,
    &FKILL,
    &REPLACED,
];

/// What OpenClaw's module does that Gatewatch replaces, less its reading of command lines.
const REPLACED_MODULE: &str = include_str!("replaced.mjs");

/// A port that can't be bound after so long is counted as never free.
const NEVER: Duration = Duration::from_secs(5);

fn can_bind() -> bool {
    gatewatch_tests::can_bind(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))
}

/// Measures these ways beside each other, each time with a new owner.
///
/// # Errors
/// When one can't be run, or the port is still taken after gatewatch has cleaned it.
pub(super) fn contest(ways: &[&Way], place: &Place, rounds: Rounds) -> Result<Vec<Figures>> {
    let all = in_turns(ways, rounds, |way| once(way, place))?;
    for figures in all.iter().filter(|figures| figures.name.contains("gatewatch")) {
        ensure!(figures.early + figures.failed == 0, "the port was taken after {}", figures.name);
    }
    Ok(all)
}

fn once(way: &Way, place: &Place) -> Result<Trial> {
    let owner = Owner::start()?;
    let (mut took, ended) = match way.how {
        How::Command(command) => (wall(command(place)?)?, Instant::now()),
        How::Floor => {
            let begun = Instant::now();
            owner.ask_to_end()?;
            (Duration::ZERO, begun)
        }
    };
    let was_early = !can_bind();
    let mut is_free = !was_early;
    while !is_free && ended.elapsed() < NEVER {
        is_free = can_bind();
    }
    if was_early {
        took += ended.elapsed();
    }
    let is_command = matches!(way.how, How::Command(_));
    Ok(Trial { took: is_free.then_some(took), was_early: was_early && is_command })
}
