//! Who has the port: gatewatch and the tools that people ask, whole process.

use std::process::Stdio;

use anyhow::{Result, ensure};

use super::contest::{Figures, How, Rounds, Trial, Way, in_turns, quiet};
use super::peers;
use super::place::{Owner, PORT, Place, asking, loading};
use crate::bench::{gatewatch, wall};

pub(super) const EVENTS: Way =
    Way { name: "`gatewatch owners`", label: "events", how: How::Command(|_| asking("owners", "ebpf")) };
const FIRST: Way = Way {
    name: "`gatewatch owners`, the first after a boot",
    label: "first",
    how: How::Command(|_| loading("owners")),
};
pub(super) const POLL: Way = Way {
    name: "`gatewatch owners --backend poll`",
    label: "polling",
    how: How::Command(|_| asking("owners", "poll")),
};
pub(super) const AGENT: Way = Way {
    name: "`gatewatch owners`, through the agent",
    label: "agent",
    how: How::Command(|place| Ok(place.agent.ask(&["owners"], PORT).into_quiet_command())),
};
pub(super) const SS: Way = Way {
    name: "`ss -Hltnp`",
    label: "ss",
    how: How::Command(|_| Ok(quiet("ss", &["-Hltnp", &format!("sport = :{PORT}")]))),
};
pub(super) const LSOF: Way = Way {
    name: "`lsof -nP -iTCP`",
    label: "lsof",
    how: How::Command(|_| Ok(quiet("lsof", &["-nP", &format!("-iTCP:{PORT}"), "-sTCP:LISTEN"]))),
};
const FUSER: Way = Way {
    name: "`fuser`",
    label: "fuser",
    how: How::Command(|_| Ok(quiet("fuser", &[&format!("{PORT}/tcp")]))),
};
const KILLPORT: Way = Way {
    name: "`killport --dry-run`",
    label: "killport",
    how: How::Command(|_| Ok(quiet(peers::of_crates("killport"), &["--dry-run", &PORT.to_string()]))),
};
pub(super) const START: Way = Way {
    name: "`gatewatch --version`: the process alone",
    label: "start",
    how: How::Command(|_| Ok(gatewatch(&["--version"]))),
};

/// All that the table compares.
pub(super) const ALL: [&Way; 9] = [&EVENTS, &FIRST, &POLL, &AGENT, &SS, &LSOF, &FUSER, &KILLPORT, &START];

/// Each way finds an owner.
///
/// # Errors
/// When one does not.
pub(super) fn check(place: &Place) -> Result<()> {
    let _owner = Owner::start()?;
    for way in ALL {
        let How::Command(command) = way.how else { continue };
        let said = command(place)?.stdout(Stdio::piped()).output()?;
        ensure!(said.status.success() && !said.stdout.is_empty(), "{} finds nobody: {said:?}", way.name);
    }
    Ok(())
}

/// Measures these ways beside each other.
///
/// # Errors
/// When one can't be run.
pub(super) fn contest(ways: &[&Way], place: &Place, rounds: Rounds) -> Result<Vec<Figures>> {
    let _owner = Owner::start()?;
    in_turns(ways, rounds, |way| {
        let How::Command(command) = way.how else { return Ok(Trial { took: None, was_early: false }) };
        Ok(Trial { took: Some(wall(command(place)?)?), was_early: false })
    })
}
