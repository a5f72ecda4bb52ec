//! The event stream: NDJSON, or server-sent events for who asks for them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;

use super::Agent;
use super::history::{Cursor, Read};
use super::metrics::Subscriber;
use crate::watch::{Line, What};

/// How the lines are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// One JSON object a line.
    Lines,
    /// `text/event-stream` (the HTML standard's server-sent events).
    ServerSent,
}

/// A line with the cursor that comes after it.
#[derive(Serialize)]
struct WithCursor<'a> {
    #[serde(flatten)]
    line: &'a Line,
    cursor: String,
}

/// What one subscriber reads.
pub(super) struct Subscription {
    agent: Arc<Agent>,
    framing: Framing,
    ports: Vec<u16>,
    netns: Option<u32>,
    at: Cursor,
    /// Lines that come before those of the history.
    first: std::vec::IntoIter<Line>,
    _counted: Subscriber,
}

impl Subscription {
    /// From the cursor on; from now on, beginning with who holds the ports, where there is none.
    pub(super) fn new(
        agent: Arc<Agent>,
        framing: Framing,
        ports: Vec<u16>,
        netns: Option<u32>,
        after: Option<Cursor>,
    ) -> Self {
        agent.take_in_events();
        let counted = agent.metrics.subscriber();
        let first = if after.is_none() { agent.watch().current(&ports) } else { Vec::new() };
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

    fn wants(&self, line: &Line) -> bool {
        let here = self.netns.is_none() || line.netns.is_none() || self.netns == line.netns;
        matches!(line.event, What::Lost | What::Ready) || (here && self.ports.contains(&line.port))
    }

    fn frame(&self, line: &Line, cursor: Cursor) -> Bytes {
        let cursor = cursor.to_string();
        let json = serde_json::to_string(&WithCursor { line, cursor: cursor.clone() }).unwrap_or_default();
        let text = match self.framing {
            Framing::Lines => format!("{json}\n"),
            Framing::ServerSent => {
                let event = serde_json::to_value(line.event).unwrap_or_default();
                format!("id: {cursor}\nevent: {}\ndata: {json}\n\n", event.as_str().unwrap_or_default())
            }
        };
        text.into()
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            while let Some(line) = self.first.next() {
                if self.wants(&line) {
                    return Poll::Ready(self.frame(&line, self.at));
                }
            }
            match self.agent.history.poll_read(self.at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Read::Line(line, next)) => {
                    self.at = next;
                    if self.wants(&line) {
                        return Poll::Ready(self.frame(&line, next));
                    }
                }
                Poll::Ready(Read::Gone(count, _)) => {
                    // What holds the ports now makes up for what is gone, and for what the history still has of it.
                    self.at = self.agent.history.end();
                    let port = self.ports.first().copied().unwrap_or_default();
                    let lost = Line { count, ..Line::blank(What::Lost, port, self.agent.backend) };
                    let mut first = vec![lost];
                    first.extend(self.agent.watch().current(&self.ports));
                    self.first = first.into_iter();
                }
            }
        }
    }
}

impl hyper::body::Body for Subscription {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.agent.is_ending.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        self.next(cx).map(|bytes| Some(Ok(Frame::data(bytes))))
    }
}
