//! Exclude: which processes are never ended, whatever the rules say.

use std::collections::{HashMap, HashSet};

use super::owner::Owner;
use crate::model::{Exclusion, Process, StartTime, Verdict};
use crate::platform::contract::{Ancestor, System};

/// How often a line of ancestors is walked at most until two walks agree.
const WALKS: usize = 16;

/// The pids that are never ended.
#[derive(Debug, Default, Clone)]
pub(crate) struct Exclusions {
    pids: HashMap<u32, Exclusion>,
    include_init: bool,
    /// The process with which this program ends as well.
    own_init: Option<u32>,
    /// Those whose ancestors are all known.
    walked: HashSet<u32>,
    /// The lines of ancestors that are not known to their end.
    incomplete: Vec<IncompleteLine>,
}

/// A line of ancestors of which a part is not known, and what the rest has in common with the process it begins with.
#[derive(Debug, Clone)]
struct IncompleteLine {
    /// Whose ancestors they are, in words.
    of: &'static str,
    /// When the process began: its ancestors began before. `None` if it can't be read; then nothing is known.
    start: Option<StartTime>,
    /// The sessions of the known part.
    sessions: HashSet<u32>,
    /// The users of the known part.
    users: HashSet<u32>,
}

impl Exclusions {
    /// Excludes `own` (this program) and each of `protected`, with all their ancestors, and PID 1 unless `include_init`
    /// is set. An ancestor stays excluded even if it is PID 1 and `include_init` is set, and so does the process with
    /// which this program would end.
    #[must_use]
    pub(crate) fn new(system: &dyn System, own: u32, protected: &[u32], include_init: bool) -> Self {
        let mut exclusions = Self { include_init, own_init: system.own_init(), ..Self::default() };
        exclusions.protect(system, protected);
        exclusions.add_ancestry(system, own, Exclusion::Myself, Exclusion::Ancestor);
        exclusions
    }

    /// Excludes these processes as well, with all their ancestors.
    pub(crate) fn protect(&mut self, system: &dyn System, protected: &[u32]) {
        for &pid in protected {
            self.add_ancestry(system, pid, Exclusion::Protected, Exclusion::Protected);
        }
    }

    /// Excludes the process that asked the agent, with all its ancestors.
    pub(crate) fn add_requester(&mut self, system: &dyn System, pid: u32) {
        self.add_ancestry(system, pid, Exclusion::Requester, Exclusion::Requester);
    }

    /// Why the process is never ended; `None` if it may be ended.
    #[must_use]
    pub(crate) fn exclusion(&self, pid: u32) -> Option<Exclusion> {
        if pid == 1 && !self.include_init {
            return Some(Exclusion::Init);
        }
        let init = (self.own_init == Some(pid)).then_some(Exclusion::Init);
        self.pids.get(&pid).copied().or(init)
    }

    /// Why the process could be an ancestor that is not known as one, as a clause for people; `None` if it can't be. All
    /// ancestors of a process began before it, and most share its session or its user.
    #[must_use]
    pub(crate) fn may_be_ancestor(&self, process: &Process) -> Option<String> {
        self.incomplete.iter().find_map(|line| line.may_contain(process))
    }

    /// Spares an owner that could be an unknown ancestor, and says why PID 1 is spared although it was included.
    pub(crate) fn spare_doubtful(&self, owner: &mut Owner) {
        if owner.exclusion == Some(Exclusion::Init) && owner.pid == self.own_init && self.include_init {
            "it is PID 1 of gatewatch's own pid namespace, and ending it would end gatewatch too: \
             end it from outside of its namespace"
                .clone_into(&mut owner.why);
        }
        if owner.exclusion.is_none()
            && owner.verdict != Verdict::Other
            && let Some(process) = &owner.process
            && let Some(why) = self.may_be_ancestor(process)
        {
            owner.verdict = Verdict::Unclassified;
            owner.why = why;
        }
    }

    /// Excludes a process and its ancestors. While a line is walked, processes on it can end, and their children get
    /// another parent: a subreaper further up, which a walk that stops at the ended process does not reach. So the line is
    /// walked until two walks agree. All that any walk reached is excluded.
    fn add_ancestry(&mut self, system: &dyn System, pid: u32, first: Exclusion, others: Exclusion) {
        self.pids.insert(pid, first);
        if self.walked.contains(&pid) {
            return;
        }
        let mut before: Option<Walk> = None;
        for _ in 0..WALKS {
            let walk = Walk::new(system, pid, &self.walked);
            for &ancestor in &walk.line {
                self.pids.entry(ancestor).or_insert(others);
            }
            match walk.end {
                // The process itself has ended, and nothing needs its ancestors any more.
                Ancestor::Gone if walk.line.is_empty() => return,
                Ancestor::Top if before.as_ref() == Some(&walk) => {
                    self.walked.insert(pid);
                    self.walked.extend(walk.line);
                    return;
                }
                Ancestor::Hidden if before.as_ref() == Some(&walk) => break,
                _ => before = Some(walk),
            }
        }
        let known = before.map(|walk| walk.line).unwrap_or_default();
        self.incomplete.push(IncompleteLine::new(system, pid, &known, first));
    }
}

