//! The HTTP interface: the answer to each request.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tracing::warn;
use utoipa::OpenApi;
use utoipa::openapi::Required;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::cleans::{self, Asked};
use super::described::{
    BadRequest, EventsQuery, Failed, Forbidden, HistoryQuery, NotFound, PROBLEM, PortPath, TooMany,
    Unavailable, WaitQuery,
};
use super::events::{Framing, Selection, Subscription};
use super::exposition::Exposition;
use super::past::Line;
use super::query::Query;
use super::refusals::cut;
use super::settings::Settings;
use super::sockets::{self, SocketsError};
use super::state::Agent;
use super::view::NamespaceObserver;
use super::waits::Wait;
use super::{body, limits, store};
use crate::clean::Request;
use crate::config::{Config, ConfigError};
use crate::history::{LAST_HOUR, moment};
use crate::model::{Backend, Port, PortError, Protocol, Reason, Socket, SocketState, Span};
use crate::platform::Host;
use crate::platform::contract::{
    AgentSystem, NetnsError, ObserveError, Observer as _, Peer as _, Platform as _, ServiceSystem as _,
    System as _,
};
use crate::steps::exclude::Exclusions;
use crate::steps::identify::Rules;
use crate::steps::owner::{Owners, add_other_ports, limit_holders, owners};
use crate::steps::plan::Sparing;
use crate::wait::Until;
use crate::wire::agent::{
    CapabilityJson, CleanRequest, LONGEST_WAIT, MOST_PROTECTED, OverrideAnswer, PortsAnswer, StatusAnswer,
    WatchedPortJson,
};
use crate::wire::answers::{CleanAnswer, MOST_OWNERS, OwnersAnswer, WaitAnswer};
use crate::wire::event::WatchLine;
use crate::wire::history::HistoryLine;
use crate::wire::problem::Problem;

type Peer = <Host as AgentSystem>::Peer;
type Caller = Extension<Arc<Peer>>;
/// A port's part of the path, which need not be UTF-8.
type InPath = Result<Path<String>, PathRejection>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gatewatch's host agent",
        description = "Who owns a port, what happens to it, and having its stale owners ended. Over a Unix socket: \
                       the caller is known by its credentials."
    ),
    components(schemas(Problem, WatchLine, HistoryLine))
)]
struct Description;

/// The routes, and their OpenAPI description as JSON, generated from the same list.
pub(super) fn router(agent: Arc<Agent>) -> Router {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(only("GET", routes!(ports)))
        .routes(only("GET", routes!(owners_of)))
        .routes(only("GET", routes!(all_sockets)))
        .routes(only("POST", routes!(clean_port)))
        .routes(only("POST", routes!(override_guards)))
        .routes(only("GET", routes!(wait_for)))
        .routes(only("GET", routes!(stream)))
        .routes(only("GET", routes!(history)))
        .routes(only("GET", routes!(status)))
        .routes(only("GET", routes!(description)))
        .routes(only("GET", routes!(health)))
        .routes(only("GET", routes!(metrics)))
        .split_for_parts();
    // Said here because the macro knows an optional body only as one that may be `null`.
    let posts = description.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
    for body in posts.filter_map(|post| post.request_body.as_mut()) {
        body.required = Some(Required::False);
    }
    let description = description.to_json().unwrap_or_default();
    router
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "there is no such path", "see /v1/openapi.json")
        })
        .layer(Extension(OpenApiText(description.into())))
        .with_state(agent)
}

/// The description, generated once for each router.
#[derive(Clone)]
struct OpenApiText(Arc<str>);

/// A route that answers any other method with the methods that it supports.
fn only(methods: &'static str, route: UtoipaMethodRouter<Arc<Agent>>) -> UtoipaMethodRouter<Arc<Agent>> {
    let (schemas, paths, route) = route;
    (schemas, paths, route.fallback(move || async move { not_allowed(methods) }))
}

fn not_allowed(methods: &str) -> Problem {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not support the method", format!("use {methods}"))
}

