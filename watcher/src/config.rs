//! The configuration file.

mod guard;
mod nats;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use strum::VariantNames;

pub(crate) use self::guard::GuardConfig;
#[cfg(all(target_os = "linux", feature = "nats"))]
pub(crate) use self::nats::NewStream;
pub(crate) use self::nats::{ExportConfig, NatsConfig};
use crate::duration;
use crate::model::{EndSignal, Port};
use crate::platform::Host;
use crate::platform::contract::{NotObeyed, Platform};
use crate::steps::identify::{ANY, Criteria, EndingRules, OPENCLAW_GATEWAY, Rules};

/// The longest file, in bytes: a configuration of ten thousand ports has a fifth of them.
const LONGEST: u64 = 1 << 20;

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file can't be read.
    #[error("the configuration {path} can't be read: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file can't be parsed, or has an impossible value.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A user other than root could change the file, which root would obey.
    #[error("{who} can change the configuration {path}, and root would obey it; `chown root {path} && chmod go-w {path}`", path = path.display())]
    Strangers {
        /// The file.
        path: PathBuf,
        /// Who can change it.
        who: String,
    },
    /// A port has two sections, which could say different things.
    #[error("port {0} has two [[watch]]: join them in one")]
    Twice(Port),
    /// A guard would let everybody in.
    #[error(
        "port {0}: a guard keeps out what does not match, and everything matches identity = \"any\": name who may bind it, as in guard = {{ users = [\"openclaw\"] }}"
    )]
    Guard(Port),
    /// The file names an unknown user or group.
    #[error("the {what} {name:?} is not known on this host: create it, or name another")]
    Unknown {
        /// Whether a user or a group was expected.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The events can't be exported so.
    #[error("[export.nats]: {0}")]
    Export(String),
    /// The file names an identity that is not defined, or defines one that can't be used.
    #[error("{0}")]
    Identity(String),
}

/// The whole configuration. Unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The watched ports; the first is the default port.
    #[serde(default)]
    pub(crate) watch: Vec<WatchedPort>,
    /// The host agent.
    #[serde(default)]
    pub(crate) agent: AgentConfig,
    /// The host agent's history on disk; without the section there is none.
    pub(crate) history: Option<HistoryConfig>,
    /// Where the history's records are sent, besides.
    #[serde(default)]
    pub(crate) export: ExportConfig,
    /// Rule sets that the user defines.
    #[serde(default)]
    identity: BTreeMap<String, RuleSet>,
}

/// A port under watch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WatchedPort {
    /// The port.
    #[serde(deserialize_with = "port")]
    pub(crate) port: Port,
    /// What may be ended on it.
    pub(crate) identity: Option<String>,
    /// Who may ask the agent to clean it, besides root.
    #[serde(default)]
    pub(crate) clean: Allowed,
    /// Whether the agent keeps others from binding it.
    #[serde(default)]
    pub(crate) guard: GuardConfig,
}

impl WatchedPort {
    /// A port whose gateway may be ended, at the request of root alone.
    #[must_use]
    pub(crate) fn by_default(port: Port) -> Self {
        Self { port, identity: None, clean: Allowed::default(), guard: GuardConfig::Off }
    }
}

/// The host agent's section.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentConfig {
    /// Its socket.
    pub(crate) socket: Option<PathBuf>,
    /// The group that may read from the agent, besides root.
    pub(crate) group: Option<String>,
    /// Which ports it follows.
    #[serde(default)]
    pub(crate) watch: Followed,
    /// Where metrics are served over TCP, besides.
    #[serde(default, deserialize_with = "address")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// Which ports the host agent follows. What may be ended is a matter of the `[[watch]]` sections alone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Followed {
    /// Those with a `[[watch]]`.
    #[default]
    Configured,
    /// Every port.
    All,
}

/// The section of the history on disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HistoryConfig {
    /// Its file.
    pub(crate) path: PathBuf,
    /// How long a record is kept.
    #[serde(deserialize_with = "keep")]
    pub(crate) keep: Duration,
    /// How large the file becomes before older records go.
    #[serde(deserialize_with = "size")]
    pub(crate) max_size: u64,
    /// Where kernel events are kept while no agent runs, in a BPF file system; not at all, if it is not said.
    pub(crate) pins: Option<PathBuf>,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        let keep = Duration::from_secs(14 * 24 * 3600);
        Self { path: Host::HISTORY.into(), keep, max_size: 256 << 20, pins: None }
    }
}

fn keep<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse_long(&text).filter(|keep| !keep.is_zero()).ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is not a duration: write it with its unit: 14d, 36h"))
    })
}

