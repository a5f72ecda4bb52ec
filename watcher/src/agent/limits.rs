//! Limits: what one client may take, so that a slow or hostile one harms nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest body of a request, in bytes.
pub(crate) const BODY: usize = 16 * 1024;
/// The longest time for a request's head, and for a connection on which nothing is asked.
pub(crate) const HEAD: Duration = Duration::from_secs(10);
/// The longest wait that a request may ask for.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Connections, of all clients and of one user.
const CONNECTIONS: usize = 512;
const CONNECTIONS_EACH: usize = 128;

/// How often one user may ask, and how much of that at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
}

/// For requests that read.
pub(crate) const READS: Rate = Rate { per_second: 500.0, burst: 1000.0 };
/// For requests that may end something.
pub(crate) const CLEANS: Rate = Rate { per_second: 10.0, burst: 20.0 };

/// One bucket for each user: it fills at the rate, and each request takes one from it.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: Rate,
    filled: Mutex<HashMap<u32, (f64, Instant)>>,
}

impl Buckets {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, filled: Mutex::default() }
    }

    /// Takes one; false when there is none left. Root is not counted: it could do worse.
    pub(crate) fn take(&self, uid: u32, now: Instant) -> bool {
        if uid == 0 {
            return true;
        }
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        let Rate { per_second, burst } = self.rate;
        let level = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * per_second).min(burst)
        };
        // A full bucket says nothing about its user: it is forgotten.
        if filled.len() > 1024 {
            filled.retain(|_, &mut bucket| level(bucket) < burst);
        }
        let bucket = filled.entry(uid).or_insert((burst, now));
        let now_left = level(*bucket);
        let enough = now_left >= 1.0;
        *bucket = (if enough { now_left - 1.0 } else { now_left }, now);
        enough
    }
}

/// Room for connections.
#[derive(Debug)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), each: Mutex::default() }
    }

    /// A connection's place, given back when it is dropped; `None` when there is none left for this user.
    pub(crate) fn enter(&self, uid: u32) -> Option<[Option<OwnedSemaphorePermit>; 2]> {
        let own = if uid == 0 {
            None
        } else {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            each.retain(|_, room| room.available_permits() < CONNECTIONS_EACH);
            let room = each.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(CONNECTIONS_EACH)));
            Some(Arc::clone(room).try_acquire_owned().ok()?)
        };
        Some([own, Some(Arc::clone(&self.all).try_acquire_owned().ok()?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again_for_each_user_by_itself() {
        let buckets = Buckets::new(Rate { per_second: 10.0, burst: 2.0 });
        let now = Instant::now();
        assert_eq!([0; 3].map(|_| buckets.take(5, now)), [true, true, false]);
        assert!(buckets.take(6, now));
        assert!(!buckets.take(5, now + Duration::from_millis(90)));
        assert!(buckets.take(5, now + Duration::from_millis(190)));
    }

    #[test]
    fn one_user_cannot_take_all_the_room() {
        let room = Room::new();
        let taken: Vec<_> = (0..CONNECTIONS_EACH).map(|_| room.enter(5).unwrap()).collect();
        assert!(room.enter(5).is_none());
        assert!(room.enter(6).is_some());
        drop(taken);
        assert!(room.enter(5).is_some());
    }
}
