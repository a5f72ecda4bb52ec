//! The configuration that is in force, and which ports are followed by it.

use std::collections::{BTreeMap, HashSet};

use super::access::{self, Access};
use super::guard::Whom;
use crate::config::{Config, ConfigError, Followed, GuardConfig, WatchedPort};
use crate::model::{Port, Protocol};
use crate::platform::Host;
use crate::platform::contract::ExportSystem as _;

/// The configuration, with its names looked up.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) access: Access,
    configured: HashSet<Port>,
    guarded: BTreeMap<Port, Whom>,
    /// Those whose ports can be followed here.
    pub(super) protocols: &'static [Protocol],
}

impl Settings {
    pub(super) fn new(mut config: Config) -> Result<Self, ConfigError> {
        if config.watch.is_empty() {
            config.watch.push(WatchedPort::by_default(Port::GATEWAY));
        }
        if let Some(nats) = &config.export.nats {
            Host::check_export(nats).map_err(ConfigError::Export)?;
        }
        let access = Access::new(&config)?;
        let configured = config.watch.iter().map(|watched| watched.port).collect();
        let mut guarded = BTreeMap::new();
        for watched in &config.watch {
            guarded.extend(whom(&watched.guard)?.map(|whom| (watched.port, whom)));
        }
        Ok(Self { config, access, configured, guarded, protocols: &Protocol::ALL })
    }

    /// The same where only these protocols can be followed.
    pub(super) fn limited_to(self, protocols: &'static [Protocol]) -> Self {
        Self { protocols, ..self }
    }

    /// The ports that have a section in the configuration, and may be cleaned: of what can't be followed, the agent does not
    /// know who holds it.
    pub(super) fn ports(&self) -> Vec<Port> {
        self.config.watch.iter().map(|watched| watched.port).filter(|&port| self.can_follow(port)).collect()
    }

    /// Whether the port has a section in the configuration, and can be followed.
    pub(super) fn is_configured(&self, port: Port) -> bool {
        self.can_follow(port) && self.configured.contains(&port)
    }

    /// The ports that are to be guarded, and who may bind them.
    pub(super) fn guarded(&self) -> BTreeMap<Port, Whom> {
        let guarded = self.guarded.iter().filter(|(port, _)| self.can_follow(**port));
        guarded.map(|(&port, whom)| (port, whom.clone())).collect()
    }

    fn can_follow(&self, port: Port) -> bool {
        self.protocols.contains(&port.protocol)
    }

    /// Whether the configuration says that what happens to the port is told.
    fn means(&self, port: Port) -> bool {
        self.follows_all() || self.configured.contains(&port)
    }

    /// Whether the port would be watched if its protocol could be followed here.
    pub(super) fn can_not_be_followed(&self, port: Port) -> bool {
        !self.can_follow(port) && self.means(port)
    }

    pub(super) fn follows_all(&self) -> bool {
        self.config.agent.watch == Followed::All
    }

    /// Whether what happens to the port is told.
    pub(super) fn follows(&self, port: Port) -> bool {
        self.can_follow(port) && self.means(port)
    }

    /// All ports of which what happens is told.
    pub(super) fn followed(&self) -> Vec<Port> {
        if self.follows_all() {
            return self.protocols.iter().copied().flat_map(Port::all).collect();
        }
        self.ports()
    }

    pub(super) fn described(&self) -> String {
        if self.follows_all() {
            return "every port".to_owned();
        }
        let ports: Vec<String> = self.ports().iter().map(Port::to_string).collect();
        ports.join(", ")
    }
}

/// Who may bind a port, with the users looked up; `None` if it is not guarded.
fn whom(guard: &GuardConfig) -> Result<Option<Whom>, ConfigError> {
    match guard {
        GuardConfig::Off => Ok(None),
        GuardConfig::Matches => Ok(Some(Whom::Matches)),
        GuardConfig::Named(named) => {
            let users = named.users.iter().map(|name| access::user(name)).collect::<Result<_, _>>()?;
            Ok(Some(Whom::Named { users, programs: named.programs.clone() }))
        }
    }
}
