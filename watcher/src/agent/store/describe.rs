//! What is kept of the processes that events name.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{Described, LONGEST_ARGV, Process};
use crate::platform::Host;
use crate::platform::contract::System as _;

/// So many arguments of a process are kept.
const MOST_ARGUMENTS: usize = 128;
/// So many processes are remembered.
const REMEMBERED: usize = 4_096;
/// A process can change its arguments, and be put into another unit.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Of each second, so much may be spent on reading processes: any user can make that slow, and what is not read in time
/// must not keep the rest from being written.
const BUDGET: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);
/// One process alone may take longer than a second. Then the budget is that of so many times as long as it took.
const SHARE: u32 = 4;

/// What is kept of a process.
pub(in crate::agent) fn described(process: &Process) -> Described {
    let (argv, argv_cut) = match &process.argv {
        Some(argv) => {
            let (argv, is_cut) = cut(argv);
            (Some(argv), is_cut || process.argv_cut)
        }
        None => (None, false),
    };
    Described {
        start_time: Some(process.start_time.wall),
        user: process.user.clone(),
        argv,
        argv_cut,
        exe: process.exe.as_ref().map(|exe| exe.display().to_string()),
        unit: process.unit.clone(),
        container: process.container.clone(),
    }
}

/// So much of the arguments as is kept, and whether that is not all.
fn cut(argv: &[String]) -> (Vec<String>, bool) {
    let mut left = LONGEST_ARGV;
    let mut kept = Vec::new();
    for argument in argv {
        // Empty ones would take many times their length in memory.
        if kept.len() == MOST_ARGUMENTS {
            return (kept, true);
        }
        if argument.len() >= left {
            kept.push(argument[..argument.floor_char_boundary(left)].to_owned());
            return (kept, true);
        }
        left -= argument.len() + 1;
        kept.push(argument.clone());
    }
    (kept, false)
}

struct Remembered {
    incarnation: Option<u64>,
    read: Instant,
    uid: [Option<u32>; 2],
    comm: String,
    described: Described,
}

/// Processes that were read a short while ago.
pub(super) struct Processes {
    system: Host,
    remembered: HashMap<u32, Remembered>,
    /// When the current second of the budget began, and what of it is spent.
    second: (Instant, Duration),
}

impl Processes {
    pub(super) fn new(system: Host) -> Self {
        Self { system, remembered: HashMap::new(), second: (Instant::now(), Duration::ZERO) }
    }

    /// What is known of the process that an event names; little, if it has ended or is another one by now.
    pub(super) fn of(&mut self, pid: Option<u32>, uid: Option<u32>, comm: Option<&str>) -> Described {
        let (Some(pid), Some(comm)) = (pid, comm) else { return Described::default() };
        self.read(pid)
            .filter(|known| known.comm == comm && (uid.is_none() || known.uid.contains(&uid)))
            .map(|known| known.described.clone())
            .unwrap_or_default()
    }

    /// The process's name, its user, and what else is kept of it.
    pub(super) fn named(&mut self, pid: u32) -> Option<(String, Option<u32>, Described)> {
        let known = self.read(pid)?;
        Some((known.comm.clone(), known.uid[0], known.described.clone()))
    }

    fn read(&mut self, pid: u32) -> Option<&Remembered> {
        let incarnation = self.system.incarnation(pid);
        let is_known = self.remembered.get(&pid).is_some_and(|known| {
            incarnation.is_some() && known.incarnation == incarnation && known.read.elapsed() < AGAIN_AFTER
        });
        if !is_known {
            self.remembered.remove(&pid);
            if self.second.0.elapsed() > SECOND.max(self.second.1 * SHARE) {
                self.second = (Instant::now(), Duration::ZERO);
            }
            if self.second.1 > BUDGET {
                return None;
            }
            let begun = Instant::now();
            let process = self.system.process(pid);
            self.second.1 += begun.elapsed();
            let process = process.ok()?;
            if self.remembered.len() >= REMEMBERED {
                self.remembered.clear();
            }
            let known = Remembered {
                incarnation,
                read: begun,
                uid: [process.uid, process.effective_uid],
                described: described(&process),
                comm: process.comm,
            };
            self.remembered.insert(pid, known);
        }
        self.remembered.get(&pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_line_is_cut_between_two_characters() {
        let long = ["server".to_owned(), "é".repeat(LONGEST_ARGV)];
        let (kept, is_cut) = cut(&long);
        let length: usize = kept.iter().map(|argument| argument.len() + 1).sum();
        assert!(is_cut && kept.len() == 2 && length <= LONGEST_ARGV + 1, "{length}");
        assert_eq!(
            cut(&["server".to_owned(), String::new()]),
            (vec!["server".to_owned(), String::new()], false)
        );
        assert!(cut(&vec![String::new(); 2 * LONGEST_ARGV]).1);
    }
}
