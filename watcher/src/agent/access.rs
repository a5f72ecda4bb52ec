//! Who may do what: reading is for root and one group, ending for those whom the configuration names, port by port.

use std::collections::{HashMap, HashSet};

use crate::config::{Allowed, Config, ConfigError};
use crate::platform::host::peer::Peer;
use crate::platform::host::users;

/// The configuration's users and groups, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Access {
    readers: Option<u32>,
    cleaners: HashMap<u16, Cleaners>,
}

#[derive(Debug, Default)]
struct Cleaners {
    users: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Access {
    /// From the configuration.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`] for a user or a group that this host has not got.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let readers = config.agent.group.as_deref().map(group).transpose()?;
        let mut cleaners = HashMap::new();
        for watched in &config.watch {
            cleaners.insert(watched.port, Cleaners::new(&watched.clean)?);
        }
        Ok(Self { readers, cleaners })
    }

    /// Whether it may read.
    pub(crate) fn may_read(&self, peer: &Peer) -> bool {
        may_all(peer) || self.readers.is_some_and(|group| peer.groups.contains(&group))
    }

    /// Whether it may have this port's stale owners ended.
    pub(crate) fn may_clean(&self, peer: &Peer, port: u16) -> bool {
        let named = |cleaners: &Cleaners| {
            cleaners.users.contains(&peer.uid)
                || peer.groups.iter().any(|group| cleaners.groups.contains(group))
        };
        may_all(peer) || self.cleaners.get(&port).is_some_and(named)
    }
}

/// Root, and the user whom the agent runs as: neither gains anything by asking.
fn may_all(peer: &Peer) -> bool {
    peer.uid == 0 || peer.uid == users::own()
}

impl Cleaners {
    fn new(allowed: &Allowed) -> Result<Self, ConfigError> {
        Ok(Self {
            users: allowed.users.iter().map(|name| user(name)).collect::<Result<_, _>>()?,
            groups: allowed.groups.iter().map(|name| group(name)).collect::<Result<_, _>>()?,
        })
    }
}

fn user(name: &str) -> Result<u32, ConfigError> {
    let number = name.parse().ok().or_else(|| users::user(name));
    number.ok_or_else(|| ConfigError::Unknown { what: "user", name: name.to_owned() })
}

fn group(name: &str) -> Result<u32, ConfigError> {
    let number = name.parse().ok().or_else(|| users::group(name));
    number.ok_or_else(|| ConfigError::Unknown { what: "group", name: name.to_owned() })
}
