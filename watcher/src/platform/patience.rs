//! Reading what another user's process can make slow: its memory, which may be a file's that never comes (a file system in
//! user space), and files that it chose. So that is done on a thread of its own, and waited for a short time only.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Host;
use super::contract::AgentSystem;
use crate::model::StartTime;

/// How many processes of one user, and of all users, may have been late: after so many, no other one of theirs is read. A
/// thread that waits can't be ended.
const MOST_OF_ONE: usize = 4;
const MOST: usize = 64;

/// One process: pids are used again.
type Key = (u32, u64);

static READERS: LazyLock<Readers> =
    LazyLock::new(|| Readers::new(Duration::from_millis(500), Duration::from_secs(10)));

/// Does the work, which reads a process of this user; `None` if that takes too long, or if it did a short while ago. Nobody
/// waits for root's or our own processes less than they take: they gain nothing by it.
pub(crate) fn within<T: Send + 'static>(
    pid: u32,
    begun: StartTime,
    user: Option<u32>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match user {
        Some(user) if user != 0 && user != Host::own_user() => READERS.read((pid, begun.raw), user, work),
        _ => Some(work()),
    }
}

/// The threads that read, and the processes for which they were too late.
struct Readers {
    /// How long is waited.
    patience: Duration,
    /// How long a process that was late is left alone: else each look would wait for it again.
    memory: Duration,
    late: Mutex<HashMap<Key, Late>>,
}

/// A process that was late.
struct Late {
    user: u32,
    /// How many readings have not come to their end yet.
    under_way: usize,
    /// When it was late last.
    at: Instant,
}

impl Readers {
    fn new(patience: Duration, memory: Duration) -> Self {
        Self { patience, memory, late: Mutex::default() }
    }

    /// The processes that are left alone at this moment.
    fn late(&self) -> MutexGuard<'_, HashMap<Key, Late>> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|_, late| late.under_way > 0 || late.at.elapsed() < self.memory);
        late
    }

    fn read<T: Send + 'static>(
        &'static self,
        process: Key,
        user: u32,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        {
            let late = self.late();
            let of_user = late.values().filter(|late| late.user == user).count();
            if late.contains_key(&process) || of_user >= MOST_OF_ONE || late.len() >= MOST {
                return None;
            }
        }
        let (tell, told) = channel();
        let reader = move || {
            let done = work();
            let mut late = self.late();
            // Under the lock, so that it is either received or has nobody who waits.
            if tell.send(done).is_err()
                && let Some(late) = late.get_mut(&process)
            {
                late.under_way -= 1;
                late.at = Instant::now();
            }
        };
        thread::Builder::new().name("gatewatch-reader".to_owned()).spawn(reader).ok()?;
        if let Ok(done) = told.recv_timeout(self.patience) {
            return Some(done);
        }
        let mut late = self.late();
        // It may have come by now; else the thread will find nobody waiting.
        let done = told.try_recv().ok();
        if done.is_none() {
            let late = late.entry(process).or_insert(Late { user, under_way: 0, at: Instant::now() });
            late.under_way += 1;
            late.at = Instant::now();
        }
        drop(told);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn readers(memory: Duration) -> &'static Readers {
        Box::leak(Box::new(Readers::new(Duration::from_millis(100), memory)))
    }

    fn of_one() -> u32 {
        MOST_OF_ONE.try_into().unwrap()
    }

    /// A reading that takes until what is returned is dropped.
    fn hang(readers: &'static Readers, process: Key, user: u32) -> Sender<()> {
        let (end, ended) = channel::<()>();
        assert_eq!(readers.read(process, user, move || ended.recv().is_ok()), None);
        end
    }

    fn wait_for_its_end(readers: &Readers, process: Key) {
        while readers.late().get(&process).is_some_and(|late| late.under_way > 0) {
            thread::yield_now();
        }
    }

    #[test]
    fn what_takes_too_long_is_given_up_and_not_tried_again_before_it_has_ended() {
        let readers = readers(Duration::ZERO);
        assert_eq!(readers.read((1, 1), 5, || 7), Some(7));
        let hanging = hang(readers, (2, 1), 5);
        assert_eq!(readers.read((2, 1), 5, || true), None);
        // and other processes are read all the same, also one that has got its pid
        assert_eq!(readers.read((3, 1), 5, || true), Some(true));
        assert_eq!(readers.read((2, 2), 5, || true), Some(true));
        drop(hanging);
        wait_for_its_end(readers, (2, 1));
        assert_eq!(readers.read((2, 1), 5, || true), Some(true));
    }

    #[test]
    fn a_process_that_was_late_is_not_waited_for_again_soon() {
        let readers = readers(Duration::from_secs(3600));
        drop(hang(readers, (1, 1), 5));
        wait_for_its_end(readers, (1, 1));
        assert_eq!(readers.read((1, 1), 5, || true), None);
        // nor is one after the other of a user's
        let more: Vec<_> = (2..=of_one()).map(|pid| hang(readers, (pid, 1), 5)).collect();
        drop(more);
        (2..=of_one()).for_each(|pid| wait_for_its_end(readers, (pid, 1)));
        assert_eq!(readers.read((20, 1), 5, || true), None);
        assert_eq!(readers.read((21, 1), 6, || true), Some(true));
    }

    #[test]
    fn one_user_cannot_use_up_the_threads() {
        let readers = readers(Duration::ZERO);
        let held: Vec<_> = (1..=of_one()).map(|pid| hang(readers, (pid, 1), 5)).collect();
        assert_eq!(readers.read((20, 1), 5, || true), None);
        assert_eq!(readers.read((21, 1), 6, || true), Some(true));
        drop(held);
    }
}
