//! The event stream: NDJSON, or server-sent events on request.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::history::{Cursor, HistoryRead};
use super::metrics::Subscriber;
use super::state::{Agent, Watching};
use crate::model::{LostIn, Port, WatchEvent, WatchKind};
use crate::platform::contract::Platform as _;
use crate::wire;
use crate::wire::event::WatchLine;
use crate::wire::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;

/// The format of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// One JSON object per line.
    Lines,
    /// `text/event-stream` (the HTML standard's server-sent events).
    ServerSent,
}

/// The event stream of one subscriber.
pub(super) struct Subscription {
    agent: Arc<Agent>,
    uid: u32,
    framing: Framing,
    selection: Arc<Selection>,
    at: Cursor,
    /// Events to send before those of the history.
    first: std::vec::IntoIter<WatchEvent>,
    /// What stands in for events that were lost is being read.
    reading: Option<Reading>,
    _counted: Subscriber,
}

/// Where the stream goes on, and what comes first.
type Beginning = (Cursor, Vec<WatchEvent>);
type Reading = Pin<Box<dyn Future<Output = Result<Beginning, Problem>> + Send>>;

/// What a subscriber wants to be told of.
pub(super) struct Selection {
    /// The ports in the order asked, and to look up; `None` for all that there are.
    ports: Option<(Vec<Port>, HashSet<Port>)>,
    netns: Option<u32>,
}

impl Selection {
    pub(super) fn new(ports: Option<Vec<Port>>, netns: Option<u32>) -> Self {
        let ports = ports.map(|ports| {
            let set = ports.iter().copied().collect();
            (ports, set)
        });
        Self { ports, netns }
    }

    fn wants(&self, event: &WatchEvent) -> bool {
        let of_all = matches!(event.kind, WatchKind::Lost { .. } | WatchKind::Ready { .. });
        of_all || self.asks_for(event.port, event.netns)
    }

    fn asks_for(&self, port: Port, netns: Option<u32>) -> bool {
        let is_here = self.netns.is_none() || netns.is_none() || self.netns == netns;
        is_here && self.ports.as_ref().is_none_or(|(_, ports)| ports.contains(&port))
    }

    fn is_concerned(&self, lost_in: LostIn, agent: &Agent) -> bool {
        lost_in.concerns(self.netns, agent.host.netns())
    }

    fn first_port(&self) -> Port {
        self.ports.as_ref().and_then(|(ports, _)| ports.first().copied()).unwrap_or(Port::EVERY)
    }

    /// Who holds the ports; for all ports, with one `ready` for them together.
    fn current(&self, watch: &Watching<'_>) -> Vec<WatchEvent> {
        let Some((ports, _)) = &self.ports else {
            let mut events = watch.current(&watch.held_ports());
            events.retain(|event| !matches!(event.kind, WatchKind::Ready { .. }));
            events.extend(watch.current(&[Port::EVERY]).pop());
            return events;
        };
        watch.current(ports)
    }

    /// How many lines were lost after the cursor, where that is known, and the cursor after all that there are.
    fn lost(&self, agent: &Agent, at: Cursor) -> (Option<u64>, Cursor) {
        let wanted = |port, netns| self.asks_for(port, netns);
        agent.history.skip(at, wanted, |lost_in| self.is_concerned(lost_in, agent))
    }

    /// The current holders of the ports, which replace what was lost after the cursor, and what the history still has.
    fn instead_of_lost(&self, agent: &Agent, at: Cursor) -> Beginning {
        // No event joins the history meanwhile.
        let watch = agent.watch();
        let (count, end) = self.lost(agent, at);
        let kind = WatchKind::Lost { count, lost_in: LostIn::Anywhere };
        let mut first = vec![WatchEvent::now(kind, self.first_port(), agent.backend)];
        first.extend(self.current(&watch));
        (end, first)
    }
}

impl Subscription {
    /// Begins after the cursor; without a cursor, begins now, with the current holders of the ports. It reads processes, so
    /// it is not for the loop.
    pub(super) fn new(
        agent: Arc<Agent>,
        uid: u32,
        framing: Framing,
        selection: Selection,
        after: Option<Cursor>,
    ) -> Self {
        agent.drain_events();
        let counted = agent.metrics.subscriber();
        let (at, first) = match after {
            Some(after) => (after, Vec::new()),
            None => {
                // No event joins the history between the two.
                let watch = agent.watch();
                (agent.history.end(), selection.current(&watch))
            }
        };
        let (selection, first) = (Arc::new(selection), first.into_iter());
        Self { agent, uid, framing, selection, at, first, reading: None, _counted: counted }
    }

    pub(super) fn into_response(self) -> Response {
        let kind = match self.framing {
            Framing::Lines => "application/x-ndjson",
            Framing::ServerSent => "text/event-stream",
        };
        ([(CONTENT_TYPE, kind)], Body::new(self)).into_response()
    }

    fn frame(&self, event: &WatchEvent, cursor: Cursor) -> Bytes {
        let cursor = cursor.to_string();
        let told = match event.kind {
            WatchKind::Lost { count, lost_in } => {
                // None of this reader's, but the look that stands in for them is of all: what it has already is not told.
                let count = if self.selection.is_concerned(lost_in, &self.agent) { count } else { Some(0) };
                let kind = WatchKind::Lost { count, lost_in };
                &WatchEvent { kind, port: self.selection.first_port(), ..event.clone() }
            }
            _ => event,
        };
        let line = WatchLine::new(told, Some(cursor.clone()));
        let json = wire::line(&line).unwrap_or_default();
        let text = match self.framing {
            Framing::Lines => json,
            Framing::ServerSent => {
                format!("id: {cursor}\nevent: {}\ndata: {json}\n", event.kind.name())
            }
        };
        text.into()
    }

    /// The next line; `None` where it can't go on.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                let Ok((at, first)) = read else { return Poll::Ready(None) };
                (self.at, self.first) = (at, first.into_iter());
            }
            while let Some(event) = self.first.next() {
                if self.selection.wants(&event) {
                    return Poll::Ready(Some(self.frame(&event, self.at)));
                }
            }
            match self.agent.history.poll_read(self.at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(HistoryRead::Event(event, next)) => {
                    self.at = next;
                    if self.selection.wants(&event) {
                        return Poll::Ready(Some(self.frame(&event, next)));
                    }
                }
                Poll::Ready(HistoryRead::Lost(..)) => match self.selection.lost(&self.agent, self.at) {
                    // Other ports' events alone were missed.
                    (Some(0), end) => self.at = end,
                    _ => self.reading = Some(self.read_instead()),
                },
            }
        }
    }

    /// Reads on another thread what stands in for lost events: their holders' names are in `/proc`.
    fn read_instead(&self) -> Reading {
        let (agent, selection, uid, at) =
            (Arc::clone(&self.agent), Arc::clone(&self.selection), self.uid, self.at);
        let of = Arc::clone(&agent);
        let read = move || selection.instead_of_lost(&of, at);
        Box::pin(async move { agent.off_loop.run(uid, read).await })
    }
}

impl hyper::body::Body for Subscription {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.agent.is_ending() {
            return Poll::Ready(None);
        }
        self.next(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
