//! The interface: what each request is answered with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use super::events::{Framing, Subscription};
use super::problem::Problem;
use super::query::{CleanRequest, Query};
use super::view::View;
use super::{Agent, limits, metrics as counters, openapi};
use crate::clean::{Request, clean};
use crate::exclude::Exclusions;
use crate::observe::Backend;
use crate::owner::owners;
use crate::platform::host::peer::Peer;
use crate::platform::host::privileges;
use crate::report::{CleanReport, OwnerReport, OwnersReport, WaitReport, micros};
use crate::wait::{self, Limits};

type Caller = Extension<Arc<Peer>>;

/// The longest pause between two looks at a port that nobody seems to hold.
const PACE: Duration = Duration::from_millis(50);

/// Requests, and who answers them.
pub(super) fn router(agent: Arc<Agent>) -> Router {
    let only = |methods: &'static str| move || async move { not_allowed(methods) };
    Router::new()
        .route("/v1/ports", get(ports).fallback(only("GET")))
        .route("/v1/ports/{port}", get(owners_of).fallback(only("GET")))
        .route("/v1/ports/{port}/clean", post(clean_port).fallback(only("POST")))
        .route("/v1/ports/{port}/wait", get(wait_for).fallback(only("GET")))
        .route("/v1/events", get(stream).fallback(only("GET")))
        .route("/v1/status", get(status).fallback(only("GET")))
        .route("/v1/openapi.json", get(description).fallback(only("GET")))
        .route("/healthz", get(health).fallback(only("GET")))
        .route("/metrics", get(metrics).fallback(only("GET")))
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "there is no such path", "see /v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(limits::BODY))
        .with_state(agent)
}

fn not_allowed(methods: &str) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take the method",
        format!("use {methods}"),
    )
}

/// A watched port.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WatchedReport {
    /// The port.
    port: u16,
    /// The rule set that says what may be ended on it.
    identity: String,
    /// Whether somebody holds it, in any network namespace.
    held: bool,
}

/// The watched ports.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PortsReport {
    /// Each of them.
    ports: Vec<WatchedReport>,
}

/// The watched ports
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = PortsReport), (status = 403, body = Problem)))]
pub(super) async fn ports(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
) -> Result<Json<PortsReport>, Problem> {
    may_read(&agent, &peer)?;
    agent.take_in_events();
    let settings = agent.settings();
    let watch = agent.watch();
    let ports = settings.config.watch.iter().map(|watched| WatchedReport {
        port: watched.port,
        identity: settings.config.identity_of(watched.port).to_owned(),
        held: watch.sockets(watched.port).next().is_some(),
    });
    Ok(Json(PortsReport { ports: ports.collect() }))
}

