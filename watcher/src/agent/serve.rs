//! Connections: the socket, who is on it, and one task for each.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::limits::HEAD;
use super::{Agent, api};
use crate::platform::host::peer::Peer;
use crate::platform::host::socket::{self, Listener, Stream};

/// The longest that requests under way are waited for at the end: a clean's own timeouts are shorter.
const FINISH: Duration = Duration::from_secs(30);

/// The connections of an agent.
pub(super) struct Connections {
    agent: Arc<Agent>,
    listener: Listener,
    open: JoinSet<()>,
}

impl Connections {
    pub(super) fn new(agent: Arc<Agent>, listener: Listener) -> Self {
        Self { agent, listener, open: JoinSet::new() }
    }

    /// Takes the next connection, or takes note that one has ended.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            accepted = socket::accept(&self.listener) => match accepted {
                Ok(stream) => self.begin(stream),
                Err(error) => {
                    // Out of descriptors, most likely: others have to end before the next can begin.
                    warn!(%error, "a connection can't be taken");
                    let _ = self.open.join_next().await;
                }
            },
            Some(_) = self.open.join_next() => {}
        }
    }

    fn begin(&mut self, stream: Stream) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => return debug!(%error, "a client that can't be known"),
        };
        let Some(place) = self.agent.room.enter(peer.uid) else {
            self.agent.metrics.turned_away();
            return warn!(uid = peer.uid, "too many connections");
        };
        let agent = Arc::clone(&self.agent);
        self.open.spawn(async move {
            let _place = place;
            let router = api::router(Arc::clone(&agent)).layer(Extension(Arc::new(peer)));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = agent.ending.notified() => {
                    // A request under way is answered; an idle connection ends at once.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "a connection broke");
            }
        });
    }

    /// Waits until the requests under way are answered.
    pub(super) async fn finish(mut self) {
        drop(self.listener);
        let all = async { while self.open.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, all).await.is_err() {
            warn!("some requests were not finished");
        }
    }
}
