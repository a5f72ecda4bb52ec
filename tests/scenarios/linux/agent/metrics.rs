//! The host agent's metrics, also as a real Prometheus reads them.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gatewatch_tests::{
    Agent, PATIENCE, Part, Reply, as_user, checkout, config, folder, prometheus, until, unused_port,
};
use serde_json::Value;
use tempfile::TempDir;

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// What a server on this port answers to a request with these lines in its head.
fn get(port: u16, path: &str, head: &str) -> Reply {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// How many answers come to so many requests, sent at once.
fn scrapes(port: u16, times: usize) -> usize {
    let mut answers = Vec::new();
    if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        let last = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all((request.repeat(times - 1) + last).as_bytes());
        let _ = stream.read_to_end(&mut answers);
    }
    String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count()
}

fn is_scraped(port: u16) -> bool {
    scrapes(port, 1) == 1
}

/// Keeps 24 connections until it is over: every second one sends half of a request, and the others a whole one, and do not go.
fn hold_all_places(port: u16, is_over: &AtomicBool, connected: &AtomicUsize) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        while open.len() < 24 {
            let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { break };
            let request = ["GET /x HTTP/1.1\r\nhost: x\r\n\r\n", "GET /x HT"];
            let _ = stream.write_all(request[connected.fetch_add(1, Ordering::Relaxed) % 2].as_bytes());
            stream.set_nonblocking(true).unwrap();
            open.push(stream);
        }
        open.retain_mut(|stream| match stream.read(&mut [0; 1024]) {
            Ok(length) => length > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        thread::yield_now();
    }
}

/// Set once this is dropped, also by a failure: an attacker would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A configuration that serves metrics on the first port and watches the second.
fn configured(metrics: u16, port: u16) -> String {
    format!("[agent]\nmetrics = \"127.0.0.1:{metrics}\"\n{}", config(&[(port, "")]))
}

scenario!(every_series_of_a_watched_port_begins_at_0, needs(Bpf), || {
    let (port, next) = (unused_port(), unused_port());
    let agent = Agent::watching(&[(port, "")]);
    let series = |port: u16| {
        let events = ["held", "bind", "listen", "conflict", "release", "free"];
        let outcomes =
            ["free", "cleaned", "held_by_other", "unknown", "not_permitted", "timed_out", "respawned"];
        let events =
            events.map(|event| format!("gatewatch_events_total{{event=\"{event}\",port=\"{port}\"}} 0\n"));
        let cleans = outcomes
            .map(|outcome| format!("gatewatch_cleans_total{{outcome=\"{outcome}\",port=\"{port}\"}} 0\n"));
        events.into_iter().chain(cleans)
    };
    let metrics = agent.get("/metrics").body;
    let others = [
        "gatewatch_degraded{reason=\"kernel_events\"} 0\n",
        "gatewatch_degraded{reason=\"configuration\"} 0\n",
        "gatewatch_lost_events_total 0\n",
        "gatewatch_clean_duration_seconds_count 0\n",
        "gatewatch_restart_duration_seconds_count 0\n",
        "gatewatch_build_info{version=\"",
        "process_open_fds ",
        "process_start_time_seconds ",
    ];
    let held = format!("gatewatch_port_held{{port=\"{port}\"}} 0\n");
    for wanted in series(port).chain(others.map(str::to_owned)).chain([held]) {
        assert!(metrics.contains(&wanted), "{wanted}: {metrics}");
    }
    // as do those of a port that a reload adds
    agent.reconfigure(&config(&[(port, ""), (next, "")]));
    until("the next port is watched", || agent.get(&format!("/v1/ports/{next}")).status == 200);
    let metrics = agent.get("/metrics").body;
    for wanted in series(next) {
        assert!(metrics.contains(&wanted), "{wanted}: {metrics}");
    }
});

