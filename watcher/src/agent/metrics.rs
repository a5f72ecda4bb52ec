//! Metrics: what the agent counts and measures.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use strum::VariantNames as _;

use super::exposition::Exposition;
use crate::clean::Cleaned;
use crate::model::{Outcome, Port, Protocol, WatchEvent, WatchKind};
use crate::platform::Host;
use crate::platform::contract::ServiceSystem as _;

/// Bounds of the histograms, in seconds: a clean can be as short as a process's exit and as long as its timeouts, a restart as
/// long as a server's start, and an event comes within microseconds.
const CLEANS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const RESTARTS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const DELAYS: [f64; 10] = [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.01, 0.1, 1.0];
/// A port that has nobody for longer than this is not restarting.
const LONGEST_RESTART: Duration = Duration::from_secs(600);
/// Any process can make network namespaces, each with a port of its own.
const MOST_FREED: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEvent {
    event: &'static str,
    /// As it is written: `53` is a TCP port, `53/udp` is another.
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOther {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClean {
    outcome: &'static str,
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPort {
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPart {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVersion {
    version: &'static str,
}

/// What is not counted, but looked at when it is asked for.
pub(super) struct Now {
    /// The ports that the configuration names, and whether each is held.
    pub(super) held: Vec<(Port, bool)>,
    /// The parts of the agent, and whether each is degraded.
    pub(super) degraded: Vec<(&'static str, bool)>,
}

/// What the export counts.
#[derive(Debug, Default)]
pub(super) struct ExportMetrics {
    /// Events that the server has confirmed.
    pub(super) sent: Counter,
    /// Those of them that it had already.
    pub(super) repeats: Counter,
    /// Events that were never sent.
    pub(super) dropped: Counter,
    /// Events that wait to be sent.
    pub(super) waiting: Gauge,
}

impl ExportMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "export_sent",
            "Events that the server they are exported to has confirmed, repeats among them",
            self.sent.clone(),
        );
        registry.register(
            "export_repeats",
            "Exported events that the server had already, and dropped",
            self.repeats.clone(),
        );
        registry.register(
            "export_dropped",
            "Events that were not exported, because too many waited or the server refused them",
            self.dropped.clone(),
        );
        registry.register("export_waiting_events", "Events that wait to be exported", self.waiting.clone());
    }
}

/// A network namespace's port.
type Place = (Option<u32>, Port);

/// The metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    events: Family<OfEvent, Counter>,
    /// Of ports without a section in the configuration: one series a port could be 65,535 times seven.
    other_events: Family<OfOther, Counter>,
    lost: Counter,
    cleans: Family<OfClean, Counter>,
    ended: Counter,
    refused: Counter,
    refreshes: Counter,
    turned_away: Counter,
    subscribers: Gauge,
    clean_times: Histogram,
    restart_times: Histogram,
    delays: Histogram,
    pub(super) export: ExportMetrics,
    /// Since when ports have nobody, on the monotonic clock.
    freed: Mutex<HashMap<Place, u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            events: Family::default(),
            other_events: Family::default(),
            lost: Counter::default(),
            cleans: Family::default(),
            ended: Counter::default(),
            refused: Counter::default(),
            refreshes: Counter::default(),
            turned_away: Counter::default(),
            subscribers: Gauge::default(),
            clean_times: Histogram::new(CLEANS),
            restart_times: Histogram::new(RESTARTS),
            delays: Histogram::new(DELAYS),
            export: ExportMetrics::default(),
            freed: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Begins all series of these ports at 0: a rate has no first value otherwise, and a first conflict would be missed.
    pub(super) fn know(&self, ports: &[Port]) {
        for port in ports.iter().map(ToString::to_string) {
            for &event in WatchKind::VARIANTS {
                drop(self.events.get_or_create(&OfEvent { event, port: port.clone() }));
            }
            for &outcome in Outcome::VARIANTS.iter().filter(|outcome| Outcome::is_cleans(outcome)) {
                drop(self.cleans.get_or_create(&OfClean { outcome, port: port.clone() }));
            }
        }
    }

    /// Counts an event, by its port if the configuration names that.
    pub(super) fn count(&self, event: &WatchEvent, is_configured: bool) {
        if let WatchKind::Lost { count, .. } = event.kind {
            self.lost.inc_by(count.unwrap_or(0));
        }
        if !is_configured {
            self.other_events.get_or_create(&OfOther { event: event.kind.name() }).inc();
            return;
        }
        let labels = OfEvent { event: event.kind.name(), port: event.port.to_string() };
        self.events.get_or_create(&labels).inc();
        if let Some(delay) = event.delay {
            self.delays.observe(delay.as_secs_f64());
        }
        self.time_restart(event);
    }

    /// A restart, whoever does it, is the time from the moment that nobody has a port to the next listener there.
    fn time_restart(&self, event: &WatchEvent) {
        let Some(at) = event.monotonic_ns else { return };
        let place = (event.netns, event.port);
        let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            WatchKind::Free => {
                if freed.len() == MOST_FREED {
                    freed.clear();
                }
                freed.insert(place, at);
            }
            // By UDP, what is bound serves.
            WatchKind::Bind if event.port.protocol == Protocol::Tcp => {}
            WatchKind::Listen | WatchKind::Bind => {
                let took = freed.remove(&place).map(|since| Duration::from_nanos(at.saturating_sub(since)));
                if let Some(took) = took.filter(|&took| took <= LONGEST_RESTART) {
                    self.restart_times.observe(took.as_secs_f64());
                }
            }
            _ => {}
        }
    }

    /// Counts a clean that has ended so many; what a dry run took is not the time of a clean.
    pub(super) fn cleaned(&self, cleaned: &Cleaned, ended: usize, dry_run: bool) {
        let labels = OfClean { outcome: cleaned.outcome.name(), port: cleaned.port.to_string() };
        self.cleans.get_or_create(&labels).inc();
        self.ended.inc_by(ended as u64);
        if !dry_run {
            self.clean_times.observe(cleaned.elapsed.as_secs_f64());
        }
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn refreshed(&self) {
        self.refreshes.inc();
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.inc();
    }

    /// Counts a subscriber for as long as the guard lives.
    pub(super) fn subscriber(&self) -> Subscriber {
        self.subscribers.inc();
        Subscriber(self.subscribers.clone())
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.get()
    }

    pub(super) fn subscribers(&self) -> i64 {
        self.subscribers.get()
    }

    /// All metrics as text.
    pub(super) fn text(&self, exposition: Exposition, now: &Now) -> String {
        let mut all = Registry::default();
        register_process(&mut all);
        let registry = all.sub_registry_with_prefix("gatewatch");
        registry.register("events", "Events of watched ports", self.events.clone());
        registry.register(
            "other_ports_events",
            "Events of the ports that the configuration does not name, where every port is followed",
            self.other_events.clone(),
        );
        registry.register(
            "lost_events",
            "Events that were dropped before they could be read",
            self.lost.clone(),
        );
        registry.register(
            "cleans",
            "Requests to clean that were carried out, by their outcome",
            self.cleans.clone(),
        );
        registry.register("ended_processes", "Processes that were ended", self.ended.clone());
        registry.register(
            "refused_requests",
            "Cleans of watched ports that were refused",
            self.refused.clone(),
        );
        registry.register(
            "refreshes",
            "Fresh snapshots of all holders of the watched ports",
            self.refreshes.clone(),
        );
        registry.register(
            "turned_away_connections",
            "Connections that were refused because of the limits",
            self.turned_away.clone(),
        );
        registry.register("subscribers", "Readers of the event stream", self.subscribers.clone());
        registry.register(
            "clean_duration_seconds",
            "How long cleans took, from the request to the proof",
            self.clean_times.clone(),
        );
        registry.register(
            "restart_duration_seconds",
            "How long watched ports had nobody, from the last owner's release to the next one's listen, at most 10 minutes",
            self.restart_times.clone(),
        );
        registry.register(
            "event_delay_seconds",
            "From the kernel's timestamp of an event to the moment that the agent had it",
            self.delays.clone(),
        );
        self.export.register(registry);
        now.register(registry);
        exposition.text(&all)
    }
}

impl Now {
    fn register(&self, registry: &mut Registry) {
        let held = Family::<OfPort, Gauge>::default();
        for (port, is_held) in &self.held {
            held.get_or_create(&OfPort { port: port.to_string() }).set((*is_held).into());
        }
        registry.register("port_held", "Whether a process holds the port, in any network namespace", held);
        let degraded = Family::<OfPart, Gauge>::default();
        for &(reason, is_degraded) in &self.degraded {
            degraded.get_or_create(&OfPart { reason }).set(is_degraded.into());
        }
        registry.register("degraded", "What the agent can't do now; its status says why", degraded);
        let build = Family::<OfVersion, Gauge>::default();
        build.get_or_create(&OfVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The agent's version", build);
    }
}

/// What the agent itself uses, under the names that every exporter has for it.
fn register_process(registry: &mut Registry) {
    let Some(used) = Host::own_resources() else { return };
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(used.cpu.as_secs_f64());
    registry.register("process_cpu_seconds", "Processor time in all", cpu);
    let gauge = |value: f64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    for (name, help, value) in [
        ("process_start_time_seconds", "When it was started, in seconds since 1970", used.started),
        ("process_resident_memory_bytes", "Resident memory", used.resident),
        ("process_virtual_memory_bytes", "Virtual memory", used.virtual_memory),
        ("process_open_fds", "Open descriptors", used.descriptors),
        ("process_max_fds", "The limit of open descriptors", used.most_descriptors),
    ] {
        registry.register(name, help, gauge(value));
    }
}

/// Counts as one subscriber.
#[derive(Debug)]
pub(super) struct Subscriber(Gauge);

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.dec();
    }
}
