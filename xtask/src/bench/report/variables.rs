//! What is varied, by how much, and what is measured beside it.

use anyhow::Result;

use super::contest::Way;
use super::loads::Held;
use super::place::{PORT, Place};
use super::{cleans, lookups};

/// Something that a machine can have much of.
pub(super) struct Variable {
    /// In the names of files.
    pub(super) key: &'static str,
    /// One of them.
    pub(super) unit: &'static str,
    /// Many of them.
    pub(super) name: &'static str,
    /// What exactly there are so many of.
    pub(super) what: &'static str,
    pub(super) points: &'static [usize],
    pub(super) lookups: &'static [&'static Way],
    pub(super) cleans: &'static [&'static Way],
    /// Puts so many in place.
    pub(super) place: fn(usize) -> Result<Place>,
}

const ALL_LOOKUPS: &[&Way] =
    &[&lookups::EVENTS, &lookups::POLL, &lookups::AGENT, &lookups::SS, &lookups::LSOF, &lookups::START];
const ALL_CLEANS: &[&Way] = &[&cleans::EVENTS, &cleans::POLL, &cleans::AGENT, &cleans::KILLPORT];

pub(super) const ALL: [Variable; 5] = [
    Variable {
        key: "processes",
        unit: "process",
        name: "processes",
        what: "Forked processes that pause; each has the five descriptors that it inherited.",
        points: &[10, 100, 1000, 3000, 10_000],
        lookups: ALL_LOOKUPS,
        cleans: ALL_CLEANS,
        place: |count| held(&["processes", &count.to_string()]),
    },
    Variable {
        key: "descriptors",
        unit: "descriptor",
        name: "open descriptors",
        what: "Descriptors of `/dev/null`, spread evenly over 100 processes.",
        points: &[1000, 10_000, 100_000, 300_000, 1_000_000],
        lookups: ALL_LOOKUPS,
        cleans: ALL_CLEANS,
        place: |count| held(&["descriptors", &count.to_string()]),
    },
    Variable {
        key: "ports",
        unit: "port",
        name: "watched ports",
        what: "Ports that the agent is configured to watch, one `[[watch]]` each. All but the one that is asked about are \
               held by listeners, spread over 100 processes.",
        points: &[1, 10, 100, 1000, 10_000],
        lookups: ALL_LOOKUPS,
        cleans: ALL_CLEANS,
        place: ports,
    },
    Variable {
        key: "namespaces",
        unit: "namespace",
        name: "network namespaces",
        what: "Network namespaces, each with a process that listens on the very port that is asked about. A clean is of \
               the caller's own namespace, and leaves these alone.",
        points: &[1, 5, 20, 100, 500],
        lookups: ALL_LOOKUPS,
        cleans: ALL_CLEANS,
        place: |count| held(&["namespaces", &count.to_string(), &PORT.to_string()]),
    },
    Variable {
        key: "subscribers",
        unit: "subscriber",
        name: "subscribers",
        what: "Clients of the agent's event stream that read all that happens on the port, by one process with a thread \
               each. The agent takes 512 connections.",
        points: &[1, 5, 20, 100, 500],
        lookups: &[&lookups::EVENTS, &lookups::AGENT, &lookups::START],
        cleans: &[&cleans::EVENTS, &cleans::AGENT, &cleans::FLOOR],
        place: |count| {
            let place = Place::idle();
            let socket = place.agent.socket();
            let arguments = ["subscribers", &count.to_string(), &PORT.to_string(), &socket.to_string_lossy()];
            let load = Held::start(&arguments)?;
            Ok(place.with(load))
        },
    },
];

fn held(arguments: &[&str]) -> Result<Place> {
    Ok(Place::new(&[(PORT, "")], Some(Held::start(arguments)?)))
}

/// The first of the ports that are watched besides; below those that the kernel chooses itself.
const FIRST: u16 = 20_000;

fn ports(count: usize) -> Result<Place> {
    let others = u16::try_from(count - 1)?;
    let load = Held::start(&["listeners", &others.to_string(), &FIRST.to_string()])?;
    let watched: Vec<(u16, &str)> =
        std::iter::once(PORT).chain(FIRST..FIRST + others).map(|port| (port, "")).collect();
    Ok(Place::new(&watched, Some(load)))
}
