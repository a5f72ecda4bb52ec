//! The recent past: numbered events in a bounded history, from which every subscriber reads at its own pace.
//!
//! Readers pull, nothing is pushed: a reader that is slow, or that reconnects, continues from its cursor, and learns how
//! many events are lost if the history no longer reaches back that far. So no reader can block another or use up memory.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::model::{LostIn, Port, WatchEvent, WatchKind};

/// How many events are kept.
const LENGTH: usize = 4096;
/// Of so many older ones it is known which readers they were for.
const GONE: usize = 1 << 16;

/// How many readers can wait: more than there can be connections.
const WAITING: usize = 2048;

/// A place between two events: everything before it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Which run of the agent: numbers from another run mean nothing.
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
        parse().ok_or_else(|| format!("{text:?} is not a cursor: take one from an event's line"))
    }
}

/// What a reader is given.
#[derive(Debug)]
pub(super) enum HistoryRead {
    /// The next event, and the cursor after it.
    Event(Arc<WatchEvent>, Cursor),
    /// Events lost to the reader (`None` for a cursor of an earlier run), and where to continue.
    Lost(Option<u64>, Cursor),
}

/// What is left of an event that is no longer kept.
#[derive(Debug)]
enum Gone {
    /// A bind, listen, release, conflict or refusal, and in which network namespace it was.
    Line(Port, Option<u32>),
    /// So many of them, which were lost before.
    Lost(Option<u64>, LostIn),
    /// What is not counted.
    Other,
}

impl From<&WatchEvent> for Gone {
    fn from(event: &WatchEvent) -> Self {
        match event.kind {
            WatchKind::Bind
            | WatchKind::Listen
            | WatchKind::Release
            | WatchKind::Conflict { .. }
            | WatchKind::Refused => Self::Line(event.port, event.netns),
            WatchKind::Lost { count, lost_in } => Self::Lost(count, lost_in),
            WatchKind::Held | WatchKind::Ready { .. } | WatchKind::Free => Self::Other,
        }
    }
}

/// The events.
#[derive(Debug)]
pub(super) struct History {
    run: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<WatchEvent>>,
    gone: VecDeque<Gone>,
    /// The number of the event that comes next.
    next: u64,
    waiting: Vec<Waker>,
}

