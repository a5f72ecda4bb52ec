//! The event stream: NDJSON, or server-sent events on request.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::history::{Cursor, HistoryRead};
use super::metrics::Subscriber;
use super::state::Agent;
use crate::model::{LostIn, Port, WatchEvent, WatchKind};
use crate::platform::contract::Platform as _;
use crate::wire;
use crate::wire::event::WatchLine;
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
    framing: Framing,
    /// The ports that were asked for; `None` for all.
    ports: Option<Asked>,
    netns: Option<u32>,
    at: Cursor,
    /// Events to send before those of the history.
    first: std::vec::IntoIter<WatchEvent>,
    _counted: Subscriber,
}

/// Ports in the order asked, and to look up.
struct Asked(Vec<Port>, HashSet<Port>);

impl Subscription {
    /// Begins after the cursor; without a cursor, begins now, with the current holders of the ports. `ports` is `None` for
    /// all that there are.
    pub(super) fn new(
        agent: Arc<Agent>,
        framing: Framing,
        ports: Option<Vec<Port>>,
        netns: Option<u32>,
        after: Option<Cursor>,
    ) -> Self {
        agent.drain_events();
        let counted = agent.metrics.subscriber();
        let ports = ports.map(|ports| {
            let set = ports.iter().copied().collect();
            Asked(ports, set)
        });
        let first = if after.is_none() { current(&agent, ports.as_ref()) } else { Vec::new() };
        let at = after.unwrap_or_else(|| agent.history.end());
        Self { agent, framing, ports, netns, at, first: first.into_iter(), _counted: counted }
    }

    pub(super) fn into_response(self) -> Response {
        let kind = match self.framing {
            Framing::Lines => "application/x-ndjson",
            Framing::ServerSent => "text/event-stream",
        };
        ([(CONTENT_TYPE, kind)], Body::new(self)).into_response()
    }

    fn wants(&self, event: &WatchEvent) -> bool {
        let of_all = matches!(event.kind, WatchKind::Lost { .. } | WatchKind::Ready { .. });
        of_all || (self.is_here(event.netns) && self.asks_for(event.port))
    }

    fn is_concerned(&self, lost_in: LostIn) -> bool {
        lost_in.concerns(self.netns, self.agent.host.netns())
    }

    fn asks_for(&self, port: Port) -> bool {
        self.ports.as_ref().is_none_or(|Asked(_, ports)| ports.contains(&port))
    }

    fn is_here(&self, netns: Option<u32>) -> bool {
        self.netns.is_none() || netns.is_none() || self.netns == netns
    }

    fn first_port(&self) -> Port {
        self.ports.as_ref().and_then(|Asked(ports, _)| ports.first().copied()).unwrap_or(Port::EVERY)
    }

    fn frame(&self, event: &WatchEvent, cursor: Cursor) -> Bytes {
        let cursor = cursor.to_string();
        let told = match event.kind {
            WatchKind::Lost { count, lost_in } => {
                // None of this reader's, but the look that stands in for them is of all: what it has already is not told.
                let count = if self.is_concerned(lost_in) { count } else { Some(0) };
                let kind = WatchKind::Lost { count, lost_in };
                &WatchEvent { kind, port: self.first_port(), ..event.clone() }
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

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            while let Some(event) = self.first.next() {
                if self.wants(&event) {
                    return Poll::Ready(self.frame(&event, self.at));
                }
            }
            match self.agent.history.poll_read(self.at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(HistoryRead::Event(event, next)) => {
                    self.at = next;
                    if self.wants(&event) {
                        return Poll::Ready(self.frame(&event, next));
                    }
                }
                Poll::Ready(HistoryRead::Lost(..)) => {
                    // The current holders of the ports replace the lost events, and those that the history still has.
                    let wanted = |port, netns| self.is_here(netns) && self.asks_for(port);
                    let (count, end) =
                        self.agent.history.skip(self.at, wanted, |lost_in| self.is_concerned(lost_in));
                    self.at = end;
                    // Other ports' events alone were missed.
                    if count == Some(0) {
                        continue;
                    }
                    let kind = WatchKind::Lost { count, lost_in: LostIn::Anywhere };
                    let lost = WatchEvent::now(kind, self.first_port(), self.agent.backend);
                    let mut first = vec![lost];
                    first.extend(current(&self.agent, self.ports.as_ref()));
                    self.first = first.into_iter();
                }
            }
        }
    }
}

/// Who holds the ports; for all ports, with one `ready` for them together.
fn current(agent: &Agent, ports: Option<&Asked>) -> Vec<WatchEvent> {
    let watch = agent.watch();
    let Some(Asked(ports, _)) = ports else {
        let mut events = watch.current(&watch.held_ports());
        events.retain(|event| !matches!(event.kind, WatchKind::Ready { .. }));
        events.extend(watch.current(&[Port::EVERY]).pop());
        return events;
    };
    watch.current(ports)
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
        self.next(cx).map(|bytes| Some(Ok(Frame::data(bytes))))
    }
}
