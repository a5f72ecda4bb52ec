//! What every command needs before it begins: logging, the configuration, the port, the observer.

use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::CliError;
use super::args::{BackendChoice, Format, ManyPorts, Matching, Observing, OnePort};
use crate::config::Config;
use crate::identify::Rules;
use crate::observe::{Interest, ObserveError, Observer};
use crate::platform::host;
use crate::port;

/// Logs go to standard error.
pub(super) fn logging(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(super::style::on_stderr())
        .without_time()
        .with_target(verbose > 1);
    let own = Targets::new().with_target("gatewatch", level);
    // A second call, in a test, changes nothing.
    let _ = tracing_subscriber::registry().with(format).with(own).try_init();
}

/// One thread is enough, and starts fastest.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Io { what: "the runtime can't start", error })
}

/// A command's surroundings.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) host: host::Host,
    pub(super) format: Format,
    pub(super) pace: Duration,
    backend: BackendChoice,
}

impl Setup {
    pub(super) fn new(observing: &Observing) -> Result<Self, CliError> {
        if observing.poll_interval.is_zero() {
            return Err(CliError::Usage("--poll-interval must be longer than nothing: 50ms".to_owned()));
        }
        Ok(Self {
            config: Config::load(observing.config.as_deref())?,
            host: host::Host::new(observing.netns.as_deref())?,
            format: observing.format,
            pace: observing.poll_interval,
            backend: observing.backend,
        })
    }

    /// Whether a backend was named.
    pub(super) fn names_backend(&self) -> bool {
        self.backend != BackendChoice::Auto
    }

    /// The port: the flag's, the environment's, the configuration's, 18789.
    pub(super) fn port(&self, given: &OnePort) -> u16 {
        given.port.unwrap_or_else(|| self.default_port())
    }

    /// The ports, each once.
    pub(super) fn ports(&self, given: &ManyPorts) -> Vec<u16> {
        let mut ports = given.ports.clone();
        if ports.is_empty() {
            ports.push(self.default_port());
        }
        let mut seen = std::collections::HashSet::new();
        ports.retain(|port| seen.insert(*port));
        ports
    }

    fn default_port(&self) -> u16 {
        let variable = std::env::var(port::VARIABLE).ok().filter(|text| !text.trim().is_empty());
        if let Some(text) = variable {
            match port::parse_variable(&text) {
                Ok(port) => return port,
                Err(why) => warn!("{}={text:?} is ignored: {why}", port::VARIABLE),
            }
        }
        self.config.watch.first().map_or(port::DEFAULT, |watched| watched.port)
    }

    /// Which owners may be ended: the named rule set, and all that the `--match` flags say. Without either, the
    /// configuration's rule set for the port.
    pub(super) fn rules(&self, matching: &Matching, port: u16) -> Result<Rules, CliError> {
        let custom = Rules::custom(
            matching.match_comm.as_deref(),
            matching.match_argv.clone(),
            matching.match_exe.clone(),
        );
        Ok(match (&matching.identity, custom) {
            (Some(name), Some(custom)) => self.config.rules(name)?.and(custom),
            (Some(name), None) => self.config.rules(name)?,
            (None, Some(custom)) => custom,
            (None, None) => self.config.rules(self.config.identity_of(port))?,
        })
    }

    /// The observer that was asked for. What a fallback loses is said once, on standard error.
    pub(super) fn observer(&self, ports: &[u16], interest: Interest) -> Result<Box<dyn Observer>, CliError> {
        observer(&self.host, self.backend, ports, interest, self.pace)
    }
}

/// As [`Setup::observer`].
pub(super) fn observer(
    host: &host::Host,
    backend: BackendChoice,
    ports: &[u16],
    interest: Interest,
    pace: Duration,
) -> Result<Box<dyn Observer>, CliError> {
    // Where no kernel tells of events, polling is no fallback that needs a word.
    if backend == BackendChoice::Ebpf || (backend == BackendChoice::Auto && host::HAS_EVENTS) {
        match host.by_events(ports, interest) {
            Ok((observer, losses)) => {
                for loss in losses {
                    warn!("{loss}");
                }
                return Ok(observer);
            }
            Err(error) if backend == BackendChoice::Ebpf => return Err(error.into()),
            Err(ObserveError::Unavailable { what, why, mend }) => {
                warn!("{what} can't be had ({why}), so ports are polled; {mend}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let lost = "polling sees no bind or conflict, no socket that is bound without listening, and of other users' \
                listeners not the process";
    warn!("{lost}");
    Ok(host.by_polling(ports, pace))
}