/// The watched ports; where every port is followed, those of the configuration and those that are held
#[utoipa::path(get, tag = "api", path = "/v1/ports", responses((status = 200, body = PortsAnswer), BadRequest, Forbidden, TooMany, Unavailable))]
async fn ports(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<PortsAnswer>, Problem> {
    may_read(&agent, &peer)?;
    Query::parse(query.as_deref(), &[])?;
    let (uid, here) = (peer.uid(), Arc::clone(&agent));
    here.off_loop.run(uid, move || watched_ports(&agent)).await?.map(Json)
}

fn watched_ports(agent: &Agent) -> Result<PortsAnswer, Problem> {
    agent.see().map_err(unobserved)?;
    let settings = agent.settings();
    let watch = agent.watch();
    let others = if settings.follows_all() { watch.held_ports() } else { Vec::new() };
    let others = others.into_iter().filter(|&port| !settings.is_configured(port));
    let ports = settings.ports().into_iter().chain(others).map(|port| WatchedPortJson {
        port: port.number,
        protocol: port.protocol,
        identity: settings.config.ruleset_of(port).to_owned(),
        held: watch.sockets(port).next().is_some(),
        configured: settings.is_configured(port),
    });
    Ok(PortsAnswer { ports: ports.collect() })
}

/// Every socket that holds a port in the agent's network namespace, watched or not: one object a port, as `gatewatch list`
/// prints them
#[utoipa::path(get, tag = "api", path = "/v1/sockets",
    params(("netns" = Option<u32>, Query, minimum = 0, maximum = 4294967295_u32, nullable = false,
        description = "The inode number of the network namespace that is meant: of any but the agent's own, the request is \
                       refused")),
    responses(
        (status = 200, content((OwnersAnswer = "application/x-ndjson")), description = "One object a line"),
        BadRequest, Forbidden, NotFound, TooMany, Failed, Unavailable))]
async fn all_sockets(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    let netns = Query::parse(query.as_deref(), &["netns"])?.number("netns")?;
    if netns.is_some_and(|netns| netns != agent.host.netns()) {
        return Err(problem(
            StatusCode::NOT_FOUND,
            "the agent lists the sockets of its own network namespace alone, and another one is meant",
            "use --agent never to look without it",
        ));
    }
    let (uid, here) = (peer.uid(), Arc::clone(&agent));
    let look = move || {
        let (settings, exclusions) = (agent.settings(), exclusions(&agent, &peer, &[]));
        let rules_of = |port| settings.config.rules(settings.config.ruleset_of(port));
        sockets::lines(&agent.host, &exclusions, rules_of)
    };
    let lines = here.off_loop.run(uid, look).await?.map_err(|error| match error {
        SocketsError::Observe(error) => unobserved(error),
        error => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
            "the agent's log and /v1/status have the details",
        ),
    })?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Who holds a port, in all network namespaces or in the one of `?netns=INODE`
#[utoipa::path(get, tag = "api", path = "/v1/ports/{port}",
    params(PortPath, ("netns" = Option<u32>, Query, minimum = 0, maximum = 4294967295_u32, nullable = false,
        description = "The inode number of a network namespace")),
    responses((status = 200, body = OwnersAnswer), BadRequest, Forbidden, NotFound, TooMany, Failed, Unavailable))]