scenario!(cleans_restarts_and_holders_are_measured, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port();
    let agent = Agent::watching(&[(port, "")]);
    let has = |wanted: &str| agent.get("/metrics").body.contains(wanted);
    assert!(has(&format!("gatewatch_port_held{{port=\"{port}\"}} 1\n")));
    assert_eq!(agent.answer(&["clean", "--dry-run"], port).outcome(), "would_clean");
    assert!(has("gatewatch_clean_duration_seconds_count 0\n"), "a dry run is not the time of a clean");
    assert_eq!(agent.answer(&["clean"], port).outcome(), "cleaned");
    assert!(gateway.is_gone());
    for wanted in [
        &format!("gatewatch_cleans_total{{outcome=\"cleaned\",port=\"{port}\"}} 1\n"),
        "gatewatch_ended_processes_total 1\n",
        "gatewatch_clean_duration_seconds_count 1\n",
        &format!("gatewatch_port_held{{port=\"{port}\"}} 0\n"),
        "gatewatch_restart_duration_seconds_count 0\n",
    ] {
        assert!(has(wanted), "{wanted}: {}", agent.get("/metrics").body);
    }
    let _next = Part::gateway().on_port(port).start();
    assert!(has("gatewatch_restart_duration_seconds_count 1\n"), "{}", agent.get("/metrics").body);
    // events that came by the kernel had a delay
    assert!(!has("gatewatch_event_delay_seconds_count 0\n"));
});

scenario!(a_reload_that_fails_is_degraded_until_one_succeeds, needs(Bpf), || {
    let port = unused_port();
    let agent = Agent::watching(&[(port, "")]);
    let degraded = || agent.get("/metrics").body.contains("gatewatch_degraded{reason=\"configuration\"} 1\n");
    assert!(!degraded());
    agent.reconfigure("[[watch]]\nprot = 1\n");
    until("it is told", degraded);
    assert!(agent.get("/v1/status").json()["degraded"][0].as_str().unwrap().contains("did you mean `port`?"));
    agent.reconfigure(&config(&[(port, "")]));
    until("it is over", || !degraded());
});

scenario!(metrics_come_in_the_format_that_is_asked_for, needs(Bpf), || {
    let (port, metrics) = (unused_port(), unused_port());
    let _agent = Agent::with(&configured(metrics, port));
    let plain = get(metrics, "/metrics", "");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{plain:?}");
    assert!(plain.body.contains("# TYPE gatewatch_events_total counter\n") && !plain.body.contains("# EOF"));
    let open =
        get(metrics, "/metrics", "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(open.head.contains("content-type: application/openmetrics-text"), "{open:?}");
    assert!(open.body.contains("# TYPE gatewatch_events counter\n") && open.body.ends_with("# EOF\n"));
});

scenario!(over_tcp_there_is_nothing_but_metrics, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let (port, metrics) = (gateway.port(), unused_port());
    // given an agent that is not told to, nobody listens
    let agent = Agent::watching(&[(port, "")]);
    assert!(!listens(metrics));
    // when it is told to
    agent.reconfigure(&configured(metrics, port));
    until("it listens", || listens(metrics));
    for path in ["/", "/healthz", "/v1/status", "/v1/events", &format!("/v1/ports/{port}")] {
        assert_eq!(get(metrics, path, "").status, 404, "{path}");
    }
    let clean = format!("POST /v1/ports/{port}/clean HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, metrics)).unwrap();
    stream.write_all(clean.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(gateway.is_alive());
    // and no longer once it is told not to
    agent.reconfigure(&config(&[(port, "")]));
    until("nobody listens", || !listens(metrics));
});

scenario!(an_address_that_is_taken_is_told_and_tried_again, needs(Bpf), || {
    let (port, metrics) = (unused_port(), unused_port());
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, metrics)).unwrap();
    let agent = Agent::with(&configured(metrics, port));
    let trouble = format!("metrics can't be served at 127.0.0.1:{metrics}");
    assert!(agent.get("/v1/status").json()["degraded"][0].as_str().unwrap().contains(&trouble));
    assert!(agent.get("/metrics").body.contains("gatewatch_degraded{reason=\"metrics\"} 1\n"));
    drop(taken);
    until("it listens", || listens(metrics) && get(metrics, "/metrics", "").status == 200);
    assert!(agent.get("/metrics").body.contains("gatewatch_degraded{reason=\"metrics\"} 0\n"));
});

