//! Descriptors that are kept back, for looks and cleans when no others are left: clients can use up the rest, and the limit
//! can be lowered while the agent runs.
//!
//! They are opened at the start, so that their numbers are low, and closed to be lent: the kernel gives the lowest free
//! number, and refuses only numbers beyond the limit (EMFILE).

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many are kept back. A look takes two at a time, a clean a handle for each process that it ends.
const KEPT: usize = 24;

/// The descriptors that are kept back.
#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Vec<File>,
    borrowers: usize,
}

/// While this lives, the descriptors are free for use.
#[derive(Debug)]
pub(super) struct Lent<'a>(&'a Reserve);

impl Reserve {
    pub(super) fn new() -> Self {
        let reserve = Self::default();
        reserve.inner().fill();
        reserve
    }

    /// Frees the descriptors, until what it returns is dropped.
    pub(super) fn lend(&self) -> Lent<'_> {
        let mut inner = self.inner();
        inner.borrowers += 1;
        inner.kept.clear();
        Lent(self)
    }

    /// Lends them if no others are left.
    pub(super) fn lend_if_needed(&self) -> Option<Lent<'_>> {
        let others: Vec<_> = (0..KEPT / 2).map_while(|_| placeholder()).collect();
        (self.is_lent() || others.len() < KEPT / 2).then(|| self.lend())
    }

    /// Whether they are lent: then a connection must not take them.
    pub(super) fn is_lent(&self) -> bool {
        self.inner().borrowers > 0
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fill(&mut self) {
        let missing = KEPT - self.kept.len();
        self.kept.extend((0..missing).map_while(|_| placeholder()));
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.borrowers -= 1;
        if inner.borrowers == 0 {
            inner.fill();
        }
    }
}

fn placeholder() -> Option<File> {
    File::open("/dev/null").ok()
}
