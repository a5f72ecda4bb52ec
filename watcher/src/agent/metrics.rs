//! Counters, in OpenMetrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::outcome::Outcome;
use crate::watch::{Line, What};

/// What `/metrics` is served as.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEvent {
    event: String,
    port: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClean {
    outcome: String,
    port: u32,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    events: Family<OfEvent, Counter>,
    lost: Counter,
    cleans: Family<OfClean, Counter>,
    ended: Counter,
    refused: Counter,
    refreshes: Counter,
    turned_away: Counter,
    subscribers: Gauge,
}

impl Metrics {
    pub(super) fn count(&self, line: &Line) {
        if line.event == What::Lost {
            self.lost.inc_by(line.count.unwrap_or(0));
        }
        let event = format!("{:?}", line.event).to_lowercase();
        self.events.get_or_create(&OfEvent { event, port: line.port.into() }).inc();
    }

    pub(super) fn cleaned(&self, port: u16, outcome: Outcome, ended: usize) {
        let outcome = serde_json::to_value(outcome).ok().and_then(|name| name.as_str().map(str::to_owned));
        let labels = OfClean { outcome: outcome.unwrap_or_default(), port: port.into() };
        self.cleans.get_or_create(&labels).inc();
        self.ended.inc_by(ended as u64);
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

    /// A subscriber, for as long as the guard lives.
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

    /// All of it as text.
    pub(super) fn text(&self) -> String {
        let mut registry = Registry::with_prefix("gatewatch");
        registry.register("events", "Events of watched ports", self.events.clone());
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
        registry.register("refused_requests", "Requests that the caller may not make", self.refused.clone());
        registry.register(
            "refreshes",
            "Fresh looks at all holders of the watched ports",
            self.refreshes.clone(),
        );
        registry.register(
            "turned_away_connections",
            "Connections beyond the limits",
            self.turned_away.clone(),
        );
        registry.register("subscribers", "Readers of the event stream", self.subscribers.clone());
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &registry);
        text
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
