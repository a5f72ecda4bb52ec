//! Shows on a terminal what is waited for: a line of standard error that is gone once the wait is over.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::text::style;
use crate::steps::waiting::TARGET;

/// The lines, one for each wait.
#[derive(Clone)]
pub(super) struct Progress(MultiProgress);

impl Progress {
    /// On standard error, if that is a terminal.
    pub(super) fn new(quiet: bool) -> Self {
        let shown = !quiet && io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(MultiProgress::with_draw_target(target))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Progress {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|_| attributes.metadata().target() == TARGET) else {
            return;
        };
        let mut wait = Wait::default();
        attributes.record(&mut wait);
        let bar = self.0.add(ProgressBar::new_spinner());
        let left = wait.left;
        let remaining = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            if let Some(left) = left {
                let _ = write!(out, ", {} s left", left.saturating_sub(state.elapsed()).as_secs_f64().ceil());
            }
        };
        if let Ok(template) = ProgressStyle::with_template("{spinner} {msg}{remaining}") {
            bar.set_style(template.with_key("remaining", remaining));
        }
        bar.set_message(style::printable(&wait.what));
        bar.enable_steady_tick(Duration::from_millis(100));
        span.extensions_mut().insert(bar);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(bar) = context.span(&id).and_then(|span| span.extensions_mut().remove::<ProgressBar>()) {
            bar.finish_and_clear();
        }
    }
}

/// The fields of a wait.
#[derive(Default)]
struct Wait {
    what: String,
    left: Option<Duration>,
}

impl Visit for Wait {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "what" {
            value.clone_into(&mut self.what);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "left_ms" {
            self.left = Some(Duration::from_millis(value));
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

/// Standard error for what is logged: the lines make room for it.
impl<'a> MakeWriter<'a> for Progress {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Progress {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
