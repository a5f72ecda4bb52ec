//! The two text formats in which metrics are asked for: OpenMetrics, and Prometheus's own.

use std::fmt::Write as _;

use hyper::HeaderMap;
use hyper::header::ACCEPT;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text";

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposition {
    OpenMetrics,
    Prometheus,
}

impl Exposition {
    /// The one that a request's `Accept` asks for; Prometheus's own is what every reader knows.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let asks = accept.is_some_and(|accept| accept.to_ascii_lowercase().contains(OPEN_METRICS));
        if asks { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// All metrics as text.
    pub(super) fn text(self, registry: &Registry) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, registry);
        match self {
            Self::OpenMetrics => text,
            Self::Prometheus => for_prometheus(&text),
        }
    }
}

/// OpenMetrics in Prometheus's own format, whose counters are described under the names of their samples.
fn for_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(out, "# HELP {name}{total} {help}");
            }
            let _ = writeln!(out, "# TYPE {name}{total} {kind}");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn a_counter_is_described_as_its_samples_are_named() {
        let mut registry = Registry::default();
        registry.register("seen", "What was seen", Counter::<u64>::default());
        registry.register("held", "Whether it is held", Gauge::<i64>::default());
        let wanted = "# HELP seen_total What was seen.\n# TYPE seen_total counter\nseen_total 0\n# HELP held Whether it is \
                      held.\n# TYPE held gauge\nheld 0\n";
        assert_eq!(Exposition::Prometheus.text(&registry), wanted);
        assert!(Exposition::OpenMetrics.text(&registry).ends_with("# EOF\n"));
    }

    #[test]
    fn only_who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5";
        let asked = |accept: Option<&str>| {
            let headers = accept.map(|accept| (ACCEPT, accept.parse().unwrap()));
            Exposition::asked(&headers.into_iter().collect())
        };
        assert_eq!(asked(Some(prometheus)), Exposition::OpenMetrics);
        for accept in [None, Some("*/*"), Some("text/plain"), Some("")] {
            assert_eq!(asked(accept), Exposition::Prometheus);
        }
    }
}
