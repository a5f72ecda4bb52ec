//! What is logged while the screen is shown: a line among its lines, because standard error is the same terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{LazyLock, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How many are kept.
const MOST: usize = 50;

static NOTES: LazyLock<Mutex<VecDeque<String>>> = LazyLock::new(Mutex::default);

/// Logs warnings here, in the place of standard error.
pub(in crate::cli) fn logging() {
    let format = tracing_subscriber::fmt::layer()
        .with_writer(Notes)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false);
    let own = Targets::new().with_target("gatewatch", LevelFilter::WARN);
    // `try_init`: harmless if a test calls it twice.
    let _ = tracing_subscriber::registry().with(format.with_filter(own)).try_init();
}

/// Takes what was logged since the last time.
pub(in crate::cli) fn take() -> Vec<String> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
}

/// Writes a line at a time.
struct Notes;

impl<'a> MakeWriter<'a> for Notes {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Notes {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = String::from_utf8_lossy(text);
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if notes.len() == MOST {
                notes.pop_front();
            }
            notes.push_back(line.to_owned());
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
