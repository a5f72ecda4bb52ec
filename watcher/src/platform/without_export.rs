//! For a program that exports nothing: on a system other than Linux, or built without the feature `nats`.

use super::Host;
use super::contract::{Delivery, ExportSystem, Exporter, Outgoing};
use crate::config::NatsConfig;

const WHY: &str = if cfg!(target_os = "linux") {
    "this gatewatch was built without NATS: leave the section out, or build it with the feature `nats`"
} else {
    "events are exported by the agent on Linux alone: leave the section out"
};

/// A connection: there is none, so there is no value of this type.
pub(crate) enum Absent {}

impl ExportSystem for Host {
    type Exporter = Absent;

    fn host_name() -> String {
        String::new()
    }

    fn check_export(_config: &NatsConfig) -> Result<(), String> {
        Err(WHY.to_owned())
    }

    async fn connect_export(_config: &NatsConfig) -> Result<Absent, String> {
        Err(WHY.to_owned())
    }
}

impl Exporter for Absent {
    async fn deliver(&self, _records: &[Outgoing]) -> Delivery {
        match *self {}
    }

    async fn lost(&self) -> String {
        match *self {}
    }
}
