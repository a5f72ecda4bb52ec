//! Metrics for a scrape: over the agent's own socket, and over TCP for a Prometheus that can't ask there. Nothing else is
//! served over TCP, where no caller is known.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::exposition::Exposition;
use super::limits::HEAD;
use super::metrics::Now;
use super::state::Agent;
use super::troubles::Part;

/// How many connections there may be, and for how long each: more than one Prometheus needs.
const MOST: usize = 16;
const LONGEST: Duration = Duration::from_secs(300);

impl Agent {
    /// All metrics, as they are now.
    pub(super) fn scrape(&self, exposition: Exposition) -> String {
        self.drain_events();
        let watch = self.watch();
        let held = self.settings().ports().into_iter();
        let held = held.map(|port| (port, watch.sockets(port).next().is_some())).collect();
        drop(watch);
        self.metrics.text(exposition, &Now { held, degraded: self.degraded_parts() })
    }
}

/// The metrics over TCP, where the configuration wants them.
pub(super) struct Scrapes {
    agent: Arc<Agent>,
    listener: Option<(SocketAddr, TcpListener)>,
    open: JoinSet<()>,
}

impl Scrapes {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        let mut scrapes = Self { agent, listener: None, open: JoinSet::new() };
        scrapes.follow_configuration();
        scrapes
    }

    /// Listens where the configuration says, if it does not yet. An address that can't be had is a trouble that the agent
    /// lives with.
    pub(super) fn follow_configuration(&mut self) {
        let wanted = self.agent.settings().config.agent.metrics;
        if self.listener.as_ref().map(|&(at, _)| at) == wanted {
            return;
        }
        self.listener = None;
        let listened =
            wanted.map(|at| listen(at).map(|listener| (at, listener)).map_err(|error| (at, error)));
        let trouble = match listened.transpose() {
            Ok(listener) => {
                if let Some((at, _)) = &listener {
                    info!(%at, "metrics are served over TCP as well");
                }
                self.listener = listener;
                None
            }
            Err((at, error)) => Some(format!("metrics can't be served at {at}: {error}")),
        };
        self.agent.troubles.note(Part::Metrics, trouble);
    }

    /// Accepts a connection, or reaps a finished one.
    pub(super) async fn next(&mut self) {
        let accept = async {
            match &self.listener {
                Some((_, listener)) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((stream, _)) if self.open.len() < MOST => self.begin(stream),
                Ok(_) => self.agent.metrics.turned_away(),
                Err(error) => {
                    debug!(%error, "a scrape can't be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = self.open.join_next() => {}
        }
    }

    fn begin(&mut self, stream: TcpStream) {
        let agent = Arc::clone(&self.agent);
        self.open.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 * 1024);
            let served = service_fn(|request| {
                let agent = Arc::clone(&agent);
                // Another thread may take a look, which may take long, and has what is asked for.
                let answer = spawn_blocking(move || answer(&agent, &request));
                async { Ok::<_, Infallible>(answer.await.unwrap_or_default()) }
            });
            let connection = http.serve_connection(TokioIo::new(stream), served);
            if let Ok(Err(error)) = timeout(LONGEST, connection).await {
                debug!(%error, "a scrape broke off");
            }
        });
    }
}

/// Another agent may just have ended there, so the address is one that may be used again.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = StdListener::bind(at)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn answer(agent: &Agent, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = |status, text: &'static str| {
        (status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
    };
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let exposition = Exposition::asked(request.headers());
            (StatusCode::OK, exposition.content_type(), agent.scrape(exposition).into())
        }
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
        _ => plain(StatusCode::NOT_FOUND, "only /metrics is here; all else is at the agent's socket\n"),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).header(ALLOW, "GET, HEAD");
    response.body(Full::new(body)).unwrap_or_default()
}