/// Who holds a port, in all network namespaces or in the one of `?netns=INODE`
#[utoipa::path(get, path = "/v1/ports/{port}",
    params(("port" = u16, Path), ("netns" = Option<u32>, Query)),
    responses((status = 200, body = OwnersReport), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn owners_of(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    Path(port): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<OwnersReport>, Problem> {
    may_read(&agent, &peer)?;
    let port = watched(&agent, &port)?;
    let query = Query::parse(query.as_deref(), &["netns"])?;
    let netns = query.number("netns")?;
    let mut sockets = agent.sockets(port)?;
    sockets.retain(|socket| socket.owns_port() && (netns.is_none() || socket.netns == netns));
    let settings = agent.settings();
    let rules = rules(&settings.config, port)?;
    let exclusions = exclusions(&agent, &peer, &[]);
    let owners = owners(&sockets, &agent.host, &rules, &exclusions);
    Ok(Json(OwnersReport {
        port,
        owners: owners.iter().map(OwnerReport::from).collect(),
        backend: Backend::Agent,
    }))
}

/// End the stale owners of a port in the caller's network namespace
#[utoipa::path(post, path = "/v1/ports/{port}/clean", params(("port" = u16, Path)),
    request_body(content = Option<CleanRequest>),
    responses((status = 200, body = CleanReport), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn clean_port(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    Path(port): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<CleanReport>, Problem> {
    let (pid, uid) = (peer.pid, peer.uid);
    let refuse = |problem: Problem| {
        agent.metrics.refused();
        warn!(pid, uid, port, why = problem.detail, "a clean is refused");
        problem
    };
    if !agent.cleans.take(uid, Instant::now()) {
        return Err(refuse(too_many()));
    }
    // Who may not clean a port does not learn by the answer whether it is watched.
    let number = number_of(&port).map_err(refuse)?;
    let settings = agent.settings();
    if !settings.access.may_clean(&peer, number) {
        return Err(refuse(Problem::new(
            StatusCode::FORBIDDEN,
            format!("user {uid} may not have port {number} cleaned"),
            "name the user or a group of it under `clean` of the port's [[watch]] in the agent's configuration",
        )));
    }
    watched(&agent, &port).map_err(refuse)?;
    let unread = |error: BytesRejection| {
        Problem::new(error.status(), error.body_text(), format!("send {} bytes at most", limits::BODY))
    };
    let body = body.map_err(|error| refuse(unread(error)))?;
    let wanted = CleanRequest::parse(&body).map_err(refuse)?;
    if !wanted.protect.is_empty() && !peer.shares_pids() {
        return Err(refuse(Problem::bad_request(
            "the pids to protect are of another pid namespace than the agent's",
            "ask from the agent's own pid namespace",
        )));
    }
    let host = peer.host().map_err(|error| refuse(unknown_caller(&error.to_string())))?;
    let exclusions = exclusions(&agent, &peer, &wanted.protect);
    // Had the caller ended by now, its pid could be another's, and another's ancestors would be the ones excluded.
    if !peer.is_running() {
        return Err(refuse(unknown_caller(
            "it has ended, or lives in a pid namespace that can't be seen from here",
        )));
    }
    let request = Request {
        port: number,
        rules: rules(&settings.config, number).map_err(refuse)?,
        exclusions,
        timeouts: wanted.timeouts(),
        dry_run: wanted.dry_run,
        pace: PACE,
    };
    // A task of its own: it is finished even when the caller goes away in the middle.
    let task = tokio::spawn(async move {
        let turn = agent.turn(host.netns(), number);
        let _turn = turn.lock().await;
        let mut view = View::new(Arc::clone(&agent), host.netns());
        let cleaned = clean(&host, &mut view, &request).await?;
        let report = CleanReport::from(&cleaned);
        agent.metrics.cleaned(number, report.outcome, report.killed.len());
        let owners: Vec<String> = report
            .owners
            .iter()
            .map(|ended| {
                format!("{:?} {:?}: {}", ended.owner.pid.unwrap_or(0), ended.action, ended.owner.why)
            })
            .collect();
        info!(pid, uid, port = number, outcome = ?report.outcome, ?owners, dry_run = request.dry_run, "a clean");
        Ok::<_, Problem>(report)
    });
    let failed = |error: tokio::task::JoinError| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "the agent's log says more")
    };
    task.await.map_err(failed)?.map(Json)
}

/// Wait until a port can be bound, or until somebody listens, in the caller's network namespace
#[utoipa::path(get, path = "/v1/ports/{port}/wait",
    params(("port" = u16, Path), ("until" = String, Query), ("timeout_ms" = Option<u64>, Query)),
    responses((status = 200, body = WaitReport), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(super) async fn wait_for(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    Path(port): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<WaitReport>, Problem> {
    let begun = Instant::now();
    may_read(&agent, &peer)?;
    let port = watched(&agent, &port)?;
    let query = Query::parse(query.as_deref(), &["until", "timeout_ms"])?;
    let longest = u32::try_from(limits::LONGEST_WAIT.as_millis()).unwrap_or(u32::MAX);
    let timeout = query.number("timeout_ms")?.unwrap_or(longest).min(longest);
    let host = peer.host().map_err(|error| unknown_caller(&error.to_string()))?;
    if !peer.is_running() {
        return Err(unknown_caller("it has ended, or lives in a pid namespace that can't be seen from here"));
    }
    let limits = Limits { timeout: Some(Duration::from_millis(timeout.into())), pace: PACE };
    let mut view = View::new(Arc::clone(&agent), host.netns());
    let outcome = match query.get("until") {
        Some("free") => wait::free(&host, &mut view, port, limits).await?,
        Some("listening") => wait::listening(&mut view, port, limits).await?,
        _ => {
            return Err(Problem::bad_request("what to wait for is missing", "until=free or until=listening"));
        }
    };
    Ok(Json(WaitReport { port, outcome, backend: Backend::Agent, elapsed_us: micros(begun.elapsed()) }))
}

/// What happens to the watched ports, as it happens; `after` a cursor, what was missed since
#[utoipa::path(get, path = "/v1/events",
    params(("port" = Option<u16>, Query), ("netns" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = crate::watch::Line, content_type = "application/x-ndjson"),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn stream(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    let query = Query::parse(query.as_deref(), &["port", "netns", "after"])?;
    let mut ports = query.all("port").map(|port| watched(&agent, port)).collect::<Result<Vec<_>, _>>()?;
    if ports.is_empty() {
        ports = agent.settings().ports();
    }
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    // A browser's EventSource says by this header where it was.
    let after = query.get("after").or_else(|| text("last-event-id")).map(str::parse).transpose();
    let after = after.map_err(|why: String| Problem::bad_request(why, "leave it out to begin now"))?;
    let server_sent = text(ACCEPT.as_str()).is_some_and(|kinds| kinds.contains("text/event-stream"));
    let framing = if server_sent { Framing::ServerSent } else { Framing::Lines };
    Ok(Subscription::new(agent, framing, ports, query.number("netns")?, after).into_response())
}

/// How the agent is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusReport {
    /// The program's version.
    version: &'static str,
    /// Since when it runs, in seconds.
    uptime_s: u64,
    /// How ports are observed.
    backend: Backend,
    /// Why that is less than it could be.
    degraded: Vec<String>,
    /// The watched ports.
    ports: Vec<u16>,
    /// Events that were dropped so far.
    lost: u64,
    /// Readers of the event stream.
    subscribers: i64,
    /// The capabilities that it holds.
    capabilities: Vec<CapabilityReport>,
    /// Whether nothing that it runs can gain privileges.
    no_new_privileges: bool,
}

/// A capability, and what it is needed for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapabilityReport {
    /// Its name, as in capabilities(7).
    name: String,
    /// What for.
    needed: &'static str,
}

/// Backends, counters, capabilities
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = StatusReport), (status = 403, body = Problem)))]
pub(super) async fn status(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
) -> Result<Json<StatusReport>, Problem> {
    may_read(&agent, &peer)?;
    let capabilities =
        privileges::held().into_iter().map(|(name, needed)| CapabilityReport { name, needed }).collect();
    Ok(Json(StatusReport {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: agent.started.elapsed().as_secs(),
        backend: agent.backend,
        degraded: agent.losses.clone(),
        ports: agent.settings().ports(),
        lost: agent.metrics.lost(),
        subscribers: agent.metrics.subscribers(),
        capabilities,
        no_new_privileges: privileges::no_new_privileges(),
    }))
}

