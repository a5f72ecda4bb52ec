//! One network namespace as the agent sees it: an observer like any other, for the policy to clean with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use super::Agent;
use super::history::{Cursor, Read};
use crate::clock;
use crate::observe::{Backend, Event, EventKind, Observation, ObserveError, Observer, Socket};
use crate::watch::{Line, What};

/// The agent's observer, for one request in one network namespace.
pub(super) struct View {
    agent: Arc<Agent>,
    netns: u32,
    at: Cursor,
    pending: VecDeque<Observation>,
}

impl View {
    pub(super) fn new(agent: Arc<Agent>, netns: u32) -> Self {
        let at = agent.history.end();
        Self { agent, netns, at, pending: VecDeque::new() }
    }
}

impl Observer for View {
    fn backend(&self) -> Backend {
        Backend::Agent
    }

    fn snapshot(&mut self, port: u16) -> Result<Vec<Socket>, ObserveError> {
        let mut sockets = self.agent.watch().observer().snapshot(port)?;
        sockets.retain(|socket| socket.netns.is_none_or(|netns| netns == self.netns));
        Ok(sockets)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        loop {
            if let Some(observation) = self.pending.pop_front() {
                return Poll::Ready(Ok(observation));
            }
            // The kernel may have said more than the agent's own task has come to read.
            self.agent.take_in_events();
            match self.agent.history.poll_read(self.at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Read::Gone(count, next)) => {
                    self.at = next;
                    self.pending.push_back(Observation::Lost(count.unwrap_or(0)));
                }
                Poll::Ready(Read::Line(line, next)) => {
                    self.at = next;
                    if line.netns.is_none_or(|netns| netns == self.netns) {
                        self.pending.extend(event(&line).map(Observation::Event));
                    }
                }
            }
        }
    }

    fn set_ports(&mut self, _ports: &[u16]) -> Result<(), ObserveError> {
        Ok(())
    }

    fn may_hide_bound(&mut self, port: u16) -> Result<bool, ObserveError> {
        self.agent.watch().observer().may_hide_bound(port)
    }
}

/// A line as the event that it was made of.
fn event(line: &Line) -> Option<Event> {
    let kind = match line.event {
        What::Bind => EventKind::Bind,
        What::Listen => EventKind::Listen,
        What::Release => EventKind::Release,
        What::Conflict => EventKind::Conflict,
        What::Held | What::Ready | What::Free | What::Lost => return None,
    };
    let monotonic_ns = line.monotonic_ns?;
    let at = clock::at(monotonic_ns)?;
    Some(Event {
        kind,
        address: line.address.as_ref()?.parse().ok()?,
        monotonic_ns,
        at,
        time: SystemTime::now().checked_sub(at.elapsed())?,
        delay: line.delay_us.map(Duration::from_micros),
        pid: line.pid,
        uid: line.uid,
        comm: line.comm.clone().unwrap_or_default(),
        cookie: line
            .socket
            .as_deref()
            .and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()),
        netns: line.netns,
    })
}