/// A size in bytes, with a unit of 1024 (`KiB`, `MiB`, `GiB`) or of 1000 (`kB`, `MB`, `GB`).
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    const LEAST: u64 = 1 << 20;
    let text = String::deserialize(deserializer)?;
    bytes(&text).filter(|&size| size >= LEAST).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is not a size of 1 MiB or more: write it with its unit: 256MiB"
        ))
    })
}

fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Users and groups, by name or number.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allowed {
    /// Users.
    #[serde(default)]
    pub(crate) users: Vec<String>,
    /// Groups.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Port, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Word(String),
    }
    let written = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Word(word) => word,
    };
    Port::with_protocol(&written)
        .map_err(|why| serde::de::Error::custom(format!("{written} is not a port: {why}")))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!("{text:?} is not an address with a port: write 127.0.0.1:9218"))
    })
}

/// A rule set: what an owner must be, and how it is ended where that is not the usual way.
#[derive(Debug, Clone)]
struct RuleSet {
    criteria: Criteria,
    ending: EndingRules,
}

impl<'de> Deserialize<'de> for RuleSet {
    /// The keys of [`Criteria`], with `signal`, `kill` and `term_timeout` among them.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = RuleSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule set")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RuleSet, A::Error> {
                let mut ending = EndingRules::default();
                let rest = WithoutEnding { map, ending: &mut ending };
                let criteria = Criteria::deserialize(MapAccessDeserializer::new(rest));
                let criteria = criteria.map_err(with_ending_keys)?;
                Ok(RuleSet { criteria, ending })
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// A rule set's keys without those that say how owners are ended, which go to `ending`. (serde's `flatten` would let unknown
/// keys through.)
struct WithoutEnding<'a, A> {
    map: A,
    ending: &'a mut EndingRules,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutEnding<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            match key.as_str() {
                "signal" => self.ending.signal = signal(&self.map.next_value::<String>()?)?,
                "kill" => self.ending.kill = self.map.next_value()?,
                "term_timeout" => {
                    self.ending.term_timeout = Some(timeout(&self.map.next_value::<String>()?)?);
                }
                _ => return seed.deserialize(key.into_deserializer()).map(Some),
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Names the keys that [`WithoutEnding`] takes among those that exist.
fn with_ending_keys<E: serde::de::Error>(error: E) -> E {
    let message = error.to_string();
    if message.starts_with("unknown field") {
        return E::custom(format!("{}, `signal`, `kill`, `term_timeout`", message.trim_end()));
    }
    error
}

fn signal<E: serde::de::Error>(text: &str) -> Result<EndSignal, E> {
    let name = text.to_uppercase();
    name.strip_prefix("SIG").unwrap_or(&name).parse().map_err(|_| {
        let known = EndSignal::VARIANTS.join(", ");
        E::custom(format!("{text:?} is not a signal that owners are asked to end with: there are {known}"))
    })
}

fn timeout<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    duration::parse(text).ok_or_else(|| {
        E::custom(format!("{text:?} is not a duration: write it with its unit: 600ms, 2s, 1m"))
    })
}

