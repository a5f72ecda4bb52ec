//! The recent past: numbered lines, kept in a bounded history, from which every subscriber reads at its own pace.
//!
//! Nobody is sent anything: a reader that is slow, or went away and came back, reads on from its cursor, and is told
//! how much is gone when the history no longer reaches back that far. So none can hold up another, or use up memory.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::watch::Line;

/// How many lines are kept.
const LENGTH: usize = 4096;

/// A place between two lines: everything before it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Which run of the agent: the numbers of another one mean nothing.
    run: u64,
    next: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.run, self.next)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (run, next) = text.split_once('-')?;
            Some(Self { run: u64::from_str_radix(run, 16).ok()?, next: next.parse().ok()? })
        };
        parse().ok_or_else(|| format!("{text:?} is no cursor: take one from an event's line"))
    }
}

/// What a reader is given.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next line, and the cursor after it.
    Line(Arc<Line>, Cursor),
    /// This many lines are gone (unknown: an agent of the past counted them), and the cursor after them.
    Gone(Option<u64>, Cursor),
}

/// The lines.
#[derive(Debug)]
pub(crate) struct History {
    run: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Arc<Line>>,
    /// The number of the line that comes next.
    next: u64,
    waiting: Vec<Waker>,
}

impl History {
    /// An empty one; `run` tells it from those of other runs.
    pub(crate) fn new(run: u64) -> Self {
        Self { run, inner: Mutex::default() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the lines whole: each change is one push or one pop.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, and wakes the readers.
    pub(crate) fn push(&self, line: Line) {
        let mut inner = self.inner();
        inner.lines.push_back(Arc::new(line));
        inner.next += 1;
        if inner.lines.len() > LENGTH {
            inner.lines.pop_front();
        }
        drop(inner);
        self.wake();
    }

    /// The cursor after the newest line.
    pub(crate) fn end(&self) -> Cursor {
        Cursor { run: self.run, next: self.inner().next }
    }

    /// What comes after the cursor; pending until there is something.
    pub(crate) fn poll_read(&self, at: Cursor, cx: &mut Context<'_>) -> Poll<Read> {
        let mut inner = self.inner();
        let oldest = inner.next - inner.lines.len() as u64;
        let here = |next| Cursor { run: self.run, next };
        if at.run != self.run || at.next > inner.next {
            return Poll::Ready(Read::Gone(None, here(inner.next)));
        }
        if at.next < oldest {
            return Poll::Ready(Read::Gone(Some(oldest - at.next), here(oldest)));
        }
        let place = usize::try_from(at.next - oldest).unwrap_or(usize::MAX);
        if let Some(line) = inner.lines.get(place) {
            return Poll::Ready(Read::Line(Arc::clone(line), here(at.next + 1)));
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes the readers without a line.
    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut self.inner().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Backend;
    use crate::watch::What;

    fn read(history: &History, at: Cursor) -> Poll<Read> {
        history.poll_read(at, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reader_reads_on_from_its_cursor_and_is_told_what_is_gone() {
        let history = History::new(7);
        let begin = history.end();
        assert!(read(&history, begin).is_pending());
        for port in 0..LENGTH + 10 {
            history.push(Line::blank(What::Bind, u16::try_from(port).unwrap(), Backend::Ebpf));
        }
        // given a cursor that the history no longer reaches
        let Poll::Ready(Read::Gone(Some(10), at)) = read(&history, begin) else { panic!("ten are gone") };
        let Poll::Ready(Read::Line(line, after)) = read(&history, at) else { panic!("the rest is there") };
        assert_eq!(line.port, 10);
        assert_eq!(after.to_string().parse(), Ok(after));
        assert!(read(&history, history.end()).is_pending());
        // given a cursor of another run
        assert!(matches!(read(&History::new(8), after), Poll::Ready(Read::Gone(None, _))));
        for text in ["", "5", "x-1", "1-x", "-", "1-2-3"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}