async fn owners_of(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    port: InPath,
    RawQuery(query): RawQuery,
) -> Result<Json<OwnersAnswer>, Problem> {
    may_read(&agent, &peer)?;
    let port = watched(&agent, &word(port))?;
    let query = Query::parse(query.as_deref(), &["netns"])?;
    let netns = query.number("netns")?;
    let (uid, here) = (peer.uid(), Arc::clone(&agent));
    let answer = move || {
        let mut sockets = agent.sockets(port).map_err(unobserved)?;
        sockets.retain(|socket| socket.owns_port() && (netns.is_none() || socket.netns == netns));
        let rules = rules(&agent.settings().config, port)?;
        let exclusions = exclusions(&agent, &peer, &[]);
        let in_namespace = netns.unwrap_or_else(|| agent.host.netns());
        let mut here = NamespaceObserver::new(Arc::clone(&agent), in_namespace);
        let is_elsewhere = in_namespace != agent.host.netns();
        let (_, partly_elsewhere) = agent.watch().is_partial();
        let is_partial = sockets.iter().any(Socket::is_left_out) || (is_elsewhere && partly_elsewhere);
        if netns.is_some() && is_partial {
            // There is more room for one port of one namespace than for all together.
            sockets = here.snapshot(port).map_err(unobserved)?;
            sockets.retain(Socket::owns_port);
        }
        if netns.is_some() && sockets.iter().any(|socket| socket.state == SocketState::Bound) {
            // A client binds its port before it connects from it, and only a look tells the two apart.
            let owners = Owners::of_port(&agent.host, &mut here, port, &rules, &exclusions);
            let mut owners = owners.map_err(unobserved)?;
            agent.makers.known().mark(&mut owners.owners, &agent.host, &exclusions);
            return Ok(OwnersAnswer::from(&owners));
        }
        let too_many = (netns.is_none() && partly_elsewhere).then_some(Reason::TooMany);
        if sockets.is_empty() {
            let free_in = here.time_wait(port).map_err(unobserved)?.into_values().max();
            let reason = too_many.or(free_in.map(|_| Reason::TimeWait));
            let nobody = Owners::nobody(port, Backend::Agent);
            return Ok(OwnersAnswer::from(&Owners { reason, free_in, ..nobody }));
        }
        let reason = too_many.or_else(|| sockets.iter().find_map(|socket| socket.unheld));
        let unread = limit_holders(&mut sockets, MOST_OWNERS);
        let mut owners = owners(&sockets, &agent.host, &rules, &exclusions);
        agent.makers.known().mark(&mut owners, &agent.host, &exclusions);
        let left_out = unread + owners.len().saturating_sub(MOST_OWNERS);
        owners.truncate(MOST_OWNERS);
        add_other_ports(&mut owners, agent.watch().observer(), port);
        let nobody = Owners::nobody(port, Backend::Agent);
        Ok(OwnersAnswer::from(&Owners { owners, left_out, reason, ..nobody }))
    };
    here.off_loop.run(uid, answer).await?.map(Json)
}

/// End the stale owners of a port in the caller's network namespace
#[utoipa::path(post, tag = "api", path = "/v1/ports/{port}/clean", params(PortPath),
    request_body(content = CleanRequest, description = "All of it is optional, and the body as well"),
    responses((status = 200, body = CleanAnswer), BadRequest, Forbidden, NotFound,
        (status = 408, body = Problem, content_type = PROBLEM, description = "The body did not arrive in time"),
        (status = 413, body = Problem, content_type = PROBLEM, description = "The body is too long"),
        TooMany, Failed, Unavailable))]
