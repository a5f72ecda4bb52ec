//! Who may do what: root and one group may read; the users and groups that the configuration names for a port may end.

use std::collections::{HashMap, HashSet};

use super::limits::Standing;
use crate::config::{Allowed, Config, ConfigError};
use crate::model::Port;
use crate::platform::Host;
use crate::platform::contract::{AgentSystem, Peer};

/// The configuration's users and groups, as numeric ids.
#[derive(Debug, Default)]
pub(super) struct Access {
    readers: Option<u32>,
    cleaners: HashMap<Port, Cleaners>,
}

#[derive(Debug, Default)]
struct Cleaners {
    users: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Access {
    /// Looks up the configuration's users and groups.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`] for a user or a group unknown on this host.
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let readers = config.agent.group.as_deref().map(group).transpose()?;
        let mut cleaners = HashMap::new();
        for watched in &config.watch {
            cleaners.insert(watched.port, Cleaners::new(&watched.clean)?);
        }
        Ok(Self { readers, cleaners })
    }

    /// Whether the client may read.
    pub(super) fn may_read(&self, peer: &impl Peer<Host>) -> bool {
        may_all(peer) || self.readers.is_some_and(|group| peer.groups().contains(&group))
    }

    /// How the client stands, whatever it asks for.
    pub(super) fn standing(&self, peer: &impl Peer<Host>) -> Standing {
        if peer.uid() == 0 {
            Standing::Root
        } else if self.may_read(peer) || self.cleaners.values().any(|cleaners| cleaners.name(peer)) {
            Standing::Named
        } else {
            Standing::Stranger
        }
    }

    /// Whether the client may have this port's stale owners ended.
    pub(super) fn may_clean(&self, peer: &impl Peer<Host>, port: Port) -> bool {
        may_all(peer) || self.cleaners.get(&port).is_some_and(|cleaners| cleaners.name(peer))
    }
}

/// Root, and the user that the agent runs as: neither gains any right by asking.
fn may_all(peer: &impl Peer<Host>) -> bool {
    peer.uid() == 0 || peer.uid() == Host::own_user()
}

impl Cleaners {
    fn name(&self, peer: &impl Peer<Host>) -> bool {
        self.users.contains(&peer.uid()) || peer.groups().iter().any(|group| self.groups.contains(group))
    }

    fn new(allowed: &Allowed) -> Result<Self, ConfigError> {
        Ok(Self {
            users: allowed.users.iter().map(|name| user(name)).collect::<Result<_, _>>()?,
            groups: allowed.groups.iter().map(|name| group(name)).collect::<Result<_, _>>()?,
        })
    }
}

/// A user's number, by name or number.
///
/// # Errors
/// [`ConfigError::Unknown`].
pub(super) fn user(name: &str) -> Result<u32, ConfigError> {
    let number = name.parse().ok().or_else(|| Host::user(name));
    // The largest number is no user's (setuid(2)).
    number
        .filter(|&number| number != u32::MAX)
        .ok_or_else(|| ConfigError::Unknown { what: "user", name: name.to_owned() })
}

fn group(name: &str) -> Result<u32, ConfigError> {
    let number = name.parse().ok().or_else(|| Host::group(name));
    number.ok_or_else(|| ConfigError::Unknown { what: "group", name: name.to_owned() })
}
