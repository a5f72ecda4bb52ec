//! Metrics for a scrape: over the agent's own socket, and over TCP for a Prometheus that can't ask there. Nothing else is
//! served over TCP, where whoever asks need not be anybody.
//!
//! So over TCP a connection has one answer and a short life, the places are shared among those who connect, and the text is made
//! off the loop, and not anew for everybody.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::exposition::Exposition;
use super::limits::{Buckets, SCRAPES};
use super::metrics::Now;
use super::off_loop::failed;
use super::state::Agent;
use super::troubles::Part;
use crate::platform::Host;
use crate::platform::contract::ServiceSystem as _;
use crate::wire::problem::Problem;

/// How many connections there may be, and for how long each: more than one Prometheus needs.
const MOST: usize = 16;
const LONGEST: Duration = Duration::from_secs(5);
/// How old a text may be when others than root ask for it.
const AGE: Duration = Duration::from_millis(200);

/// The texts of the metrics, as they were last made.
#[derive(Debug, Default)]
pub(super) struct Texts {
    open_metrics: Arc<Mutex<Option<Text>>>,
    prometheus: Arc<Mutex<Option<Text>>>,
}

#[derive(Debug)]
struct Text {
    begun: Instant,
    bytes: Bytes,
}

impl Agent {
    /// All metrics, as they were so long ago at most when they were asked for. With many ports the text takes a while to make,
    /// and while a look is taken there is none: it is made off the loop, and for one request at a time, so that those who ask
    /// meanwhile can have it as well.
    pub(super) async fn scrape(
        self: &Arc<Self>,
        exposition: Exposition,
        age: Duration,
    ) -> Result<Bytes, Problem> {
        let last = match exposition {
            Exposition::OpenMetrics => &self.texts.open_metrics,
            Exposition::Prometheus => &self.texts.prometheus,
        };
        let asked = Instant::now();
        let mut last = Arc::clone(last).lock_owned().await;
        // One that was begun while this one waited is new enough for it, however long it took.
        if let Some(text) = last.as_ref().filter(|text| text.begun + age >= asked) {
            return Ok(text.bytes.clone());
        }
        let (begun, agent) = (Instant::now(), Arc::clone(self));
        // It has the lock until it is done, also when nobody waits for it any more.
        let make = move || {
            let bytes = Bytes::from(agent.metrics.text(exposition, &agent.now()));
            *last = Some(Text { begun, bytes: bytes.clone() });
            bytes
        };
        spawn_blocking(make).await.map_err(failed)
    }

    /// The metrics for this user, who has them from the agent's own socket.
    pub(super) async fn scrape_by(
        self: &Arc<Self>,
        uid: u32,
        exposition: Exposition,
    ) -> Result<Bytes, Problem> {
        self.scrape(exposition, if uid == 0 { Duration::ZERO } else { AGE }).await
    }

    fn now(&self) -> Now {
        self.drain_events();
        let watch = self.watch();
        let held = self.settings().ports().into_iter();
        let held = held.map(|port| (port, watch.sockets(port).next().is_some())).collect();
        drop(watch);
        Now { held, degraded: self.degraded_parts() }
    }
}

/// Who has connected: a user of this host, or whoever is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    At(IpAddr),
}

impl Who {
    fn at(stream: &TcpStream, there: SocketAddr) -> Self {
        let user = stream.local_addr().ok().and_then(|here| Host::user_at(here, there));
        user.map_or(Self::At(there.ip().to_canonical()), Self::User)
    }
}

/// A connection that is served.
struct Place {
    who: Who,
    task: AbortHandle,
}

/// The metrics over TCP, where the configuration wants them.
pub(super) struct Scrapes {
    agent: Arc<Agent>,
    listener: Option<(SocketAddr, TcpListener)>,
    open: JoinSet<()>,
    /// The open connections, in the order in which they came.
    places: Vec<Place>,
    asked: Buckets<Who>,
}

impl Scrapes {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        let asked = Buckets::new(SCRAPES);
        let mut scrapes = Self { agent, listener: None, open: JoinSet::new(), places: Vec::new(), asked };
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
                Ok((stream, there)) => self.begin(stream, there),
                Err(error) => {
                    debug!(%error, "a scrape can't be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = self.open.join_next() => {}
        }
    }

    fn begin(&mut self, stream: TcpStream, there: SocketAddr) {
        let who = Who::at(&stream, there);
        if who != Who::User(0) && !self.asked.take_one(who, Instant::now()) {
            return self.agent.metrics.turned_away();
        }
        self.places.retain(|place| !place.task.is_finished());
        if self.places.len() == MOST {
            self.give_way();
        }
        let agent = Arc::clone(&self.agent);
        let task = self.open.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(LONGEST).max_buf_size(16 * 1024);
            http.keep_alive(false);
            let served = service_fn(move |request| {
                let agent = Arc::clone(&agent);
                async move { Ok::<_, Infallible>(answer(&agent, &request).await) }
            });
            let connection = http.serve_connection(TokioIo::new(stream), served);
            if let Ok(Err(error)) = timeout(LONGEST, connection).await {
                debug!(%error, "a scrape broke off");
            }
        });
        self.places.push(Place { who, task });
    }

    /// Ends the oldest connection of those who have most of them, so that one who asks once has a place.
    fn give_way(&mut self) {
        let count = |who| self.places.iter().filter(|place| place.who == who).count();
        let most = self.places.iter().map(|place| count(place.who)).max();
        if let Some(oldest) = self.places.iter().position(|place| Some(count(place.who)) == most) {
            self.places.remove(oldest).task.abort();
            self.agent.metrics.turned_away();
        }
    }
}

/// Another agent may just have ended there, so the address is one that may be used again.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = StdListener::bind(at)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn answer(agent: &Arc<Agent>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let plain = |status, text: &'static str| (status, PLAIN, Bytes::from_static(text.as_bytes()));
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let exposition = Exposition::asked(request.headers());
            match agent.scrape(exposition, AGE).await {
                Ok(text) => (StatusCode::OK, exposition.content_type(), text),
                Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, problem.detail.into()),
            }
        }
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
        _ => plain(StatusCode::NOT_FOUND, "only /metrics is here; all else is at the agent's socket\n"),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).header(ALLOW, "GET, HEAD");
    response.body(Full::new(body)).unwrap_or_default()
}