scenario!(slow_scrapes_hold_up_nobody, needs(Bpf), || {
    let (port, metrics) = (unused_port(), unused_port());
    let agent = Agent::with(&configured(metrics, port));
    // given more who connect and ask for nothing than are served at once
    let stuck: Vec<_> =
        (0..40).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, metrics)).unwrap()).collect();
    let turned_away = || {
        let text = agent.get("/metrics").body;
        let lines =
            text.lines().find_map(|line| line.strip_prefix("gatewatch_turned_away_connections_total "));
        lines.unwrap().parse::<u32>().unwrap()
    };
    until("some have given way", || turned_away() > 0);
    // then one who asks is answered
    assert!(is_scraped(metrics));
    drop(stuck);
});

scenario!(a_connection_over_tcp_has_one_answer, needs(Bpf), || {
    let (port, metrics) = (unused_port(), unused_port());
    let _agent = Agent::with(&configured(metrics, port));
    // given one who would go on to ask
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, metrics)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close\r\n"), "{answer}");
});

scenario!(a_user_who_takes_all_places_keeps_no_scrape_out, needs(Bpf), || {
    const TIMES: usize = 10;
    let (port, metrics) = (unused_port(), unused_port());
    let agent = Agent::with(&configured(metrics, port));
    let (is_over, connected) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&is_over);
        // given a user who always has more connections than there are places, and asks slowly or not at all
        scope.spawn(|| as_user(NOBODY, || hold_all_places(metrics, &is_over, &connected)));
        until("all places are taken", || connected.load(Ordering::Relaxed) > 100);
        // then others are answered
        for _ in 0..TIMES {
            assert!(is_scraped(metrics), "root is kept out");
            assert!(as_user(2001, || is_scraped(metrics)), "another user is kept out");
            assert_eq!(agent.get("/healthz").status, 200);
        }
    });
});

scenario!(the_metrics_of_many_ports_hold_up_nobody, needs(Bpf), || {
    const TIMES: usize = 9;
    let metrics = unused_port();
    let ports: Vec<(u16, &str)> = (40_000..41_000).map(|port| (port, "")).collect();
    let agent = Agent::with(&format!("[agent]\nmetrics = \"127.0.0.1:{metrics}\"\n{}", config(&ports)));
    let took = |path: &str| {
        let begun = Instant::now();
        assert_eq!(agent.get(path).status, 200);
        begun.elapsed()
    };
    let one_text = (0..5).map(|_| took("/metrics")).min().unwrap();
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&is_over);
        // given a user who asks for them all the time, many times at once
        let (is_over, answered) = (&is_over, &answered);
        let ask = move || {
            while !is_over.load(Ordering::Relaxed) {
                answered.fetch_add(scrapes(metrics, 4), Ordering::Relaxed);
            }
        };
        for _ in 0..16 {
            scope.spawn(move || as_user(NOBODY, ask));
        }
        until("they are asked for", || answered.load(Ordering::Relaxed) > 0);
        // then others wait for less than one text takes
        let mut times: Vec<Duration> = (0..TIMES).map(|_| took("/healthz")).collect();
        times.sort_unstable();
        assert!(times[TIMES / 2] < one_text, "{times:?}, and one text takes {one_text:?}");
    });
});

