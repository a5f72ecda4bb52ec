//! Rules that are Linux's alone: kernel events, descriptors that are inherited and passed on, namespaces, users,
//! the agent.

mod agent;
mod clean;
mod commands;
mod exclusion;
mod holders;
mod identity;
mod namespaces;
mod restart;
mod wait;
mod watch;

use crate::{OnceRule, Rule};

pub(crate) const RULES: &[(&str, &[Rule])] = &[
    ("clean", clean::RULES),
    ("exclusion", exclusion::RULES),
    ("holders", holders::RULES),
    ("identity", identity::RULES),
    ("namespaces", namespaces::RULES),
    ("wait", wait::RULES),
    ("watch", watch::RULES),
];

pub(crate) const ONCE_RULES: &[(&str, &[OnceRule])] = &[
    ("agent", agent::serving::RULES),
    ("agent", agent::events::RULES),
    ("agent", agent::life::RULES),
    ("commands", commands::RULES),
    ("ebpf_only", watch::EBPF_RULES),
    ("ebpf_only", holders::EBPF_RULES),
    ("ebpf_only", restart::EBPF_RULES),
    ("namespaces", namespaces::ONCE_RULES),
    ("unprivileged", exclusion::UNPRIVILEGED_RULES),
];