/// One walk up a line of ancestors.
#[derive(Debug, PartialEq, Eq)]
struct Walk {
    /// The ancestors, nearest first.
    line: Vec<u32>,
    /// What ended the walk; never [`Ancestor::Parent`].
    end: Ancestor,
}

impl Walk {
    /// Walks to the last visible ancestor, because with a limit a distant ancestor could be ended. A cycle (a pid that is
    /// reused during the walk) ends it like a process that has ended. Above one of `known` nothing is left to be found: all
    /// of its ancestors are excluded already, and when one of them ends, another of them takes its children.
    fn new(system: &dyn System, pid: u32, known: &HashSet<u32>) -> Self {
        let mut seen = HashSet::from([pid]);
        let mut line = Vec::new();
        let mut current = pid;
        let end = loop {
            match system.ancestor(current) {
                Ancestor::Parent(parent) if seen.insert(parent) => {
                    line.push(parent);
                    if known.contains(&parent) {
                        break Ancestor::Top;
                    }
                    current = parent;
                }
                Ancestor::Parent(_) => break Ancestor::Gone,
                end => break end,
            }
        };
        Self { line, end }
    }
}

impl IncompleteLine {
    fn new(system: &dyn System, pid: u32, known: &[u32], first: Exclusion) -> Self {
        let of = match first {
            Exclusion::Protected => "the protected process",
            Exclusion::Requester => "the process that asked",
            Exclusion::Myself | Exclusion::Ancestor | Exclusion::Init => "gatewatch",
        };
        let process = system.process(pid).ok();
        let mut line = Self {
            of,
            start: process.as_ref().map(|process| process.start_time),
            sessions: HashSet::new(),
            users: HashSet::new(),
        };
        let others = known.iter().filter_map(|&pid| system.process(pid).ok());
        for process in process.into_iter().chain(others) {
            line.sessions.extend(process.session);
            line.users.extend([process.uid, process.effective_uid].into_iter().flatten());
        }
        line
    }

