//! What the agent ended a short while ago. Two supervisors that each clean the port before they start their server end each
//! other's for ever, and every single answer looks right; only who remembers can tell.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clean::EndedBefore;
use crate::model::Port;
use crate::platform::contract::{Ancestor, System};

/// How long a clean is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How many cleans of one port are remembered at most.
const MOST: usize = 256;
/// How far up a caller's ancestors are remembered.
const HOPS: usize = 32;

/// Whoever asked: its ancestors, nearest first, and the unit that it belongs to before PID 1. The asking process itself is
/// a new one each time, and often so is the shell that runs it; the supervisor above them stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<Above>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Above {
    Process(u32),
    Unit(String),
}

impl Line {
    /// Of a process that runs.
    pub(super) fn of(system: &dyn System, pid: u32) -> Self {
        let mut line = Vec::new();
        let mut current = pid;
        while let Ancestor::Parent(parent) = system.ancestor(current)
            && parent != 1
            && line.len() < HOPS
        {
            line.push(Above::Process(parent));
            current = parent;
        }
        line.extend(system.process(pid).ok().and_then(|process| process.unit).map(Above::Unit));
        line.push(Above::Process(1));
        Self(line)
    }
}

/// A port in a network namespace.
type Place = (u32, Port);

/// When somebody was ended, and for whom.
type Clean = (Instant, Line);

/// The cleans that ended somebody.
#[derive(Debug, Default)]
pub(super) struct Past(Mutex<HashMap<Place, VecDeque<Clean>>>);

impl Past {
    /// What was ended on the port before, seen by this caller; then adds this clean, if it `ended` somebody.
    pub(super) fn before(
        &self,
        place: Place,
        caller: Line,
        ended: bool,
        now: Instant,
    ) -> Option<EndedBefore> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, cleans| {
            cleans.retain(|(at, _)| now.saturating_duration_since(*at) < MEMORY);
            !cleans.is_empty()
        });
        let cleans = all.get(&place);
        let before = cleans.and_then(|cleans| {
            let (first, _) = cleans.front()?;
            let lines: Vec<&Line> = cleans.iter().map(|(_, line)| line).chain([&caller]).collect();
            let within = now.saturating_duration_since(*first);
            Some(EndedBefore { count: cleans.len(), within, callers: callers(&lines) })
        });
        if ended {
            let cleans = all.entry(place).or_default();
            if cleans.len() == MOST {
                cleans.pop_front();
            }
            cleans.push_back((now, caller));
        }
        before
    }
}

/// How many callers these are: a caller is the nearest one above that is above another of them as well.
fn callers(lines: &[&Line]) -> usize {
    let mut times: HashMap<&Above, usize> = HashMap::new();
    for above in lines.iter().flat_map(|line| &line.0) {
        *times.entry(above).or_default() += 1;
    }
    let nearest = |line: &&Line| line.0.iter().find(|above| times[above] > 1).cloned();
    lines.iter().map(nearest).collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::fake::FakeSystem;

    fn line(pids: &[u32]) -> Line {
        Line(pids.iter().map(|&pid| Above::Process(pid)).collect())
    }

    #[test]
    fn a_supervisor_is_one_caller_however_often_it_starts_a_shell() {
        let lines = [line(&[11, 5, 1]), line(&[12, 5, 1]), line(&[13, 5, 1])];
        assert_eq!(callers(&lines.each_ref()), 1);
        let lines = [line(&[11, 5, 2, 1]), line(&[12, 6, 2, 1]), line(&[13, 5, 2, 1]), line(&[14, 6, 2, 1])];
        assert_eq!(callers(&lines.each_ref()), 2);
        // one that asked only once so far is another one
        assert_eq!(callers(&lines.each_ref()[..3]), 2);
    }

    #[test]
    fn services_of_systemd_are_told_apart_by_their_units() {
        let unit = |name: &str| Line(vec![Above::Unit(name.to_owned()), Above::Process(1)]);
        let lines = [unit("a.service"), unit("b.service"), unit("a.service"), unit("b.service")];
        assert_eq!(callers(&lines.each_ref()), 2);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (past, begun, place) = (Past::default(), Instant::now(), (1, Port::tcp(80)));
        assert_eq!(past.before(place, line(&[5, 1]), true, begun), None);
        let second = begun + Duration::from_secs(2);
        let before = past.before(place, line(&[5, 1]), false, second).unwrap();
        assert_eq!(before, EndedBefore { count: 1, within: Duration::from_secs(2), callers: 1 });
        assert_eq!(past.before((1, Port::tcp(81)), line(&[5, 1]), false, second), None);
        assert_eq!(past.before(place, line(&[5, 1]), false, begun + MEMORY), None);
    }

    #[test]
    fn a_line_goes_up_to_pid_1() {
        let system = FakeSystem::with_parents([(10, 5), (5, 1)]);
        assert_eq!(Line::of(&system, 10), line(&[5, 1]));
        assert_eq!(Line::of(&system, 20), line(&[1]));
    }
}