impl Config {
    /// Reads the named file, which must exist, or the default file, if it exists.
    ///
    /// # Errors
    /// [`ConfigError`], with line and column if the text is wrong.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let wanted = path.unwrap_or(Path::new(Host::CONFIG));
        let text = match read(wanted) {
            Ok(text) => text,
            Err(ConfigError::Read { error, .. }) if path.is_none() && error.kind() == ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        Self::parse(&text, wanted)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            let message = with_suggestion(&error.message().replace('\n', ", "));
            ConfigError::Parse { path: path.to_owned(), line, column, message }
        })?;
        if config.export.nats.is_some() && config.history.is_none() {
            let why = "what is sent comes from the history: add a [history], or leave the section out";
            return Err(ConfigError::Export(why.to_owned()));
        }
        let mut ports = HashSet::new();
        for watched in &config.watch {
            if !ports.insert(watched.port) {
                return Err(ConfigError::Twice(watched.port));
            }
            if let Some(name) = &watched.identity {
                config.rules(name)?;
            }
            if watched.guard == GuardConfig::Matches && watched.identity.as_deref() == Some(ANY) {
                return Err(ConfigError::Guard(watched.port));
            }
        }
        for (name, rules) in &config.identity {
            if name == ANY || name == OPENCLAW_GATEWAY {
                return Err(ConfigError::Identity(format!(
                    "the identity {name:?} is built in: choose another name for yours"
                )));
            }
            if rules.criteria.is_empty() {
                return Err(ConfigError::Identity(format!(
                    "the identity {name:?} says nothing: give it an exe, an argv or a comm"
                )));
            }
        }
        Ok(config)
    }

    /// A rule set by its name.
    ///
    /// # Errors
    /// [`ConfigError::Identity`] for a name that is neither built in nor configured.
    pub(crate) fn rules(&self, name: &str) -> Result<Rules, ConfigError> {
        match name {
            OPENCLAW_GATEWAY => return Ok(Rules::openclaw_gateway()),
            ANY => return Ok(Rules::any()),
            _ => {}
        }
        let configured = self
            .identity
            .get(name)
            .and_then(|set| Some(Rules::matching(set.criteria.clone())?.ending(set.ending)));
        configured.ok_or_else(|| {
            let known: Vec<&str> = self.identities().collect();
            ConfigError::Identity(format!(
                "the identity {name:?} is not known; the known ones are {}",
                known.join(", ")
            ))
        })
    }

    /// The names of all rule sets.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &str> {
        [OPENCLAW_GATEWAY, ANY].into_iter().chain(self.identity.keys().map(String::as_str))
    }

    /// What is valid and dangerous, as sentences.
    #[must_use]
    pub(crate) fn warnings(&self) -> Vec<String> {
        let is_root = |name: &String| name == "root" || name == "0";
        let others = |allowed: &Allowed| !allowed.users.iter().chain(&allowed.groups).all(is_root);
        let anybody = self
            .watch
            .iter()
            .filter(|watched| watched.identity.as_deref() == Some(ANY) && others(&watched.clean));
        let sentence = |watched: &WatchedPort| {
            format!(
                "port {}: identity = \"any\" lets users other than root have every process ended that holds the port, \
                 also one that got a listener of theirs without asking: name the owner by an identity of its own",
                watched.port
            )
        };
        let exposed = self.agent.metrics.filter(|at| !at.ip().is_loopback()).map(|at| {
            format!(
                "metrics = \"{at}\": everybody who reaches this address may read which ports are watched and what happens to \
                 them: use 127.0.0.1, or let a firewall admit your Prometheus alone"
            )
        });
        anybody.map(sentence).chain(exposed).collect()
    }

    /// The name of the rule set for a port.
    #[must_use]
    pub(crate) fn ruleset_of(&self, port: Port) -> &str {
        let watched = self.watch.iter().find(|watched| watched.port == port);
        watched.and_then(|watched| watched.identity.as_deref()).unwrap_or(OPENCLAW_GATEWAY)
    }
}

/// The file's text.
fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |error| ConfigError::Read { path: path.to_owned(), error };
    let file = Host::open_to_obey(path).map_err(|error| match error {
        NotObeyed::Unopened(error) => failed(error),
        NotObeyed::Strangers(who) => ConfigError::Strangers { path: path.to_owned(), who },
    })?;
    let mut text = String::new();
    let length = file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(length).is_ok_and(|length| length > LONGEST) {
        return Err(failed(std::io::Error::other("it is longer than a megabyte")));
    }
    Ok(text)
}

/// A parser's message about an unknown key, with the most similar known key.
fn with_suggestion(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = message.starts_with("unknown field").then(|| names.next()).flatten() else {
        return message.to_owned();
    };
    let alike = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match names.min_by_key(alike).filter(|name| alike(name) <= 1 + name.len() / 3) {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// Line and column, counted from 1, of a byte offset.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Rules of the configuration for any text: it is refused with a place in it, or each of its ports has rules that can be
/// used, and is no one's by accident.
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, Path::new("config.toml")) {
        Ok(config) => {
            for watched in &config.watch {
                assert_ne!(watched.port.number, 0);
                assert!(config.rules(config.ruleset_of(watched.port)).is_ok());
            }
            assert!(config.identity.keys().all(|name| config.rules(name).is_ok()));
        }
        Err(ConfigError::Parse { line, column, message, .. }) => {
            let lines: Vec<&str> = text.split('\n').collect();
            assert!((1..=lines.len()).contains(&line), "{line}");
            assert!(column >= 1 && column <= lines[line - 1].chars().count() + 1, "{line}:{column}");
            assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        }
        Err(
            error @ (ConfigError::Identity(_)
            | ConfigError::Twice(_)
            | ConfigError::Guard(_)
            | ConfigError::Export(_)),
        ) => {
            let why = error.to_string();
            assert!(!why.contains('\n'), "{why:?}");
        }
        Err(other) => unreachable!("{other} of a text alone"),
    }
}