impl History {
    /// An empty history; `run` distinguishes it from those of other runs.
    pub(super) fn new(run: u64) -> Self {
        Self { run, inner: Mutex::default() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the events consistent: each change is one push or one pop.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, and wakes the readers.
    pub(super) fn push(&self, event: WatchEvent) {
        let mut inner = self.inner();
        inner.events.push_back(Arc::new(event));
        inner.next += 1;
        if inner.events.len() > LENGTH
            && let Some(oldest) = inner.events.pop_front()
        {
            inner.gone.push_back(Gone::from(&*oldest));
            if inner.gone.len() > GONE {
                inner.gone.pop_front();
            }
        }
        drop(inner);
        self.wake();
    }

    /// The cursor after the newest event.
    pub(super) fn end(&self) -> Cursor {
        Cursor { run: self.run, next: self.inner().next }
    }

    /// The cursor after the newest event, and how many binds, listens, releases and conflicts are between the two that are
    /// wanted; `None` where that is not known.
    pub(super) fn skip(
        &self,
        at: Cursor,
        wanted: impl Fn(Port, Option<u32>) -> bool,
        concerned: impl Fn(LostIn) -> bool,
    ) -> (Option<u64>, Cursor) {
        let inner = self.inner();
        let end = Cursor { run: self.run, next: inner.next };
        let kept = (inner.gone.len() + inner.events.len()) as u64;
        let is_known = at.run == self.run && (inner.next - kept..=inner.next).contains(&at.next);
        if !is_known {
            return (None, end);
        }
        let places = kept - (inner.next - at.next);
        let lines = |gone: &Gone| match *gone {
            Gone::Line(port, netns) => Some(u64::from(wanted(port, netns))),
            Gone::Lost(count, lost_in) if concerned(lost_in) => count,
            Gone::Lost(..) => Some(0),
            Gone::Other => Some(0),
        };
        let gone = inner.gone.iter().map(lines);
        let all = gone.chain(inner.events.iter().map(|event| lines(&Gone::from(&**event))));
        (all.skip(usize::try_from(places).unwrap_or(usize::MAX)).sum(), end)
    }

    /// What comes after the cursor; pending until there is an event.
    pub(super) fn poll_read(&self, at: Cursor, cx: &mut Context<'_>) -> Poll<HistoryRead> {
        let mut inner = self.inner();
        let oldest = inner.next - inner.events.len() as u64;
        let here = |next| Cursor { run: self.run, next };
        if at.run != self.run || at.next > inner.next {
            return Poll::Ready(HistoryRead::Lost(None, here(inner.next)));
        }
        if at.next < oldest {
            return Poll::Ready(HistoryRead::Lost(Some(oldest - at.next), here(oldest)));
        }
        let place = usize::try_from(at.next - oldest).unwrap_or(usize::MAX);
        if let Some(event) = inner.events.get(place) {
            return Poll::Ready(HistoryRead::Event(Arc::clone(event), here(at.next + 1)));
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        let too_many = inner.waiting.len() > WAITING;
        drop(inner);
        // Most of them belong to readers that have gone since the last event. Those that remain come back.
        if too_many {
            self.wake();
        }
        Poll::Pending
    }

    /// Wakes the readers without an event.
    pub(super) fn wake(&self) {
        let waiting = std::mem::take(&mut self.inner().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Backend;

    fn read(history: &History, at: Cursor) -> Poll<HistoryRead> {
        history.poll_read(at, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn readers_that_have_gone_do_not_pile_up() {
        struct Reader;
        impl std::task::Wake for Reader {
            fn wake(self: Arc<Self>) {}
        }
        let history = History::new(7);
        for _ in 0..10_000 {
            let waker = Waker::from(Arc::new(Reader));
            assert!(history.poll_read(history.end(), &mut Context::from_waker(&waker)).is_pending());
        }
        assert!(history.inner().waiting.len() <= WAITING);
    }

    #[test]
    fn what_a_reader_has_missed_is_counted_as_far_as_it_is_wanted() {
        let history = History::new(7);
        let begin = history.end();
        let all: fn(Port, Option<u32>) -> bool = |_, _| true;
        let first: fn(Port, Option<u32>) -> bool = |port, _| port.number == 1;
        let push = |kind: WatchKind, port| {
            history.push(WatchEvent::now(kind, Port::tcp(port), Backend::Ebpf));
        };
        for _ in 0..LENGTH {
            for kind in [WatchKind::Bind, WatchKind::Listen, WatchKind::Release, WatchKind::Free] {
                push(kind, 1);
            }
        }
        push(WatchKind::Bind, 2);
        push(WatchKind::Lost { count: Some(5), lost_in: LostIn::Home }, 2);
        let lines = 3 * LENGTH as u64;
        push(WatchKind::Lost { count: Some(70), lost_in: LostIn::Elsewhere }, 2);
        let home = |lost_in: LostIn| lost_in.concerns(Some(1), 1);
        let skip = |at, wanted: fn(Port, Option<u32>) -> bool| history.skip(at, wanted, home);
        assert_eq!(skip(begin, all), (Some(lines + 6), history.end()));
        assert_eq!(skip(begin, first).0, Some(lines + 5));
        let middle = Cursor { next: 4 * LENGTH as u64, ..begin };
        assert_eq!(skip(middle, all).0, Some(6));
        assert_eq!(skip(history.end(), all).0, Some(0));
        // and not where nobody knows
        push(WatchKind::Lost { count: None, lost_in: LostIn::Anywhere }, 2);
        assert_eq!(skip(middle, all).0, None);
        assert_eq!(skip(Cursor { run: 8, ..begin }, all).0, None);
        for _ in 0..LENGTH + GONE {
            push(WatchKind::Free, 1);
        }
        assert_eq!(skip(begin, all).0, None);
    }

    #[test]
    fn a_reader_reads_on_from_its_cursor_and_is_told_what_is_gone() {
        let history = History::new(7);
        let begin = history.end();
        assert!(read(&history, begin).is_pending());
        for port in 0..LENGTH + 10 {
            let port = Port::tcp(u16::try_from(port).unwrap());
            history.push(WatchEvent::now(WatchKind::Bind, port, Backend::Ebpf));
        }
        // given a cursor that the history no longer reaches
        let Poll::Ready(HistoryRead::Lost(Some(10), at)) = read(&history, begin) else {
            panic!("ten are gone")
        };
        let Poll::Ready(HistoryRead::Event(event, after)) = read(&history, at) else {
            panic!("the rest is there")
        };
        assert_eq!(event.port, Port::tcp(10));
        assert_eq!(after.to_string().parse(), Ok(after));
        assert!(read(&history, history.end()).is_pending());
        // given a cursor of another run
        assert!(matches!(read(&History::new(8), after), Poll::Ready(HistoryRead::Lost(None, _))));
        for text in ["", "5", "x-1", "1-x", "-", "1-2-3"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}