/// 200 when armed, which it is from its first answer on
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// OpenMetrics
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String), (status = 403, body = Problem)))]
pub(super) async fn metrics(State(agent): State<Arc<Agent>>, peer: Caller) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    Ok(([(CONTENT_TYPE, counters::CONTENT_TYPE)], agent.metrics.text()).into_response())
}

/// This description
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = Object)))]
pub(super) async fn description() -> Response {
    ([(CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

fn may_read(agent: &Agent, peer: &Peer) -> Result<(), Problem> {
    if !agent.reads.take(peer.uid, Instant::now()) {
        return Err(too_many());
    }
    if agent.settings().access.may_read(peer) {
        return Ok(());
    }
    agent.metrics.refused();
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        format!("user {} may not read", peer.uid),
        "add the user to the group that the agent's configuration names under [agent], and log in again",
    ))
}

fn too_many() -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests of this user", "ask less often")
}

fn unknown_caller(why: &str) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        format!("the caller can't be established: {why}"),
        "ask from a process that goes on running, on the agent's own host",
    )
}

fn number_of(text: &str) -> Result<u16, Problem> {
    crate::port::parse(text)
        .map_err(|why| Problem::bad_request(format!("{text:?}: {why}"), "/v1/ports lists them"))
}

fn watched(agent: &Agent, text: &str) -> Result<u16, Problem> {
    let port = number_of(text)?;
    if agent.settings().ports().contains(&port) {
        return Ok(port);
    }
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        format!("port {port} is not watched"),
        "add it as a [[watch]] to the agent's configuration, and reload the agent",
    ))
}

fn rules(config: &crate::config::Config, port: u16) -> Result<crate::identify::Rules, Problem> {
    let failed = |error: crate::config::ConfigError| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "mend the agent's configuration")
    };
    config.rules(config.identity_of(port)).map_err(failed)
}

/// The agent and its ancestors, the caller and its own, and who is protected.
fn exclusions(agent: &Agent, peer: &Peer, protect: &[u32]) -> Exclusions {
    let mut exclusions = agent.exclusions.clone();
    exclusions.protect(&agent.host, protect);
    exclusions.add_requester(&agent.host, peer.pid);
    exclusions
}
