//! The configuration file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use crate::identify::{ANY, OPENCLAW_GATEWAY, Rules};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/gatewatch/config.toml";

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("the configuration {path} can't be read: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It can't be parsed, or says something impossible.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// It names a user or a group that this host has not got.
    #[error("the {what} {name:?} is not known on this host: create it, or name another")]
    Unknown {
        /// What it is to be.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It names an identity that is defined nowhere, or one that can't be.
    #[error("{0}")]
    Identity(String),
}

/// The whole configuration. Unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The watched ports; the first is the default port.
    #[serde(default)]
    pub watch: Vec<WatchedPort>,
    /// The host agent.
    #[serde(default)]
    pub agent: AgentConfig,
    /// Rule sets of one's own.
    #[serde(default)]
    identity: BTreeMap<String, IdentityRules>,
}

/// A port under watch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedPort {
    /// The port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// What may be ended on it.
    pub identity: Option<String>,
    /// Who may ask the agent to clean it, besides root.
    #[serde(default)]
    pub clean: Allowed,
}

impl WatchedPort {
    /// A port whose gateway may be ended, by root alone.
    #[must_use]
    pub fn by_default(port: u16) -> Self {
        Self { port, identity: None, clean: Allowed::default() }
    }
}

/// The host agent's part.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its socket.
    pub socket: Option<PathBuf>,
    /// The group that may read, besides root.
    pub group: Option<String>,
}

/// Users and groups, by name or number.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Users.
    #[serde(default)]
    pub users: Vec<String>,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// What an owner must be: all that is given must match.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityRules {
    exe: Option<PathBuf>,
    #[serde(default, deserialize_with = "pattern")]
    argv: Option<Regex>,
    comm: Option<String>,
}

fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let port = u16::try_from(number).ok().filter(|&port| port != 0);
    port.ok_or_else(|| {
        serde::de::Error::custom(format!("{number} is no port: it is a number from 1 to 65535"))
    })
}

fn pattern<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Regex::new(&text).map(Some).map_err(|error| {
        let reason = error.to_string();
        serde::de::Error::custom(format!("{text:?} is no regular expression: {}", last_line(&reason)))
    })
}

/// The last line of a parser's message, which says what is wrong; those before it draw where.
#[must_use]
pub fn last_line(message: &str) -> &str {
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(message);
    line.trim().trim_start_matches("error: ")
}

impl Config {
    /// Reads the file that is named, which must be there, or the default one, if it is there.
    ///
    /// # Errors
    /// [`ConfigError`], with line and column where the text is at fault.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let wanted = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match fs::read_to_string(wanted) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ConfigError::Read { path: wanted.to_owned(), error }),
        };
        let config: Self = toml::from_str(&text).map_err(|error| {
            let (line, column) = place(&text, error.span().map_or(0, |span| span.start));
            let message = with_suggestion(&error.message().replace('\n', ", "));
            ConfigError::Parse { path: wanted.to_owned(), line, column, message }
        })?;
        for watched in &config.watch {
            if let Some(name) = &watched.identity {
                config.rules(name)?;
            }
        }
        for (name, rules) in &config.identity {
            if name == ANY || name == OPENCLAW_GATEWAY {
                return Err(ConfigError::Identity(format!(
                    "the identity {name:?} is built in: name yours differently"
                )));
            }
            if rules.exe.is_none() && rules.argv.is_none() && rules.comm.is_none() {
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
    pub fn rules(&self, name: &str) -> Result<Rules, ConfigError> {
        match name {
            OPENCLAW_GATEWAY => return Ok(Rules::openclaw_gateway()),
            ANY => return Ok(Rules::any()),
            _ => {}
        }
        let custom = self
            .identity
            .get(name)
            .and_then(|rules| Rules::custom(rules.comm.as_deref(), rules.argv.clone(), rules.exe.clone()));
        custom.ok_or_else(|| {
            let known: Vec<&str> =
                [OPENCLAW_GATEWAY, ANY].into_iter().chain(self.identity.keys().map(String::as_str)).collect();
            ConfigError::Identity(format!(
                "the identity {name:?} is not known; there are {}",
                known.join(", ")
            ))
        })
    }

    /// The name of the rule set for a port.
    #[must_use]
    pub fn identity_of(&self, port: u16) -> &str {
        let watched = self.watch.iter().find(|watched| watched.port == port);
        watched.and_then(|watched| watched.identity.as_deref()).unwrap_or(OPENCLAW_GATEWAY)
    }
}

/// A parser's message about an unknown key, with the known one that looks most like it.
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

/// Line and column, from 1, of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
