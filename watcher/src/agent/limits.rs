//! Limits: what one client may use, so that a slow or hostile client does not harm the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::agent::LONGEST_WAIT;

/// The longest body of a request, in bytes.
pub(super) const BODY: usize = 16 * 1024;
/// Timeout for request headers and idle connections.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long a body may take to arrive.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);
/// The same for each wait of a clean, of a user other than root.
const LONGEST_OF_A_USER: Duration = Duration::from_secs(60);
/// How many cleans of one user other than root are under way at once.
pub(super) const CLEANS_EACH: usize = 4;
/// Open connections, and those among them that are kept for root.
const CONNECTIONS: usize = 512;
const FOR_ROOT: usize = 64;
/// Those of one user who may do something here.
const CONNECTIONS_EACH: usize = 128;
/// Those of users who may do nothing, and of one of them.
const OF_STRANGERS: usize = 128;
const OF_A_STRANGER: usize = 8;
/// How many descriptors have to be left when another connection is accepted, for looks and cleans.
pub(super) const ROOM: u32 = 32;

/// The longest that each wait of this user's clean may be.
pub(super) fn longest_of_a_clean(uid: u32) -> Duration {
    if uid == 0 { LONGEST_WAIT } else { LONGEST_OF_A_USER }
}

/// How often one user may send requests, and how many at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    pub(super) burst: f64,
}

/// For requests that read.
pub(super) const READS: Rate = Rate { per_second: 500.0, burst: 1000.0 };
/// For requests that may end something.
pub(super) const CLEANS: Rate = Rate { per_second: 10.0, burst: 20.0 };
/// For connections of a scrape.
pub(super) const SCRAPES: Rate = Rate { per_second: 10.0, burst: 20.0 };

/// A token bucket for each user, or whoever else asks: it fills at the rate, and each request takes one token.
#[derive(Debug)]
pub(super) struct Buckets<Who = u32> {
    rate: Rate,
    filled: Mutex<HashMap<Who, (f64, Instant)>>,
}

impl Buckets {
    /// Takes one token of a user's; false if none is left. Root is not limited, because root could do worse anyway.
    pub(super) fn take(&self, uid: u32, now: Instant) -> bool {
        uid == 0 || self.take_one(uid, now)
    }
}

impl<Who: Eq + Hash> Buckets<Who> {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, filled: Mutex::default() }
    }

    /// Takes one token; false if none is left.
    pub(super) fn take_one(&self, who: Who, now: Instant) -> bool {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        let Rate { per_second, burst } = self.rate;
        let level = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * per_second).min(burst)
        };
        // A full bucket is the same as none, so it is dropped.
        if filled.len() > 1024 {
            filled.retain(|_, &mut bucket| level(bucket) < burst);
        }
        let bucket = filled.entry(who).or_insert((burst, now));
        let now_left = level(*bucket);
        let enough = now_left >= 1.0;
        *bucket = (if enough { now_left - 1.0 } else { now_left }, now);
        enough
    }
}

/// Places of which each user has so many at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// A place that a user has taken. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    /// A place for this user; `None` if the user has `most` already. Root always gets one.
    pub(super) fn take(&self, uid: u32, most: usize) -> Option<Place> {
        let mut taken = self.taken();
        let count = taken.entry(uid).or_default();
        if uid != 0 && *count >= most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { places: self.clone(), uid })
    }

    /// Whether anybody has a place.
    pub(super) fn are_taken(&self) -> bool {
        !self.taken().is_empty()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// How a client stands with the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Root, for whom places are kept.
    Root,
    /// One who may read, or have some port cleaned.
    Named,
    /// One who may do nothing, and is told so.
    Stranger,
}

/// The open connections: of all clients, of all but root, of all who may do nothing, and of each user.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    all: Arc<Semaphore>,
    but_root: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    each: Places,
}

/// The places of one connection.
#[derive(Debug)]
pub(super) struct Connected {
    _shared: Vec<OwnedSemaphorePermit>,
    _own: Place,
}

impl ConnectionLimit {
    pub(super) fn new() -> Self {
        let semaphore = |most| Arc::new(Semaphore::new(most));
        Self {
            all: semaphore(CONNECTIONS),
            but_root: semaphore(CONNECTIONS - FOR_ROOT),
            strangers: semaphore(OF_STRANGERS),
            each: Places::default(),
        }
    }

    /// A connection's places; `None` if none are left for this user.
    pub(super) fn acquire(&self, uid: u32, standing: Standing) -> Option<Connected> {
        let (shared, most): (&[&Arc<Semaphore>], usize) = match standing {
            Standing::Root => (&[&self.all], CONNECTIONS),
            Standing::Named => (&[&self.all, &self.but_root], CONNECTIONS_EACH),
            Standing::Stranger => (&[&self.all, &self.but_root, &self.strangers], OF_A_STRANGER),
        };
        let own = self.each.take(uid, most)?;
        let permits = shared.iter().map(|room| Arc::clone(room).try_acquire_owned().ok());
        Some(Connected { _shared: permits.collect::<Option<_>>()?, _own: own })
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
    fn a_user_has_few_places_and_root_as_many_as_it_takes() {
        let places = Places::default();
        let held: Vec<_> = (0..10).filter_map(|_| places.take(5, CLEANS_EACH)).collect();
        assert_eq!(held.len(), CLEANS_EACH);
        let roots: Vec<_> = (0..10).filter_map(|_| places.take(0, CLEANS_EACH)).collect();
        assert_eq!(roots.len(), 10);
        drop((held, roots));
        assert!(!places.are_taken());
        assert!(longest_of_a_clean(5) < longest_of_a_clean(0));
    }

    #[test]
    fn neither_one_user_nor_many_can_take_all_connections() {
        let limit = ConnectionLimit::new();
        let taken: Vec<_> =
            (0..CONNECTIONS_EACH).map(|_| limit.acquire(5, Standing::Named).unwrap()).collect();
        assert!(limit.acquire(5, Standing::Named).is_none());
        assert!(limit.acquire(6, Standing::Named).is_some());
        // given many who may do nothing
        let strangers = (100..200).flat_map(|uid| (0..20).map(move |_| uid));
        let held: Vec<_> = strangers.filter_map(|uid| limit.acquire(uid, Standing::Stranger)).collect();
        assert_eq!(held.len(), OF_STRANGERS);
        // and so many who may that no more fit
        let named = (1000..1100).flat_map(|uid| (0..20).map(move |_| uid));
        let more: Vec<_> = named.filter_map(|uid| limit.acquire(uid, Standing::Named)).collect();
        assert!(limit.acquire(7, Standing::Named).is_none());
        // root's places are left, and others come back
        assert!(limit.acquire(0, Standing::Root).is_some());
        drop((taken, held, more));
        assert!(limit.acquire(5, Standing::Named).is_some());
        assert!(!limit.each.are_taken());
    }
}
