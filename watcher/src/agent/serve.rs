//! Connections: the listening socket, the clients, and one task for each connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Extension;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::api;
use super::limits::{HEAD, ROOM, Standing};
use super::state::Agent;
use crate::platform::Host;
use crate::platform::contract::{AgentSystem, Peer};

type Listener = <Host as AgentSystem>::Listener;
type Stream = <Host as AgentSystem>::Stream;

/// The longest wait at shutdown for cleans in progress.
const FINISH: Duration = Duration::from_secs(30);
/// The longest wait at shutdown for the answers to requests other than cleans; for a client to read the rest of one that has
/// begun, which may be a stream; and for the request of a client that has connected and not asked yet.
const ANSWERING: Duration = Duration::from_millis(700);
const READING: Duration = Duration::from_millis(150);
const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// The connections of an agent.
pub(super) struct Connections {
    agent: Arc<Agent>,
    router: Router,
    listener: Listener,
    open: JoinSet<()>,
    /// When the log was last told that connections can't be accepted.
    complained: Option<Instant>,
}

impl Connections {
    pub(super) fn new(agent: Arc<Agent>, listener: Listener) -> Self {
        let router = api::router(Arc::clone(&agent));
        Self { agent, router, listener, open: JoinSet::new(), complained: None }
    }

    /// Accepts a connection, or reaps a finished one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            accepted = Host::accept(&self.listener) => match accepted {
                Ok(stream) => self.begin(stream),
                Err(error) => self.hard_pressed(&error).await,
            },
            Some(_) = self.open.join_next() => {}
        }
    }

    /// A connection can't be accepted, most likely because no descriptors are left. One that waits is accepted with those
    /// kept back, and served if it is root's.
    async fn hard_pressed(&mut self, error: &io::Error) {
        const PAUSE: Duration = Duration::from_millis(50);
        if self.complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            self.complained = Some(Instant::now());
            warn!(%error, "connections can't be accepted; root's are, with the descriptors kept back");
        }
        let agent = Arc::clone(&self.agent);
        let _lent = agent.reserve.lend();
        match timeout(PAUSE, Host::accept(&self.listener)).await {
            Ok(Ok(stream)) => self.begin(stream),
            Ok(Err(_)) => sleep(PAUSE).await,
            Err(_) => {}
        }
    }

    fn begin(&mut self, stream: Stream) {
        let peer = match Host::peer(&stream) {
            Ok(peer) => peer,
            Err(error) => return debug!(%error, "can't read the client's credentials"),
        };
        let standing = self.agent.settings().access.standing(&peer);
        let has_room = !self.agent.reserve.is_lent() && Host::has_room_beside(&stream, ROOM);
        let may = has_room || standing == Standing::Root;
        let Some(permit) = may.then(|| self.agent.connections.acquire(peer.uid(), standing)).flatten() else {
            self.agent.metrics.turned_away();
            if self.agent.refusals.may_tell(peer.uid(), Instant::now()) {
                warn!(uid = peer.uid(), "too many connections");
            }
            return;
        };
        let agent = Arc::clone(&self.agent);
        let router = self.router.clone().layer(Extension(Arc::new(peer)));
        self.open.spawn(async move {
            let _permit = permit;
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
            let asked = Arc::new(Asked::default());
            let (service, noted) = (TowerToHyperService::new(router), Arc::clone(&asked));
            let service = service_fn(move |request: Request<Incoming>| {
                let answering = noted.begin();
                let answer = service.call(request);
                async move {
                    let _answering = answering;
                    answer.await
                }
            });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return tell_if_broken(ended),
                () = agent.has_to_end() => {}
            }
            tokio::select! {
                ended = connection.as_mut() => return tell_if_broken(ended),
                () = asked.first.notified() => {}
                () = sleep(FIRST_REQUEST) => {}
            }
            // A request in progress is answered; an idle connection ends at once. So does soon one on which no answer is being
            // made: a head or a body that does not come is not waited for, and neither is a client that does not read.
            connection.as_mut().graceful_shutdown();
            let last = async {
                let _ = timeout(FINISH, asked.answered()).await;
                sleep(READING).await;
            };
            tokio::select! {
                ended = connection => tell_if_broken(ended),
                () = last => {}
            }
        });
    }

    /// Waits until the cleans in progress have ended, and all requests are answered that can be.
    pub(super) async fn finish(mut self) {
        drop(self.listener);
        let begun = Instant::now();
        loop {
            let all = async { while self.open.join_next().await.is_some() {} };
            if timeout(ANSWERING, all).await.is_ok() {
                return;
            }
            // A client that is slow to ask, or to read its answer, is not waited for.
            if !self.agent.under_way.are_taken() || begun.elapsed() > FINISH {
                return debug!("some connections were broken off");
            }
        }
    }
}

/// What has been asked for on a connection.
#[derive(Debug, Default)]
struct Asked {
    first: Notify,
    /// Whether an answer is being made: up to its head, because a body can be a stream without end.
    answering: watch::Sender<bool>,
}

/// While this lives, an answer is being made.
struct Answering(Arc<Asked>);

impl Asked {
    fn begin(self: &Arc<Self>) -> Answering {
        self.first.notify_one();
        self.answering.send_replace(true);
        Answering(Arc::clone(self))
    }

    /// Ready while no answer is being made.
    async fn answered(&self) {
        // Fails only if the sender is gone, and that is ours.
        let _ = self.answering.subscribe().wait_for(|answering| !answering).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.send_replace(false);
    }
}

fn tell_if_broken(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}
