//! Everything that a command needs to run: logging, the runtime, the configuration, the port, the observer.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::io::{ErrorKind, stderr};
use std::net::IpAddr;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{BackendChoice, Format, Matching, Observing};
use super::exit::CliError;
use super::interrupts::Interrupts;
use super::ports::{Asked, Ports};
use super::progress::Progress;
use crate::config::Config;
use crate::model::{Backend, Port};
use crate::platform::Host;
use crate::platform::contract::{
    BoxedLayer, Chosen, Interest, ObserveError, Observer, Platform, ServiceSystem as _, choose,
};
use crate::steps::identify::{ANY, Rules};
use crate::steps::observe::limited::Limited;
use crate::steps::owner::Owners;
use crate::steps::waiting;

/// What polling means for who asks about owners.
pub(super) const NOT_ALL_IS_SEEN: &str = "not every process that holds one is seen";

/// Logs go to standard error; where that is the journal, with their fields.
pub(super) fn logging(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let progress = Progress::new(quiet);
    let format = tracing_subscriber::fmt::layer()
        .with_writer(progress.clone())
        .with_ansi(AutoStream::choice(&stderr()) != ColorChoice::Never)
        .without_time()
        .with_target(verbose > 1);
    let own = Targets::new().with_target("gatewatch", level);
    let format: BoxedLayer = Host::journal().unwrap_or_else(|| format.boxed());
    let waits = Targets::new().with_target(waiting::TARGET, LevelFilter::TRACE);
    // `try_init`: harmless if a test calls it twice.
    let _ = tracing_subscriber::registry()
        .with(format.with_filter(own))
        .with(progress.with_filter(waits))
        .try_init();
}

/// One thread is enough, and starts fastest.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Io { what: "the runtime can't start", error })
}

/// Everything that a command needs to run.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) host: Host,
    pub(super) format: Format,
    pub(super) poll_interval: Duration,
    backend: BackendChoice,
    /// Whether another network namespace is looked at.
    is_elsewhere: bool,
    /// Once an observer was chosen: what mends it that ports are polled, where kernel events were wanted.
    fallback: OnceCell<Option<String>>,
    /// Whether it was said that something is missing.
    is_told: Cell<bool>,
    pub(super) interrupts: Interrupts,
}

impl Context {
    pub(super) fn new(observing: &Observing) -> Result<Self, CliError> {
        if observing.poll_interval.is_zero() {
            return Err(CliError::Usage("--poll-interval must be longer than 0: try 50ms".to_owned()));
        }
        Ok(Self {
            config: Config::load(observing.config.as_deref())?,
            host: Host::new(observing.netns.as_deref())?,
            format: observing.format,
            poll_interval: observing.poll_interval,
            backend: observing.backend,
            is_elsewhere: observing.netns.is_some(),
            fallback: OnceCell::new(),
            is_told: Cell::new(false),
            interrupts: Interrupts::default(),
        })
    }

    /// Whether a backend was named.
    pub(super) fn names_backend(&self) -> bool {
        self.backend != BackendChoice::Auto
    }

    /// The ports that are meant, each once; if none is named, that of the environment, the configuration, the profile, or
    /// the gateway.
    pub(super) fn asked(&self, ports: &Ports) -> Vec<Asked> {
        let asked = ports.asked();
        if asked.is_empty() { vec![self.default_port().0.into()] } else { asked }
    }

    /// As [`Self::asked`], for a command that binds there.
    pub(super) fn asked_to_bind(&self, ports: &Ports) -> Result<Vec<Asked>, CliError> {
        let asked = self.asked(ports);
        self.exist(&asked)?;
        Ok(asked)
    }

    /// An address that this host has not got can be bound by nobody, so nothing can be proved there.
    fn exist(&self, asked: &[Asked]) -> Result<(), CliError> {
        let is_missing = |ip: &IpAddr| {
            let is_local = ip.is_loopback() || ip.is_unspecified();
            let bind = || std::net::UdpSocket::bind((*ip, 0));
            !is_local && bind().is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
        };
        // In another namespace this process can't look.
        let missing =
            asked.iter().flat_map(|asked| &asked.at).find(|ip| !self.is_elsewhere && is_missing(ip));
        match missing {
            Some(ip) => Err(CliError::Usage(format!("this host does not have the address {ip}"))),
            None => Ok(()),
        }
    }

    /// As [`Self::asked`], for a command that ends processes: says which port is meant if none is named.
    pub(super) fn asked_to_end(&self, ports: &Ports) -> Result<Vec<Asked>, CliError> {
        let asked = ports.asked();
        self.exist(&asked)?;
        if !asked.is_empty() {
            return Ok(asked);
        }
        let (port, why) = self.default_port();
        if self.format == Format::Text {
            warn!("no port was named, so port {port} is meant: {why}");
        }
        Ok(vec![port.into()])
    }

    /// The port if none is named, and where it is from.
    fn default_port(&self) -> (Port, &'static str) {
        let variable = std::env::var(Port::VARIABLE).ok().filter(|text| !text.trim().is_empty());
        if let Some(text) = variable {
            match Port::from_variable(&text) {
                Ok(port) => return (port, "OPENCLAW_GATEWAY_PORT says so"),
                Err(why) => warn!("{}={text:?} is ignored: {why}", Port::VARIABLE),
            }
        }
        if let Some(watched) = self.config.watch.first() {
            return (watched.port, "it is the configuration's first");
        }
        match std::env::var("OPENCLAW_PROFILE").ok().and_then(|profile| Port::of_profile(&profile)) {
            Some(port) => (port, "it belongs to the profile that OPENCLAW_PROFILE names"),
            None => (Port::GATEWAY, "it is the OpenClaw gateway's"),
        }
    }

