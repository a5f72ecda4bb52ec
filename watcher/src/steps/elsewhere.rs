//! Elsewhere: gateways that listen on other ports than the one that was asked for.

use super::identify::{GATEWAY_PROCESSES, Rules};
use crate::model::{Port, Verdict};
use crate::platform::contract::{Observer, System};

/// A gateway that listens on other ports than the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayElsewhere {
    /// Its pid.
    pub pid: u32,
    /// Its ports.
    pub ports: Vec<u16>,
}

/// The gateways in the caller's network namespace, in the order of their pids.
pub(crate) fn gateways(
    system: &dyn System,
    observer: &mut dyn Observer,
    rules: &Rules,
    port: Port,
) -> Vec<GatewayElsewhere> {
    // To read the name of each process of a host takes longer than all else here.
    if !system.has_listeners() {
        return Vec::new();
    }
    let is_gateway =
        |pid: &u32| system.process(*pid).is_ok_and(|process| rules.judge(&process).verdict == Verdict::Match);
    let mut pids = system.processes_named(&GATEWAY_PROCESSES, observer.listening_elsewhere(port));
    pids.retain(is_gateway);
    let mut ports = observer.other_ports(port, &pids);
    let mut found: Vec<_> = ports.drain().filter(|(_, ports)| !ports.is_empty()).collect();
    found.sort_unstable();
    found.into_iter().map(|(pid, ports)| GatewayElsewhere { pid, ports }).collect()
}