    fn may_contain(&self, process: &Process) -> Option<String> {
        let users = [process.uid, process.effective_uid];
        let shared = if self.start.is_none() || users == [None, None] {
            ""
        } else if self.start.is_some_and(|start| process.start_time.raw > start.raw) {
            return None;
        } else if process.session.is_some_and(|session| self.sessions.contains(&session)) {
            ", began before it, and shares its session"
        } else if users.iter().flatten().any(|user| self.users.contains(user)) {
            ", began before it, and shares its user"
        } else {
            return None;
        };
        let of = self.of;
        Some(format!(
            "it may be an ancestor of {of}{shared}: not all ancestors can be seen; run as root to see them"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::fake::{FakeSystem, process};

    #[test]
    fn a_line_that_is_known_is_not_walked_again() {
        // given a line of three hundred, and sixty-four siblings at its end
        let line = (100..400).map(|pid| (pid, pid - 1));
        let system = FakeSystem::with_parents(line.chain((1000..1064).map(|pid| (pid, 399))));
        let siblings: Vec<u32> = (1000..1064).collect();
        let mut exclusions = Exclusions::new(&system, 399, &[], false);
        assert_eq!(Walk::new(&system, 1000, &exclusions.walked).line, [399]);
        exclusions.protect(&system, &siblings);
        assert!(siblings.iter().all(|&pid| exclusions.exclusion(pid) == Some(Exclusion::Protected)));
        // and one that was known as an ancestor can be asked for again, under another name
        exclusions.protect(&system, &[250]);
        assert_eq!(exclusions.exclusion(250), Some(Exclusion::Protected));
        assert_eq!(exclusions.exclusion(249), Some(Exclusion::Ancestor));
    }

    #[test]
    fn every_ancestor_is_excluded_however_far() {
        // given a line of forty ancestors
        let system = FakeSystem::with_parents((100..140).map(|pid| (pid, pid - 1)));
        // when the caller is the last of them
        let exclusions = Exclusions::new(&system, 139, &[], true);
        // then all are excluded, but not a process beside the line
        assert_eq!(exclusions.exclusion(139), Some(Exclusion::Myself));
        assert!((99..139).all(|pid| exclusions.exclusion(pid) == Some(Exclusion::Ancestor)));
        assert_eq!(exclusions.exclusion(98), None);
        assert_eq!(exclusions.exclusion(140), None);
    }

    #[test]
    fn a_cycle_ends_the_walk() {
        let system = FakeSystem::with_parents([(10, 11), (11, 12), (12, 10)]);
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert_eq!(exclusions.exclusion(10), Some(Exclusion::Myself));
        assert_eq!(exclusions.exclusion(12), Some(Exclusion::Ancestor));
    }

    #[test]
    fn an_unreadable_hop_is_itself_excluded() {
        // given a parent that can't be read any further
        let system = FakeSystem::with_parents([(10, 11)]);
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert_eq!(exclusions.exclusion(11), Some(Exclusion::Ancestor));
    }

    #[test]
    fn pid_1_is_excluded_unless_included_and_even_then_as_an_ancestor() {
        let system = FakeSystem::with_parents([(10, 1)]);
        assert_eq!(Exclusions::new(&system, 10, &[], false).exclusion(1), Some(Exclusion::Init));
        assert_eq!(Exclusions::new(&system, 10, &[], true).exclusion(1), Some(Exclusion::Ancestor));
        assert_eq!(Exclusions::new(&system, 20, &[], true).exclusion(1), None);
    }

    #[test]
    fn the_own_init_is_excluded_even_if_included() {
        // given a program that would end with PID 1, of which it is no descendant
        let system = FakeSystem::with_parents([(10, 9)]).under_init(1);
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert_eq!(exclusions.exclusion(1), Some(Exclusion::Init));
        assert_eq!(exclusions.exclusion(2), None);
    }

    #[test]
    fn a_line_that_changes_is_walked_again() {
        // given a parent that ends during the first walk, and a subreaper that takes its child
        let parent = [Ancestor::Parent(11), Ancestor::Parent(5)];
        let system = FakeSystem::with_parents([(5, 1)])
            .answering(10, parent)
            .answering(11, [Ancestor::Gone])
            .with_process(process_of(10, 100, 7, 1000));
        let exclusions = Exclusions::new(&system, 10, &[], true);
        // then both are excluded, and nothing is in doubt
        assert_eq!(exclusions.exclusion(11), Some(Exclusion::Ancestor));
        assert_eq!(exclusions.exclusion(5), Some(Exclusion::Ancestor));
        assert_eq!(exclusions.may_be_ancestor(&process_of(6, 1, 7, 1000)), None);
    }

    #[test]
    fn a_line_that_never_settles_is_incomplete() {
        let system = FakeSystem::default()
            .answering(10, [Ancestor::Parent(11)])
            .answering(11, [Ancestor::Gone])
            .with_process(process_of(10, 100, 7, 1000));
        let exclusions = Exclusions::new(&system, 10, &[], true);
        assert!(exclusions.may_be_ancestor(&process_of(6, 1, 7, 1)).is_some());
    }

    #[test]
    fn an_older_owner_of_the_same_session_or_user_may_be_a_hidden_ancestor() {
        // given a parent whose own parent is hidden
        let system = FakeSystem::default()
            .answering(10, [Ancestor::Parent(11)])
            .answering(11, [Ancestor::Hidden])
            .with_process(process_of(10, 100, 7, 1000));
        let exclusions = Exclusions::new(&system, 10, &[], false);
        let doubtful = |start, session, user| {
            exclusions.may_be_ancestor(&process_of(50, start, session, user)).is_some()
        };
        assert!(doubtful(100, 7, 1));
        assert!(doubtful(99, 8, 1000));
        assert!(!doubtful(99, 8, 1));
        assert!(!doubtful(101, 7, 1000));
    }

    #[test]
    fn every_owner_may_be_an_ancestor_of_a_process_that_cannot_be_read() {
        let system = FakeSystem::default().answering(10, [Ancestor::Hidden]);
        let exclusions = Exclusions::new(&system, 10, &[], false);
        assert!(exclusions.may_be_ancestor(&process_of(50, 999, 8, 1)).is_some());
    }

    #[test]
    fn an_ended_process_has_no_ancestors_to_protect() {
        let system = FakeSystem::default().answering(30, [Ancestor::Gone]);
        let exclusions = Exclusions::new(&system, 10, &[30], false);
        assert_eq!(exclusions.may_be_ancestor(&process_of(50, 1, 7, 1000)), None);
    }

    fn process_of(pid: u32, start: u64, session: u32, user: u32) -> Process {
        Process {
            pid,
            start_time: StartTime { raw: start, wall: std::time::SystemTime::UNIX_EPOCH },
            session: Some(session),
            uid: Some(user),
            effective_uid: Some(user),
            ..process(&["server"])
        }
    }

    #[test]
    fn a_protected_process_and_its_ancestors_are_excluded() {
        let system = FakeSystem::with_parents([(10, 2), (30, 31), (31, 32)]);
        let exclusions = Exclusions::new(&system, 10, &[30], false);
        for pid in [30, 31, 32] {
            assert_eq!(exclusions.exclusion(pid), Some(Exclusion::Protected));
        }
    }
}