async fn clean_port(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    port: InPath,
    RawQuery(query): RawQuery,
    request: axum::extract::Request,
) -> Result<Json<CleanAnswer>, Problem> {
    let (pid, uid, port) = (peer.pid(), peer.uid(), word(port));
    if !agent.cleans.take(uid, Instant::now()) {
        agent.metrics.refused();
        return Err(too_many("too many requests by this user"));
    }
    let refuse = |problem: Problem| {
        agent.metrics.refused();
        if agent.refusals.may_tell(uid, Instant::now()) {
            let asked = Port::with_protocol(&port).ok();
            let (port, protocol) = (asked.map(|it| it.number), asked.map(|it| <&str>::from(it.protocol)));
            let why = cut(&problem.detail);
            warn!(requester_pid = pid, requester_uid = uid, port, protocol, "a clean is refused: {why}");
        }
        problem
    };
    still_runs(&peer).map_err(refuse)?;
    // Access comes before all else: the answer must not reveal whether a port is watched to a caller that may not clean
    // it, and a body is not waited for in vain.
    let number = port_of(&port).map_err(refuse)?;
    let settings = agent.settings();
    if !settings.access.may_clean(&**peer, number) {
        let problem = problem(
            StatusCode::FORBIDDEN,
            format!("user {uid} may not have port {number} cleaned"),
            "name the user or one of its groups under `clean` of the port's [[watch]] in the agent's configuration",
        );
        // Every user's every `clean` asks here first. That is no offence, as long as the port is none of the agent's.
        return Err(if settings.is_configured(number) { refuse(problem) } else { problem });
    }
    configured(&settings, number)?;
    Query::parse(query.as_deref(), &[]).map_err(refuse)?;
    let body = body::read(&agent, request).await.map_err(refuse)?;
    let wanted = clean_request(&body).map_err(refuse)?;
    if !wanted.protect.is_empty() && !peer.shares_pids() {
        return Err(refuse(bad_request(
            "the pids to protect belong to another pid namespace than the agent's",
            "ask from the agent's own pid namespace",
        )));
    }
    let Some(place) = agent.under_way.take(uid, limits::CLEANS_EACH) else {
        return Err(refuse(too_many("too many cleans by this user are under way")));
    };
    let (asking, protect) = ((Arc::clone(&agent), Arc::clone(&peer)), wanted.protect.clone());
    let known = move || {
        let (agent, peer) = asking;
        // Without descriptors, no process could be opened.
        let _lent = agent.reserve.lend_if_needed();
        let host = peer.host().map_err(|error: NetnsError| unknown_caller(&error.to_string()))?;
        let asker = agent.store().and_then(|_| agent.host.process(peer.pid()).ok());
        Ok((host, exclusions(&agent, &peer, &protect), Line::of(&agent.host, peer.pid()), asker))
    };
    let (host, exclusions, line, asker) = agent.off_loop.run(uid, known).await?.map_err(refuse)?;
    // If the caller has ended by now, another process may have its pid, and the wrong ancestors would be excluded.
    if !peer.is_running() {
        return Err(refuse(unknown_caller(
            "it has ended, or lives in a pid namespace that can't be seen from here",
        )));
    }
    let rules = rules(&settings.config, number).map_err(refuse)?;
    let mut request = Request {
        dry_run: wanted.dry_run,
        all_or_nothing: wanted.all_or_nothing,
        sparing: Sparing { min_age: wanted.min_age(), inherited: false },
        makers: agent.makers.known(),
        ..Request::new(number, rules, exclusions)
    };
    wanted.overrides(limits::longest_of_a_clean(uid)).apply(&mut request.ending);
    let asked = Asked { agent: Arc::clone(&agent), host, request, caller: (pid, uid), asker, line };
    cleans::run(asked, place).await.map(Json)
}

/// Let the asking process, which must be root's, bind guarded ports until it ends, with those that it starts
#[utoipa::path(post, tag = "api", path = "/v1/override",
    responses((status = 200, body = OverrideAnswer), BadRequest, Forbidden, NotFound, TooMany, Unavailable))]
async fn override_guards(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<OverrideAnswer>, Problem> {
    if peer.uid() != 0 {
        return Err(problem(
            StatusCode::FORBIDDEN,
            format!("user {} may not override a guard", peer.uid()),
            "ask as root",
        ));
    }
    Query::parse(query.as_deref(), &[])?;
    let process = agent.host.open(peer.pid()).map_err(|error| unknown_caller(&error.to_string()))?;
    // Once it is opened, its pid is no other's as long as it runs.
    if !peer.is_running() || !peer.shares_pids() {
        return Err(unknown_caller("it has ended, or lives in another pid namespace"));
    }
    agent.guards.override_for(peer.pid(), process).map_err(|why| {
        problem(
            StatusCode::NOT_FOUND,
            why,
            "set `guard = true` under the port's [[watch]] to have it guarded",
        )
    })?;
    Ok(Json(OverrideAnswer { pid: peer.pid() }))
}

/// Wait until a port can be bound, or until a process listens on it, in the caller's network namespace
#[utoipa::path(get, tag = "api", path = "/v1/ports/{port}/wait",
    params(PortPath, WaitQuery),
    responses((status = 200, body = WaitAnswer), BadRequest, Forbidden, NotFound, TooMany, Unavailable))]