scenario!(promtool_has_nothing_to_say, needs(Bpf, Prometheus, Checkout), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let agent = Agent::watching(&[(gateway.port(), "")]);
    assert_eq!(agent.answer(&["clean"], gateway.port()).status, 0);
    let mut check = Command::new(prometheus("promtool"));
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(agent.get("/metrics").body.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    // and the packaged rules are right, and fire when they should
    for task in [["check", "rules", "gatewatch.rules.yml"], ["test", "rules", "gatewatch.rules.test.yml"]] {
        let folder = checkout().join("packaging/prometheus");
        let output = Command::new(prometheus("promtool")).args(task).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
});

scenario!(the_packaged_rules_and_panels_ask_for_what_there_is, needs(Bpf, Checkout), || {
    let agent = Agent::watching(&[(unused_port(), "")]);
    let metrics = agent.get("/metrics").body;
    let folder = checkout().join("packaging/prometheus");
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("grafana-dashboard.json")).unwrap()).unwrap();
    assert!(!dashboard["panels"].as_array().unwrap().is_empty());
    let rules = fs::read_to_string(folder.join("gatewatch.rules.yml")).unwrap();
    let text = format!("{rules}{dashboard}");
    let mut names: Vec<&str> =
        text.split(|char: char| char != '_' && !char.is_ascii_alphanumeric()).collect();
    names.retain(|name| (name.starts_with("gatewatch_") || name.starts_with("process_")) && name.len() > 10);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let is_there = metrics
            .lines()
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(is_there, "{name}: {metrics}");
    }
});

/// A real Prometheus, which scrapes an agent by the packaged rules.
struct Prometheus {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Prometheus {
    fn scraping(metrics: u16) -> Self {
        let folder = folder();
        let rules = checkout().join("packaging/prometheus/gatewatch.rules.yml");
        let port = unused_port();
        let file = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms }}\nrule_files: [{rules:?}]\nscrape_configs:\n  \
             - job_name: gatewatch\n    static_configs: [{{ targets: ['127.0.0.1:{metrics}'] }}]\n",
        );
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(prometheus("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg("--web.console.templates=/nonexistent").arg("--web.console.libraries=/nonexistent");
        let child = command.current_dir(folder.path()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let prometheus = Self { child, port, _folder: folder };
        until("Prometheus is ready", || listens(port) && get(port, "/-/ready", "").status == 200);
        prometheus
    }

    /// The values of an expression.
    fn query(&self, expression: &str) -> Vec<String> {
        let path = format!("/api/v1/query?query={}", expression.replace('"', "%22").replace(' ', "%20"));
        let answer = self.json(&path);
        let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        results.iter().filter_map(|result| Some(result["value"][1].as_str()?.to_owned())).collect()
    }

    fn json(&self, path: &str) -> Value {
        // An old version of HTTP, whose answers are not cut in chunks.
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).expect("Prometheus answers JSON")
    }

    /// The alerts that fire, with the port that they name.
    fn alerts(&self) -> Vec<(String, Option<String>)> {
        let alerts = self.json("/api/v1/alerts")["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        firing
            .map(|alert| (text(&alert["labels"]["alertname"]).unwrap(), text(&alert["labels"]["port"])))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

scenario!(prometheus_alerts_on_a_first_conflict, needs(Bpf, Prometheus, Checkout), || {
    let owner = Part::other().on_port(unused_port()).with(&["--try-again"]).start();
    let (port, metrics) = (owner.port(), unused_port());
    let _agent = Agent::with(&configured(metrics, port));
    let prometheus = Prometheus::scraping(metrics);
    // given a port on which there never was a conflict
    let conflicts = format!("gatewatch_events_total{{event=\"conflict\",port=\"{port}\"}}");
    until("it has scraped", || prometheus.query(&conflicts) == ["0"]);
    assert_eq!(prometheus.query("up{job=\"gatewatch\"}"), ["1"]);
    assert_eq!(prometheus.alerts(), []);
    // when another tries to take it
    let rival = Part::named("rival").on(owner.address());
    assert!(rival.try_to_start().is_none(), "its bind must fail");
    // then that is told at the next scrape
    let alert = ("GatewatchPortConflict".to_owned(), Some(port.to_string()));
    until("the alert fires", || prometheus.alerts().contains(&alert));
    assert_eq!(prometheus.alerts(), [alert]);
});