    /// The configuration's rule set for a port.
    pub(super) fn rules_of(&self, port: Port) -> Result<Rules, CliError> {
        Ok(self.config.rules(self.config.ruleset_of(port))?)
    }

    /// Which owners may be ended: those that match the named rule set and all `--match` flags. Without either, the
    /// configuration's rule set for the port.
    pub(super) fn rules(&self, matching: &Matching, port: Port) -> Result<Rules, CliError> {
        let criteria = Rules::matching(matching.criteria.clone());
        let any = matching.any.then(|| ANY.to_owned());
        let rules = match (matching.identity.as_ref().or(any.as_ref()), criteria) {
            (Some(name), Some(criteria)) => self.config.rules(name)?.and(criteria),
            (Some(name), None) => self.config.rules(name)?,
            (None, Some(criteria)) => criteria,
            (None, None) => self.rules_of(port)?,
        };
        let rules = if matching.chosen.is_empty() { rules } else { rules.or_chosen(&matching.chosen) };
        Ok(match &matching.only {
            Some(only) => rules.narrowed_to(only),
            None => rules,
        })
    }

    /// The observer that was asked for. What is missing is said on standard error where it changes the answer: at once to a
    /// command that is told of everything, to others by [`Self::tell_fallback`].
    pub(super) fn observer(
        &self,
        asked: &[Asked],
        interest: Interest,
    ) -> Result<Box<dyn Observer>, CliError> {
        let ports: Vec<Port> = asked.iter().map(|asked| asked.port).collect();
        let chosen = observer(&self.host, self.backend, &ports, interest, self.poll_interval)?;
        let Chosen { observer, losses, fallback } = chosen;
        self.note(&losses, fallback.as_ref(), observer.backend());
        if interest == Interest::Everything {
            self.tell_losses(&losses);
            self.tell_fallback("no bind or conflict is seen");
        }
        let limited = asked.iter().filter(|asked| !asked.at.is_empty());
        let addresses: HashMap<Port, Vec<IpAddr>> =
            limited.map(|asked| (asked.port, asked.at.clone())).collect();
        Ok(if addresses.is_empty() { observer } else { Box::new(Limited::new(observer, addresses)) })
    }

    /// Keeps the fallback in mind. The details are for those who ask for them.
    fn note(&self, losses: &[String], fallback: Option<&ObserveError>, backend: Backend) {
        const LOST: &str = "polling sees no bind or conflict, no socket that is bound without listening, and of other \
                            users' listeners not the process";
        if !losses.is_empty() {
            info!("{}", losses.join("; "));
        }
        let mend = fallback.map(|error| match error {
            ObserveError::Unavailable { mend, .. } => briefly(mend).to_owned(),
            _ => "see `gatewatch doctor`".to_owned(),
        });
        if self.fallback.set(mend).is_ok() && backend == Backend::Poll {
            let why = fallback.map(|error| format!("{error}; ")).unwrap_or_default();
            info!("ports are polled: {why}{LOST}");
        }
    }

    /// Says that ports are polled although kernel events were wanted, and what that means for the answer.
    pub(super) fn tell_fallback(&self, so: &str) {
        if let Some(Some(mend)) = self.fallback.get() {
            self.tell(&format!("ports are polled, so {so}; {mend} (-v says why)"));
        }
    }

    /// Says that something is missing, in one line: the first one for which that holds.
    pub(super) fn tell(&self, what: &str) {
        if self.is_told.replace(true) {
            info!("{what}");
        } else {
            warn!("{what}");
        }
    }

    /// As [`Self::tell_fallback`], where some of these owners can't be seen.
    pub(super) fn tell_unseen(&self, all: &[Owners]) {
        let mut owners = all.iter().flat_map(|owners| owners.owners.iter().chain(&owners.clients));
        if owners.any(|owner| owner.pid.is_none() && owner.unheld().is_none()) {
            self.tell_fallback(NOT_ALL_IS_SEEN);
        }
    }

    fn tell_losses(&self, losses: &[String]) {
        // Each begins with what is lost.
        let lost: Vec<&str> = losses.iter().map(|loss| loss.split(':').next().unwrap_or(loss)).collect();
        if !lost.is_empty() {
            self.tell(&format!("{} (-v says why)", lost.join(", ")));
        }
    }
}

/// The first of several ways to mend something, without the details.
fn briefly(mend: &str) -> &str {
    let ends = [", or ", " (", "; "].iter().filter_map(|end| mend.find(end));
    &mend[..ends.min().unwrap_or(mend.len())]
}

/// The observer that was asked for, and what is missing.
pub(super) fn observer(
    host: &Host,
    backend: BackendChoice,
    ports: &[Port],
    interest: Interest,
    pace: Duration,
) -> Result<Chosen<dyn Observer>, CliError> {
    let by_events = || host.by_events(ports, interest);
    let by_polling = || -> Box<dyn Observer> { host.by_polling(ports, pace) };
    Ok(choose(backend.into(), by_events, by_polling)?)
}

#[cfg(test)]
mod tests {
    use super::briefly;

    #[test]
    fn the_first_mend_is_named_without_its_details() {
        for (mend, first) in [
            ("run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN", "run as root"),
            ("grant CAP_BPF and CAP_PERFMON (`--cap-add` of a container)", "grant CAP_BPF and CAP_PERFMON"),
            ("see `gatewatch doctor`; `--backend poll` works everywhere", "see `gatewatch doctor`"),
            ("mount /proc", "mount /proc"),
        ] {
            assert_eq!(briefly(mend), first);
        }
    }
}