async fn wait_for(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    port: InPath,
    RawQuery(query): RawQuery,
) -> Result<Json<WaitAnswer>, Problem> {
    may_read(&agent, &peer)?;
    let port = watched(&agent, &word(port))?;
    let query = Query::parse(query.as_deref(), &["until", "timeout_ms"])?;
    let longest = u32::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u32::MAX);
    let timeout = query.number("timeout_ms")?.unwrap_or(longest).min(longest);
    let host = peer.host().map_err(|error: NetnsError| unknown_caller(&error.to_string()))?;
    if !peer.is_running() {
        return Err(unknown_caller("it has ended, or lives in a pid namespace that can't be seen from here"));
    }
    let until = query.get("until").and_then(Until::named);
    let Some(until) = until else {
        return Err(bad_request("what to wait for is missing", "until=free or until=listening"));
    };
    let timeout = Duration::from_millis(timeout.into());
    let rules = rules(&agent.settings().config, port)?;
    let wait = Wait { agent: Arc::clone(&agent), uid: peer.uid(), host, port, rules, timeout };
    let waited = tokio::select! {
        waited = wait.until(until) => waited?,
        () = agent.has_to_end() => return Err(ending()),
    };
    Ok(Json(WaitAnswer::from(&waited)))
}

/// Stream what happens to the watched ports; with `after=CURSOR`, first what was missed since that cursor
#[utoipa::path(get, tag = "api", path = "/v1/events",
    params(EventsQuery),
    responses(
        (status = 200, content(
            (WatchLine = "application/x-ndjson"),
            (String = "text/event-stream"))),
        BadRequest, Forbidden, NotFound, TooMany))]
async fn stream(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    let query = Query::parse(query.as_deref(), &["port", "netns", "after"])?;
    let mut ports = query.all("port").map(|port| watched(&agent, port)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    ports.retain(|port| seen.insert(*port));
    let settings = agent.settings();
    let ports = match (ports.is_empty(), settings.follows_all()) {
        (true, true) => None,
        (true, false) => Some(settings.ports()),
        (false, _) => Some(ports),
    };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // A browser's EventSource sends its last position in this header.
    let after = query.get("after").or_else(|| text("last-event-id")).map(str::parse).transpose();
    let after = after.map_err(|why: String| bad_request(why, "leave it out to begin now"))?;
    let server_sent = text(ACCEPT.as_str()).is_some_and(|kinds| kinds.contains("text/event-stream"));
    let framing = if server_sent { Framing::ServerSent } else { Framing::Lines };
    let (netns, uid, here) = (query.number("netns")?, peer.uid(), Arc::clone(&agent));
    let begin = move || Subscription::new(agent, uid, framing, Selection::new(ports, netns), after);
    Ok(here.off_loop.run(uid, begin).await?.into_response())
}

/// What happened to ports in a span of time, from the history on disk, oldest first; an owner that held a port before the
/// span comes first, as `held`
#[utoipa::path(get, tag = "api", path = "/v1/history",
    params(HistoryQuery),
    responses(
        (status = 200, content((HistoryLine = "application/x-ndjson"))),
        BadRequest, Forbidden,
        (status = 404, body = Problem, content_type = PROBLEM, description = "This agent keeps no history"),
        TooMany, Unavailable))]
async fn history(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    let query = Query::parse(query.as_deref(), &["port", "netns", "since", "until"])?;
    let mut ports = query.all("port").map(port_of).collect::<Result<Vec<_>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    let now = SystemTime::now();
    let moment = |name, ago| {
        let moment = query.get(name).map_or(Ok(now - ago), |text| moment(text, now));
        moment.map_err(|why| bad_request(format!("{name}: {why}"), "as in 2026-11-23T03:12:00Z, 90m or 2d"))
    };
    let (since, until) = (moment("since", LAST_HOUR)?, moment("until", Duration::ZERO)?);
    if since > until {
        return Err(bad_request("since is after until", "exchange the two"));
    }
    let span = Span { ports, netns: query.number("netns")?, since, until };
    store::serving::answer(agent, peer.uid(), span).await
}

