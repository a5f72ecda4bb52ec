//! Answering a request from the history: page by page, as fast as the client reads.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::debug;

use super::super::api::problem;
use super::super::state::Agent;
use crate::history::{self, Page};
use crate::model::Span;
use crate::platform::Host;
use crate::platform::contract::{HistoryError, HistoryReader, HistorySystem as _};
use crate::wire;
use crate::wire::history::HistoryLine;
use crate::wire::problem::Problem;

/// The history of a span, for this user.
pub(in crate::agent) async fn answer(agent: Arc<Agent>, uid: u32, span: Span) -> Result<Response, Problem> {
    let Some(store) = agent.store() else {
        return Err(problem(
            StatusCode::NOT_FOUND,
            "this agent keeps no history",
            "add a [history] to the agent's configuration, and start the agent anew",
        ));
    };
    agent.drain_events_if_free();
    store.catch_up().await;
    let path = store.path.clone();
    let trouble = store.trouble().map(|trouble| trouble.since);
    let asked = span.clone();
    let begin = move || begin(&path, &asked, trouble);
    let (reader, first) = agent.off_loop.run(uid, begin).await?.map_err(|error| unread(&error))?;
    let (send, pages) = channel(1);
    tokio::spawn(send_all(Arc::clone(&agent), uid, span, reader, first, trouble, send));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Pages(pages))).into_response())
}

fn begin(
    path: &Path,
    span: &Span,
    trouble: Option<SystemTime>,
) -> Result<(Box<dyn HistoryReader>, Page), HistoryError> {
    let mut reader = Host::read_history(path)?;
    let first = history::first_page(&mut *reader, span, trouble)?;
    Ok((reader, first))
}

/// Sends one page after the other, and `None` after the last: without it, the stream is cut off.
async fn send_all(
    agent: Arc<Agent>,
    uid: u32,
    span: Span,
    mut reader: Box<dyn HistoryReader>,
    mut page: Page,
    trouble: Option<SystemTime>,
    send: Sender<Option<Bytes>>,
) {
    loop {
        let bytes = match lines(&page) {
            Ok(bytes) => bytes,
            Err(error) => return debug!(%error, "the history can't be told"),
        };
        tokio::select! {
            biased;
            () = agent.has_to_end() => return,
            sent = send.send(Some(bytes)) => if sent.is_err() { return },
        }
        let Some(after) = page.more_after else {
            let _ = send.send(None).await;
            return;
        };
        let span = span.clone();
        let read = move || {
            let page = history::next_page(&mut *reader, &span, after, trouble);
            (reader, page)
        };
        let read = agent.off_loop.run(uid, read).await;
        match read {
            Ok((back, Ok(next))) => (reader, page) = (back, next),
            Ok((_, Err(error))) => return debug!(%error, "the history can't be read on"),
            Err(_) => return,
        }
    }
}

fn lines(page: &Page) -> io::Result<Bytes> {
    let mut text = String::new();
    for record in &page.records {
        text.push_str(&wire::line(&HistoryLine::from(record))?);
    }
    Ok(text.into())
}

fn unread(error: &HistoryError) -> Problem {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("the history can't be read: {error}"),
        "ask again; the agent's log and /v1/status have the details",
    )
}

/// The pages, as a body. One that is cut off must not look as if it were whole, so that it ends with an error.
struct Pages(Receiver<Option<Bytes>>);

impl hyper::body::Body for Pages {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|page| match page {
            Some(page) => page.map(|bytes| Ok(Frame::data(bytes))),
            None => Some(Err(io::Error::other("the history is cut off"))),
        })
    }
}
