//! Work off the agent's loop. Other users' processes are read for an answer, and each of them can make that slow: so it is
//! done on another thread, and everybody else is served meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use super::api::problem;
use crate::wire::problem::Problem;

/// How many threads work for one user other than root at once. What comes beyond waits.
const EACH: usize = 4;

/// The threads, by the users for whom they work.
#[derive(Debug, Default)]
pub(super) struct OffLoop(Mutex<HashMap<u32, Arc<Semaphore>>>);

impl OffLoop {
    /// Does the work for this user. Once begun it is done to its end, and takes its place for as long, whether or not anybody
    /// still waits for it.
    ///
    /// # Errors
    /// When it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let place = if uid == 0 { None } else { self.places(uid).acquire_owned().await.ok() };
        let work = move || {
            let _place = place;
            work()
        };
        spawn_blocking(work).await.map_err(failed)
    }

    fn places(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that nobody waits for, and of which no place is taken, is the same as a new one.
        users.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(EACH))))
    }
}

/// The answer to a request whose work has panicked.
#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
pub(super) fn failed(error: JoinError) -> Problem {
    problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "the agent's log has the details")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_holds_up_its_own_user_alone() {
        let off_loop = Arc::new(OffLoop::default());
        let hang = || {
            let (end, ended) = channel::<()>();
            let off_loop = Arc::clone(&off_loop);
            tokio::spawn(async move { off_loop.run(5, move || ended.recv().is_ok()).await });
            end
        };
        let hanging: Vec<_> = (0..EACH).map(|_| hang()).collect();
        while off_loop.places(5).available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = {
            let off_loop = Arc::clone(&off_loop);
            tokio::spawn(async move { off_loop.run(5, || 7).await })
        };
        // then others are served, and the loop goes on
        assert_eq!(off_loop.run(6, || 6).await.ok(), Some(6));
        assert_eq!(off_loop.run(0, || 0).await.ok(), Some(0));
        assert!(!waiting.is_finished());
        drop(hanging);
        assert_eq!(waiting.await.unwrap().ok(), Some(7));
    }
}