/// Backends, counters, capabilities
#[utoipa::path(get, tag = "api", path = "/v1/status", responses((status = 200, body = StatusAnswer), BadRequest, Forbidden, TooMany))]
async fn status(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<StatusAnswer>, Problem> {
    may_read(&agent, &peer)?;
    Query::parse(query.as_deref(), &[])?;
    let (uid, here) = (peer.uid(), Arc::clone(&agent));
    here.off_loop.run(uid, move || Json(status_of(&agent))).await
}

fn status_of(agent: &Agent) -> StatusAnswer {
    let configured = agent.settings().ports();
    let configured_by = |protocol| {
        let ports = configured.iter().filter(|port| port.protocol == protocol);
        ports.map(|port| port.number).collect()
    };
    let capability = |(name, needed): (String, &str)| CapabilityJson { name, needed: needed.to_owned() };
    StatusAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        socket: agent.paths.socket.display().to_string(),
        configuration: agent.configuration(),
        uptime_s: agent.started.elapsed().as_secs(),
        backend: agent.backend,
        degraded: agent.degraded(),
        ports: configured_by(Protocol::Tcp),
        udp_ports: configured_by(Protocol::Udp),
        follows_all: agent.settings().follows_all(),
        lost: agent.metrics.lost(),
        subscribers: agent.metrics.subscribers(),
        history: agent.recorded(),
        export: agent.exported(),
        guards: agent.guards.described(),
        capabilities: Host::privileges().into_iter().map(capability).collect(),
        no_new_privileges: Host::no_new_privileges(),
    }
}

/// 200 when armed, which the agent is before it answers its first request
#[utoipa::path(get, tag = "api", path = "/healthz", responses((status = 200, body = String, content_type = "text/plain; charset=utf-8"), BadRequest))]
async fn health(RawQuery(query): RawQuery) -> Result<&'static str, Problem> {
    Query::parse(query.as_deref(), &[])?;
    Ok("ok\n")
}

/// Metrics, in OpenMetrics for who asks for it, else in Prometheus's own format
#[utoipa::path(get, tag = "api", path = "/metrics",
    responses((status = 200, content(
            (String = "text/plain; version=0.0.4; charset=utf-8"),
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"))),
        BadRequest, Forbidden, TooMany, Failed))]
async fn metrics(
    State(agent): State<Arc<Agent>>,
    peer: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_read(&agent, &peer)?;
    Query::parse(query.as_deref(), &[])?;
    let exposition = Exposition::asked(&headers);
    let text = agent.scrape_by(peer.uid(), exposition).await?;
    Ok(([(CONTENT_TYPE, exposition.content_type())], text).into_response())
}

/// This description
#[utoipa::path(get, tag = "api", path = "/v1/openapi.json", responses((status = 200, body = Object), BadRequest))]
async fn description(
    Extension(OpenApiText(text)): Extension<OpenApiText>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Query::parse(query.as_deref(), &[])?;
    Ok(([(CONTENT_TYPE, "application/json")], text.to_string()).into_response())
}

fn may_read(agent: &Agent, peer: &Peer) -> Result<(), Problem> {
    if !agent.reads.take(peer.uid(), Instant::now()) {
        return Err(too_many("too many requests by this user"));
    }
    still_runs(peer)?;
    if agent.settings().access.may_read(peer) {
        return Ok(());
    }
    Err(problem(
        StatusCode::FORBIDDEN,
        format!("user {} may not read", peer.uid()),
        "add the user to the group that the agent's configuration names under [agent], and log in again",
    ))
}

/// The user who has connected counts, and only as long as the process that did so runs: another one may have its connection.
fn still_runs(peer: &Peer) -> Result<(), Problem> {
    if peer.has_ended() { Err(unknown_caller("the process that has connected has ended")) } else { Ok(()) }
}

