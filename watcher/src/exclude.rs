//! Exclude: who is never ended, whatever the rules say.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::system::System;

/// Why a process is never ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// It is gatewatch itself.
    #[serde(rename = "self")]
    Myself,
    /// It is the caller, or an ancestor of the caller.
    Ancestor,
    /// It asked the agent, or is an ancestor of who asked.
    Requester,
    /// It was named as protected, or is an ancestor of one that was.
    Protected,
    /// It is PID 1.
    Init,
}

impl Relation {
    /// For people: what the process is to the caller.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Myself => "it is gatewatch itself",
            Self::Ancestor => "it is an ancestor of the caller",
            Self::Requester => "it is the requester, or an ancestor of it",
            Self::Protected => "it is protected, or an ancestor of a protected process",
            Self::Init => "it is PID 1",
        }
    }
}

/// The pids that are never ended.
#[derive(Debug, Default, Clone)]
pub struct Exclusions {
    pids: HashMap<u32, Relation>,
    include_init: bool,
}

impl Exclusions {
    /// Excludes `own` (this program) with all its ancestors, each of `protected` with all theirs, and PID 1 unless
    /// `include_init`. An ancestor stays excluded even if it is PID 1 and `include_init` is set.
    #[must_use]
    pub fn new(system: &dyn System, own: u32, protected: &[u32], include_init: bool) -> Self {
        let mut exclusions = Self { pids: HashMap::new(), include_init };
        exclusions.protect(system, protected);
        exclusions.add_line(system, own, Relation::Myself, Relation::Ancestor);
        exclusions
    }

    /// Excludes these as well, with all their ancestors.
    pub fn protect(&mut self, system: &dyn System, protected: &[u32]) {
        for &pid in protected {
            self.add_line(system, pid, Relation::Protected, Relation::Protected);
        }
    }

    /// Excludes the one who asked the agent, with all its ancestors.
    pub fn add_requester(&mut self, system: &dyn System, pid: u32) {
        self.add_line(system, pid, Relation::Requester, Relation::Requester);
    }

    /// Why the process is never ended; `None` when it may be.
    #[must_use]
    pub fn relation(&self, pid: u32) -> Option<Relation> {
        if pid == 1 && !self.include_init {
            return Some(Relation::Init);
        }
        self.pids.get(&pid).copied()
    }

    fn add_line(&mut self, system: &dyn System, pid: u32, first: Relation, others: Relation) {
        self.pids.insert(pid, first);
        for ancestor in ancestors(system, pid) {
            self.pids.entry(ancestor).or_insert(others);
        }
    }
}

/// The ancestors of a process, nearest first.
///
/// The walk goes on to the last visible ancestor: a limit on its length would leave a distant one to be ended. A
/// cycle (a pid used again while we walk) ends it, and so does a hop that can't be read; what was reached by then,
/// the unreadable one included, is excluded.
fn ancestors(system: &dyn System, pid: u32) -> Vec<u32> {
    let mut seen = HashSet::from([pid]);
    let mut line = Vec::new();
    let mut current = pid;
    while let Some(parent) = system.parent(current) {
        if !seen.insert(parent) {
            break;
        }
        line.push(parent);
        current = parent;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::FakeSystem;

    #[test]
    fn every_ancestor_is_excluded_however_far() {
        // given a line of forty ancestors
        let system = FakeSystem::with_parents((100..140).map(|pid| (pid, pid - 1)));
        // when the caller is the last of them
        let exclusions = Exclusions::new(&system, 139, &[], true);
        // then all are excluded, and who is beside the line is not
        assert_eq!(exclusions.relation(139), Some(Relation::Myself));
        assert!((99..139).all(|pid| exclusions.relation(pid) == Some(Relation::Ancestor)));
        assert_eq!(exclusions.relation(98), None);
        assert_eq!(exclusions.relation(140), None);
    }

    #[test]
    fn a_cycle_ends_the_walk() {
        let system = FakeSystem::with_parents([(10, 11), (11, 12), (12, 10)]);
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert_eq!(exclusions.relation(10), Some(Relation::Myself));
        assert_eq!(exclusions.relation(12), Some(Relation::Ancestor));
    }

    #[test]
    fn an_unreadable_hop_is_itself_excluded() {
        // given a parent of which nothing more can be read
        let system = FakeSystem::with_parents([(10, 11)]);
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert_eq!(exclusions.relation(11), Some(Relation::Ancestor));
    }

    #[test]
    fn pid_1_is_excluded_unless_included_and_even_then_as_an_ancestor() {
        let system = FakeSystem::with_parents([(10, 1)]);
        assert_eq!(Exclusions::new(&system, 10, &[], false).relation(1), Some(Relation::Init));
        assert_eq!(Exclusions::new(&system, 10, &[], true).relation(1), Some(Relation::Ancestor));
        assert_eq!(Exclusions::new(&system, 20, &[], true).relation(1), None);
    }

    #[test]
    fn a_protected_process_and_its_ancestors_are_excluded() {
        let system = FakeSystem::with_parents([(10, 2), (30, 31), (31, 32)]);
        let exclusions = Exclusions::new(&system, 10, &[30], false);
        for pid in [30, 31, 32] {
            assert_eq!(exclusions.relation(pid), Some(Relation::Protected));
        }
    }
}