fn too_many(what: &str) -> Problem {
    problem(StatusCode::TOO_MANY_REQUESTS, what, "ask less often")
}

/// The answer to those who would have to wait while the agent ends.
pub(super) fn ending() -> Problem {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending", "ask again, or go on without it")
}

fn unknown_caller(why: &str) -> Problem {
    problem(
        StatusCode::FORBIDDEN,
        format!("the caller can't be identified: {why}"),
        "ask from a process that keeps running, on the agent's own host",
    )
}

/// What the path names. Bytes that are no text are no port either, and are refused as other words are.
fn word(in_path: InPath) -> String {
    in_path.map_or_else(|_| char::REPLACEMENT_CHARACTER.into(), |Path(word)| word)
}

fn port_of(text: &str) -> Result<Port, Problem> {
    Port::with_protocol(text).map_err(|why: PortError| bad_request(why.to_string(), "/v1/ports lists them"))
}

fn watched(agent: &Agent, text: &str) -> Result<Port, Problem> {
    let port = port_of(text)?;
    let settings = agent.settings();
    if settings.follows(port) { Ok(port) } else { Err(unwatched(&settings, port)) }
}

/// Whether the port can be cleaned at all: not what is followed decides, but what the configuration names.
fn configured(settings: &Settings, port: Port) -> Result<(), Problem> {
    if settings.is_configured(port) { Ok(()) } else { Err(unwatched(settings, port)) }
}

fn unwatched(settings: &Settings, port: Port) -> Problem {
    if settings.can_not_be_followed(port) {
        return problem(
            StatusCode::NOT_FOUND,
            format!("port {port} is not watched, because the agent can't follow ports of its protocol here"),
            "/v1/status says under `degraded` what is missing; `--agent never` works without the agent",
        );
    }
    problem(
        StatusCode::NOT_FOUND,
        format!("port {port} is not watched"),
        "add it as a [[watch]] to the agent's configuration, and reload the agent",
    )
}

fn rules(config: &Config, port: Port) -> Result<Rules, Problem> {
    let failed = |error: ConfigError| {
        problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "fix the agent's configuration")
    };
    config.rules(config.ruleset_of(port)).map_err(failed)
}

/// The agent and its ancestors, the caller and its ancestors, and the protected processes. All are read afresh: an ancestor
/// of the agent may have ended, and its pid may be another process's by now.
fn exclusions(agent: &Agent, peer: &Peer, protect: &[u32]) -> Exclusions {
    let mut exclusions = Exclusions::new(&agent.host, std::process::id(), protect, false);
    exclusions.add_requester(&agent.host, peer.pid());
    exclusions
}

/// The body of a clean, which may be empty.
pub(super) fn clean_request(body: &[u8]) -> Result<CleanRequest, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(CleanRequest::default());
    }
    let request: CleanRequest = serde_json::from_slice(body).map_err(|error| {
        bad_request(format!("the body: {}", cut(&error.to_string())), "/v1/openapi.json describes it")
    })?;
    if request.protect.len() > MOST_PROTECTED {
        return Err(bad_request(
            format!("{} pids are too many to protect", request.protect.len()),
            format!("send {MOST_PROTECTED} at most"),
        ));
    }
    Ok(request)
}

pub(super) fn problem(status: StatusCode, detail: impl Into<String>, mend: impl Into<String>) -> Problem {
    let title = status.canonical_reason().unwrap_or("error").to_owned();
    Problem { status: status.as_u16(), title, detail: detail.into(), mend: mend.into() }
}

pub(super) fn bad_request(detail: impl Into<String>, mend: impl Into<String>) -> Problem {
    problem(StatusCode::BAD_REQUEST, detail, mend)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
pub(super) fn unobserved(error: ObserveError) -> Problem {
    let mend = "ask again; the agent's log and /v1/status have the details";
    problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), mend)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            // In seconds.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
